package cluster_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

// desk is one View with a clock and a token counter, fed by hand.
type desk struct {
	t   testing.TB
	now core.Time
	*cluster.View
	tokens   core.Token
	revision core.Revision
}

// newDesk is node n1 of a cluster of n1 to n{nodes}, whose incarnations are 101, 102, ...
func newDesk(t testing.TB, nodes int) *desk {
	d := &desk{t: t, now: core.Time(time.Hour), View: cluster.New("n1", 101), revision: 100}
	for i := range nodes {
		d.join(nodeID(i + 1))
	}
	return d
}

func nodeID(i int) core.NodeID { return core.NodeID(fmt.Sprintf("n%d", i)) }

func (d *desk) put(key string, value []byte) {
	d.t.Helper()
	d.revision++
	if err := d.Take(core.Change{Key: key, Value: value, Revision: d.revision}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) join(id core.NodeID) {
	d.put(cluster.NodeKey(id), cluster.NodeRecord{Version: "1"}.Encode())
}

// member returns the member with this id.
func (d *desk) member(id core.NodeID) core.Member {
	for _, m := range d.Members() {
		if m.ID == id {
			return m
		}
	}
	d.t.Fatalf("%s is no member", id)
	return core.Member{}
}

func (d *desk) own(shard int, id core.NodeID) {
	m := d.member(id)
	d.put(cluster.ShardKey(shard), cluster.ShardRecord{Owner: m.ID, Incarnation: m.Incarnation}.Encode())
}

// ownAll gives every shard to one node.
func (d *desk) ownAll(id core.NodeID) {
	for i := range cluster.Shards {
		d.own(i, id)
	}
}

func (d *desk) claim(id core.NodeID, incarnation core.Revision, survivors ...cluster.Process) {
	d.put(claimKey(id, incarnation), cluster.ClaimRecord{By: "n1", Survivors: survivors}.Encode())
}

func claimKey(id core.NodeID, incarnation core.Revision) string {
	return fmt.Sprintf("claims/%s/%d", id, incarnation)
}

func (d *desk) hear(ev core.Event) []core.Effect {
	return d.Due(d.now, d.token, d.Hear(d.now, ev, nil))
}

func (d *desk) due() []core.Effect { return d.Due(d.now, d.token, nil) }

func (d *desk) token() core.Token { d.tokens++; return d.tokens }

// wait lets time go by, waking the View in time, and returns what it asked for.
func (d *desk) wait(span time.Duration) (out []core.Effect) {
	end := d.now.Add(span)
	for {
		at, _ := d.Deadline()
		if d.now = min(max(at, d.now), end); at > end {
			return out
		}
		out = append(out, d.due()...)
		if at, why := d.Deadline(); at <= d.now {
			d.t.Fatalf("Deadline is over right after Due: %s", why)
		}
	}
}

func only[E core.Effect](effects []core.Effect) (some []E) {
	for _, e := range effects {
		if e, ok := e.(E); ok {
			some = append(some, e)
		}
	}
	return some
}

func claims(effects []core.Effect) (of []core.NodeID) {
	for _, s := range only[core.Store](effects) {
		for _, op := range s.Ops {
			if id, ok := strings.CutPrefix(op.Key, "claims/"); ok && op.Value != nil {
				of = append(of, core.NodeID(id[:strings.IndexByte(id, '/')]))
			}
		}
	}
	return of
}

// Nodes of all versions must compute these alike: a change here breaks rolling upgrades.
func TestHashesNeverChange(t *testing.T) {
	for tenant, want := range map[core.TenantID]int{"": 37, "a": 12, "demo": 22, "acme": 15} {
		if got := cluster.ShardOf(tenant); got != want {
			t.Errorf("ShardOf(%q) = %d, want %d", tenant, got, want)
		}
	}
	d := newDesk(t, 5)
	var survivors []cluster.Process
	for i := range 5 {
		survivors = append(survivors, cluster.Process{ID: nodeID(i + 1), Incarnation: core.Revision(101 + i)})
	}
	d.claim("old", 7, survivors...)
	var got []core.NodeID
	for i := range 10 {
		id, _ := d.Resolve("old", 7, core.InteractionID(fmt.Sprintf("int_%d", i)))
		got = append(got, id)
	}
	want := []core.NodeID{"n2", "n2", "n3", "n5", "n3", "n1", "n4", "n1", "n3", "n1"}
	if !slices.Equal(got, want) {
		t.Errorf("survivors chosen: %q, want %q", got, want)
	}
}

func TestTenantsSpreadOverShards(t *testing.T) {
	for _, form := range []string{"t%d", "tenant-%04d", "customer%d.example.com", "%08x"} {
		var load [cluster.Shards]int
		for i := range 6400 {
			load[cluster.ShardOf(core.TenantID(fmt.Sprintf(form, i*7919)))]++
		}
		if low, high := slices.Min(load[:]), slices.Max(load[:]); low < 50 || high > 200 {
			t.Errorf("%s: between %d and %d tenants on a shard, 100 on average", form, low, high)
		}
	}
}

// What a dead node leaves is divided evenly, whatever the nodes are called.
func TestSurvivorsShareEvenly(t *testing.T) {
	for _, names := range [][]string{{"n1", "n2", "n3"}, {"node-a", "node-b", "node-c", "node-d"}, {"10.0.0.1", "10.0.0.2", "10.0.0.3"}, {"a", "b"}} {
		v := cluster.New("x", 1)
		var survivors []cluster.Process
		for i, name := range names {
			r := core.Revision(i + 10)
			if err := v.Take(core.Change{Key: cluster.NodeKey(core.NodeID(name)), Value: cluster.NodeRecord{}.Encode(), Revision: r}); err != nil {
				t.Fatal(err)
			}
			survivors = append(survivors, cluster.Process{ID: core.NodeID(name), Incarnation: r})
		}
		if err := v.Take(core.Change{Key: "claims/x/1", Value: cluster.ClaimRecord{Survivors: survivors}.Encode(), Revision: 50}); err != nil {
			t.Fatal(err)
		}
		load := map[core.NodeID]int{}
		const calls = 10_000
		r := core.NewRand([32]byte{1})
		for range calls {
			id, ok := v.Resolve("x", 1, r.Interaction(core.Time(time.Hour)))
			if !ok {
				t.Fatal("nobody")
			}
			load[id]++
		}
		for _, name := range names {
			share := float64(load[core.NodeID(name)]) / calls * float64(len(names))
			if math.Abs(share-1) > 0.1 {
				t.Errorf("%s of %v gets %.2f of its share", name, names, share)
			}
		}
	}
}

// When one more dies, only its own records and shards move; when one joins, what moves
// moves to it.
func TestMinimalMovement(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.IntRange(2, 9).Draw(rt, "nodes")
		d := newDesk(t, nodes)
		var all []cluster.Process
		for _, m := range d.Members() {
			all = append(all, cluster.Process{ID: m.ID, Incarnation: m.Incarnation})
		}
		leaves := rapid.IntRange(0, nodes-1).Draw(rt, "who is missing")
		d.claim("x", 1, all...)
		d.claim("y", 1, slices.Delete(slices.Clone(all), leaves, leaves+1)...)
		for i := range 50 {
			id := core.InteractionID(fmt.Sprint("int_", i))
			with, _ := d.Resolve("x", 1, id)
			without, _ := d.Resolve("y", 1, id)
			if with != without && with != all[leaves].ID {
				rt.Fatalf("%s: %s acts with %s there, %s without", id, with, all[leaves].ID, without)
			}
		}
	})
}

func TestWhoActs(t *testing.T) {
	d := newDesk(t, 4) // n1/101 to n4/104
	resolve := func(id core.NodeID, incarnation core.Revision, want core.NodeID) {
		t.Helper()
		if got, ok := d.Resolve(id, incarnation, "int_1"); got != want || ok != (want != "") {
			t.Errorf("%s/%d: %q %v, want %q", id, incarnation, got, ok, want)
		}
	}
	resolve("n2", 102, "n2")
	resolve("n2", 50, "n2") // restarted unmissed
	resolve("n2", 500, "")  // no such process ever was
	resolve("n9", 9, "")

	d.put(cluster.NodeKey("n2"), nil)
	resolve("n2", 102, "") // its lease has ended; the claim will come
	d.join("n2")           // n2/106 instead
	resolve("n2", 102, "n2")
	d.put(cluster.NodeKey("n2"), nil)
	d.claim("n2", 106, cluster.Process{ID: "n3", Incarnation: 103})
	resolve("n2", 106, "n3")
	resolve("n2", 102, "n3") // was n2/106's own
	resolve("n2", 107, "")
	d.claim("n2", 102, cluster.Process{ID: "n4", Incarnation: 104}) // by one with old knowledge
	resolve("n2", 102, "n3")
	d.join("n2")
	resolve("n2", 102, "n3")

	d.put(cluster.NodeKey("n3"), nil)
	resolve("n2", 102, "")
	d.claim("n3", 103, cluster.Process{ID: "n1", Incarnation: 101})
	resolve("n2", 102, "n1")
	resolve("n3", 103, "n1")
}

// Claims that close a circle are written by no node. Whoever writes them anyway stops nobody.
func TestCirclesEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		v := cluster.New("n1", 1)
		some := rapid.Custom(func(rt *rapid.T) cluster.Process {
			return cluster.Process{ID: nodeID(rapid.IntRange(1, 4).Draw(rt, "id")), Incarnation: core.Revision(rapid.IntRange(1, 4).Draw(rt, "incarnation"))}
		})
		for i := range rapid.IntRange(0, 30).Draw(rt, "changes") {
			p := some.Draw(rt, "of")
			c := core.Change{Key: claimKey(p.ID, p.Incarnation), Revision: core.Revision(rapid.IntRange(1, 5).Draw(rt, "revision"))}
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				c = core.Change{Key: cluster.NodeKey(p.ID), Value: cluster.NodeRecord{}.Encode(), Revision: p.Incarnation}
			case 1:
				c = core.Change{Key: cluster.NodeKey(p.ID), Revision: core.Revision(i)}
			default:
				c.Value = cluster.ClaimRecord{Survivors: rapid.SliceOfN(some, 0, 4).Draw(rt, "survivors")}.Encode()
			}
			if err := v.Take(c); err != nil {
				rt.Fatal(err)
			}
			v.Anchored("t", "calls/1", p)
			v.Due(core.Time(i), func() core.Token { return core.Token(i + 1) }, nil)
		}
		for i := 1; i <= 4; i++ {
			id, ok := v.Resolve(nodeID(i), core.Revision(i), "int_1")
			if _, there := v.Node(id); ok != (id != "") || ok && !there {
				rt.Fatalf("%q %v", id, ok)
			}
		}
	})
}

func TestRecordsOfOtherVersions(t *testing.T) {
	v := cluster.New("n1", 5)
	for _, c := range []core.Change{
		{Key: "nodes/n1", Value: []byte(`{"v":2,"sip":{"udp":"127.0.0.1:5060","tls":"127.0.0.1:5061"},"peer":"127.0.0.1:7","later":{"x":[1]}}`), Revision: 5},
		{Key: "nodes/n2", Value: []byte(`{}`), Revision: 6},
		{Key: "shards/063", Value: []byte(`{"owner":"n2","incarnation":6,"weight":3}`), Revision: 7},
		{Key: "claims/n3/4", Value: []byte(`{"survivors":[{"id":"n2","incarnation":6,"share":0.5}]}`), Revision: 8},
		{Key: "drains/n1", Value: []byte(`{"reason":"why not"}`), Revision: 9},
		{Key: "flags/n1", Value: []byte(`of a newer version`), Revision: 10},
		{Key: "nodes/n9", Tenant: "t", Value: []byte(`not the cluster's`), Revision: 11},
	} {
		if err := v.Take(c); err != nil {
			t.Errorf("%s: %v", c.Key, err)
		}
	}
	if m := v.Self(); m.Addr != netip.MustParseAddrPort("127.0.0.1:7") || !v.Draining() || len(v.Members()) != 2 {
		t.Errorf("%v, draining %v, %v", m, v.Draining(), v.Members())
	}
	if r, ok := v.Node("n1"); !ok || r.SIP["tls"].Port() != 5061 {
		t.Errorf("%v %v", r, ok)
	}
	if o, epoch, ok := v.Owner(63); o.ID != "n2" || epoch != 7 || !ok {
		t.Errorf("%v %d %v", o, epoch, ok)
	}
	if id, ok := v.Resolve("n3", 4, "int_1"); id != "n2" || !ok {
		t.Errorf("%q %v", id, ok)
	}
}

// What can't be read is said, and counts as there with nothing in it.
func TestUnreadable(t *testing.T) {
	d := newDesk(t, 2)
	for _, c := range []core.Change{
		{Key: "nodes/", Value: []byte(`{}`)}, {Key: "nodes/a/b", Value: []byte(`{}`)},
		{Key: "shards/64", Value: []byte(`{}`)}, {Key: "shards/064", Value: []byte(`{}`)}, {Key: "shards/-01", Value: []byte(`{}`)}, {Key: "shards/+01", Value: []byte(`{}`)},
		{Key: "claims/a", Value: []byte(`{}`)}, {Key: "claims/a/0", Value: []byte(`{}`)}, {Key: "claims/a/01", Value: []byte(`{}`)}, {Key: "claims/a/1/2", Value: []byte(`{}`)},
		{Key: "claims/a/3", Value: []byte(`{"survivors":[{"id":""}]}`)},
		{Key: "nodes/n2", Value: []byte(`{"peer":"nowhere"}`), Revision: 200},
		{Key: "shards/005", Value: []byte(`]`), Revision: 201},
		{Key: "drains/n1", Value: []byte(`yes`), Revision: 202},
	} {
		if err := d.Take(c); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", c.Key)) {
			t.Errorf("%s: %v", c.Key, err)
		}
	}
	if !d.Alive("n2", 200) || !d.Draining() {
		t.Error("the keys do not count as there")
	}
	if _, epoch, ok := d.Owner(5); epoch != 201 || ok {
		t.Error("the shard has an owner")
	}
	for _, shard := range []int{-1, cluster.Shards} {
		if _, _, ok := d.Owner(shard); ok {
			t.Errorf("shard %d", shard)
		}
	}
}

func FuzzTake(f *testing.F) {
	f.Add("nodes/n1", string(cluster.NodeRecord{SIP: map[core.Transport]netip.AddrPort{core.UDP: netip.MustParseAddrPort("[::1]:5060")}, Version: "1", StartedAt: 1}.Encode()), int64(7), false)
	f.Add("nodes/n1", `{"peer":"1.2.3.4:5","started_at":"2026-01-01T00:00:00Z"}`, int64(7), false)
	f.Add("shards/007", string(cluster.ShardRecord{Owner: "n1", Incarnation: 7}.Encode()), int64(8), false)
	f.Add("claims/n2/3", string(cluster.ClaimRecord{By: "n1", Survivors: []cluster.Process{{ID: "n1", Incarnation: 7}}, At: 5}.Encode()), int64(9), false)
	f.Add("drains/n1", string(cluster.DrainRecord{By: "me", At: 5}.Encode()), int64(10), true)
	f.Add("claims//", "null", int64(-1), false)
	f.Fuzz(func(t *testing.T, key, value string, revision int64, deleted bool) {
		v := cluster.New("n1", 7)
		_ = v.Take(core.Change{Key: "nodes/n1", Value: []byte(`{}`), Revision: 7})
		c := core.Change{Key: key, Value: []byte(value), Revision: core.Revision(revision)}
		if deleted {
			c.Value = nil
		}
		err := v.Take(c)
		if err != nil && !strings.Contains(err.Error(), "cluster record") {
			t.Fatalf("%v", err)
		}
		now := core.Time(time.Hour)
		token := func() core.Token { return 1 }
		v.Anchored("t", "calls/1", cluster.Process{ID: "n2", Incarnation: 3})
		v.Due(now, token, nil)
		for _, m := range v.Members() {
			v.Hear(now, core.PeerUp{Peer: m}, nil)
			v.Hear(now, core.PeerDead{Peer: m}, nil)
		}
		v.Due(now.Add(time.Second), token, nil)
		v.Resolve("n2", 3, "int_1")
		if _, ok := v.Node("n1"); ok && err == nil && !deleted && key == "nodes/n1" {
			again, _ := v.Node("n1")
			var back cluster.NodeRecord
			if err := json.Unmarshal(again.Encode(), &back); err != nil {
				t.Fatalf("what was read can't be written and read: %v", err)
			}
		}
	})
}
