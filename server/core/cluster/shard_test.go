package cluster_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

// given returns the shards that the Stores of one step write, with their new owners, and
// checks that each is guarded by its epoch.
func (d *desk) given(out []core.Effect) map[int]core.NodeID {
	d.t.Helper()
	moved := map[int]core.NodeID{}
	for _, s := range only[core.Store](out) {
		for _, op := range s.Ops {
			var i int
			if n, err := fmt.Sscanf(op.Key, "shards/%03d", &i); n != 1 || err != nil {
				continue
			}
			var r cluster.ShardRecord
			if err := json.Unmarshal(op.Value, &r); err != nil {
				d.t.Fatal(err)
			}
			if _, epoch, _ := d.Owner(i); revisionIn(s.If, op.Key) != epoch {
				d.t.Errorf("shard %d is written without its epoch", i)
			}
			if revisionIn(s.If, cluster.NodeKey(r.Owner)) != r.Incarnation {
				d.t.Errorf("shard %d is given to %s without comparing that it is there", i, r.Owner)
			}
			moved[i] = r.Owner
		}
	}
	return moved
}

// commit carries a View's Stores out, as the store would with nobody else there.
func (d *desk) commit(out []core.Effect) (more []core.Effect) {
	for _, s := range only[core.Store](out) {
		d.revision++
		for _, op := range s.Ops {
			if err := d.Take(core.Change{Key: op.Key, Value: op.Value, Revision: d.revision}); err != nil {
				d.t.Fatal(err)
			}
		}
		more = append(more, d.hear(core.Stored{Token: s.Token, Revision: d.revision})...)
	}
	return more
}

func TestFirstNodeTakesAllShards(t *testing.T) {
	d := newDesk(t, 1)
	out := d.due()
	if got := d.given(out); len(got) != cluster.Shards {
		t.Fatalf("%d shards", len(got))
	}
	if again := d.due(); len(again) > 0 {
		t.Errorf("asked twice: %v", again)
	}
	if more := d.commit(out); len(more) > 0 {
		t.Errorf("asked again: %v", more)
	}
	if at, _ := d.Deadline(); at != core.Never {
		t.Errorf("woken at %v for nothing", at)
	}
}

// A refused Store is made again when the watch has shown why, or else after a second.
func TestRefusedIsTriedAgain(t *testing.T) {
	d := newDesk(t, 1)
	s := only[core.Store](d.due())[0]
	d.hear(core.Unknown{Token: s.Token})
	if out := d.hear(core.Conflict{Token: s.Token}); len(out) > 0 {
		t.Fatal("tried again with the same Guards at once")
	}
	d.put(cluster.ShardKey(3), nil)
	if out := d.due(); len(out) > 0 {
		t.Fatal("tried again, and no Guard differs")
	}
	out := d.wait(time.Second)
	if len(d.given(out)) != cluster.Shards {
		t.Fatal("not tried again after a second")
	}
	d.hear(core.Conflict{Token: only[core.Store](out)[0].Token})
	d.put(cluster.ShardKey(3), cluster.ShardRecord{Owner: "n1", Incarnation: 101}.Encode())
	if got := d.given(d.due()); len(got) != cluster.Shards-1 {
		t.Errorf("%d shards, want those that are still free", len(got))
	}
}

func TestFencedDoesNothingMore(t *testing.T) {
	d := newDesk(t, 1)
	d.due()
	d.hear(core.Fenced{}) // of none of its Stores
	d.join("n2")
	if out := append(d.due(), d.wait(time.Minute)...); len(out) > 0 {
		t.Errorf("%v", out)
	}
	d = newDesk(t, 2).up()
	d.put(cluster.NodeKey("n1"), nil)
	if out := append(d.hear(core.PeerDead{Peer: d.member("n2")}), d.wait(time.Minute)...); len(out) > 0 {
		t.Errorf("claimed, and yet: %v", out)
	}
	if d.Alive("n1", 101) || d.Self().ID != "n1" {
		t.Error("does not know that its record is gone")
	}
}

// A process whose lease alone has ended goes on; one that was claimed does not, though the
// claim is gone when it looks.
func TestRebirth(t *testing.T) {
	for _, claimed := range []bool{false, true} {
		d := newDesk(t, 2)
		d.due()
		d.put(cluster.NodeKey("n1"), nil)
		if claimed {
			d.claim("n1", 101, cluster.Process{ID: "n2", Incarnation: 102})
			d.put(claimKey("n1", 101), nil)
		}
		d.join("n1")
		if incarnation, is := d.Recorded(); incarnation != d.revision || is != claimed {
			t.Errorf("recorded as %d, claimed %v; want %d, %v", incarnation, is, d.revision, claimed)
		}
		d.Reborn(d.revision)
		if out := only[core.Store](d.due()); len(out) > 0 == claimed {
			t.Errorf("claimed %v: %v", claimed, out)
		}
	}
}

// A member gets its shards when it has been heard for a second, eight at a time, each once,
// and nothing else moves.
func TestJoin(t *testing.T) {
	d := newDesk(t, 1)
	d.commit(d.due())
	d.join("n2")
	d.hear(core.PeerUp{Peer: d.member("n2")})
	if out := d.wait(999 * time.Millisecond); len(only[core.Store](out)) > 0 {
		t.Fatal("handed over to one that has just come")
	}
	moved, out := map[int]bool{}, d.wait(time.Millisecond)
	for rounds := 0; len(out) > 0; rounds++ {
		got := d.given(out)
		if len(got) > 8 || rounds > 20 {
			t.Fatalf("%d at once, round %d", len(got), rounds)
		}
		for i, to := range got {
			if to != "n2" || moved[i] {
				t.Fatalf("shard %d to %s, moved before: %v", i, to, moved[i])
			}
			moved[i] = true
		}
		out = d.commit(out)
	}
	if len(moved) < 16 || len(moved) > 48 {
		t.Errorf("%d of 64 shards moved", len(moved))
	}
}

func TestNothingIsHandedOverUnderSuspicion(t *testing.T) {
	d := newDesk(t, 3)
	d.ownAll("n1")
	d.hear(core.PeerUp{Peer: d.member("n2")})
	d.hear(core.PeerUp{Peer: d.member("n3")})
	d.silent("n3")
	for range 20 {
		out := d.wait(100 * time.Millisecond)
		for _, whom := range asked(out) {
			out = append(out, d.told(whom, "n3", true)...)
		}
		if got := d.given(out); len(got) > 0 {
			t.Fatalf("%v", got)
		}
	}
	if got := d.given(d.hear(core.PeerUp{Peer: d.member("n3")})); len(got) == 0 {
		t.Error("nothing is handed over to n2 when n3 is heard again")
	}
}

// A drain hands over everything, also under suspicion, and to nobody who drains.
func TestDrainHandsOver(t *testing.T) {
	d := newDesk(t, 4)
	d.ownAll("n1")
	d.put(cluster.DrainKey("n1"), cluster.DrainRecord{}.Encode())
	d.put(cluster.DrainKey("n2"), cluster.DrainRecord{}.Encode())
	if !d.Draining() || !slices.Equal(d.Drains(), []core.NodeID{"n1", "n2"}) {
		t.Fatal("does not know that it drains")
	}
	d.hear(core.PeerUp{Peer: d.member("n2")})
	if out := d.wait(time.Minute); len(d.given(out)) > 0 {
		t.Fatal("there is nobody to hand over to")
	}
	d.silent("n3")
	if _, ok := d.Successor("int_1"); ok {
		t.Fatal("a call has nowhere to go")
	}
	moved, out := 0, d.hear(core.PeerUp{Peer: d.member("n4")})
	for len(d.given(out)) > 0 {
		for _, to := range d.given(out) {
			if to != "n4" {
				t.Fatalf("to %s", to)
			}
			moved++
		}
		out = d.commit(out)
	}
	if m, ok := d.Successor("int_1"); moved != cluster.Shards || !ok || m.ID != "n4" {
		t.Errorf("%d moved; a call goes to %v", moved, m)
	}
}

// A free shard does not wait for ever for the node that it is meant for.
func TestFreeShardsAreTakenByTheNext(t *testing.T) {
	d := newDesk(t, 3) // n2 and n3 are there and do nothing
	out := d.due()
	if first := len(d.given(out)); first == 0 || first == cluster.Shards {
		t.Fatalf("takes %d at once", first)
	}
	d.commit(out)
	for range 2 {
		d.commit(d.wait(time.Second))
	}
	for i := range cluster.Shards {
		if o, _, ok := d.Owner(i); !ok || o.ID != "n1" {
			t.Errorf("shard %d: %v, %v", i, o, ok)
		}
	}
}

// TestMeantFor: all nodes that know the same members take each free shard exactly once, and
// when one more joins or leaves, only its own shards would be taken by others.
func TestMeantFor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.IntRange(2, 7).Draw(rt, "nodes")
		owners := func(missing core.NodeID) map[int]core.NodeID {
			d := newDesk(t, nodes)
			if missing != "" {
				d.put(cluster.NodeKey(missing), nil)
			}
			owner := map[int]core.NodeID{}
			for _, m := range d.Members() {
				v := viewOf(t, d, m.ID)
				for _, s := range only[core.Store](v.Due(d.now, d.token, nil)) {
					for _, op := range s.Ops {
						var i int
						if _, err := fmt.Sscanf(op.Key, "shards/%03d", &i); err != nil {
							continue
						}
						if owner[i] != "" {
							rt.Fatalf("shard %d is taken by %s and %s", i, owner[i], m.ID)
						}
						owner[i] = m.ID
					}
				}
			}
			if len(owner) != cluster.Shards {
				rt.Fatalf("%d shards are taken", len(owner))
			}
			return owner
		}
		gone := nodeID(rapid.IntRange(1, nodes).Draw(rt, "gone"))
		with, without := owners(""), owners(gone)
		for i, id := range with {
			if id != gone && without[i] != id {
				rt.Fatalf("shard %d moves from %s to %s when %s leaves", i, id, without[i], gone)
			}
		}
	})
}

// A claim is one Store within etcd's bounds, whatever the size of the cluster.
func TestClaimIsBounded(t *testing.T) {
	d := newDesk(t, 200)
	d.ownAll("n2")
	d.up()
	out := append(d.hear(core.PeerDead{Peer: d.member("n2")}), d.wait(stagger200)...)
	var s core.Store
	for _, s = range only[core.Store](out) {
		if len(claims([]core.Effect{s})) > 0 {
			break
		}
	}
	if len(s.Ops) != 2+cluster.Shards || len(s.If) > 1+cluster.Shards+32 || s.Tenant != "" {
		t.Fatalf("%d ops, %d guards", len(s.Ops), len(s.If))
	}
	if s.Ops[0].Key != "nodes/n2" || s.Ops[0].Value != nil || revisionIn(s.If, "nodes/n2") != 102 {
		t.Errorf("%+v", s.Ops[0])
	}
	var r cluster.ClaimRecord
	if err := json.Unmarshal(s.Ops[1].Value, &r); err != nil || len(r.Survivors) != 32 || r.By != "n1" || r.At.IsZero() {
		t.Errorf("%v %+v", err, r)
	}
	for _, p := range r.Survivors {
		if revisionIn(s.If, cluster.NodeKey(p.ID)) != p.Incarnation {
			t.Errorf("%v is a survivor without comparing that it is there", p)
		}
	}
	d.given([]core.Effect{s})
}

const stagger200 = 200 * 25 * time.Millisecond

// Who drains, is silent or was never heard gets nothing of what the dead has left.
func TestSurvivors(t *testing.T) {
	d := newDesk(t, 6)
	for _, id := range []core.NodeID{"n2", "n3", "n4", "n6"} {
		d.hear(core.PeerUp{Peer: d.member(id)})
	}
	d.put(cluster.DrainKey("n3"), cluster.DrainRecord{}.Encode())
	d.silent("n4")
	out := append(d.hear(core.PeerDead{Peer: d.member("n2")}), d.wait(200*time.Millisecond)...)
	for _, s := range only[core.Store](out) {
		for _, op := range s.Ops {
			if !strings.HasPrefix(op.Key, "claims/n2/") {
				continue
			}
			var r cluster.ClaimRecord
			if err := json.Unmarshal(op.Value, &r); err != nil {
				t.Fatal(err)
			}
			want := []cluster.Process{{ID: "n1", Incarnation: 101}, {ID: "n6", Incarnation: 106}}
			if !slices.Equal(r.Survivors, want) {
				t.Errorf("%v, want %v", r.Survivors, want)
			}
			return
		}
	}
	t.Error("not claimed")
}

// What a process has left whose lease ended is claimed, if anything leads to it.
func TestAbsentIsClaimed(t *testing.T) {
	d := newDesk(t, 2).up()
	d.put(cluster.NodeKey("n2"), nil)
	if c := claims(d.wait(time.Minute)); len(c) > 0 {
		t.Errorf("claims %v for nothing", c)
	}
	d.Anchored("t", "calls/1", cluster.Process{ID: "n2", Incarnation: 102})
	d.Anchored("t", "calls/2", cluster.Process{ID: "n2", Incarnation: 50})
	d.Anchored("t", "calls/2", cluster.Process{ID: "n2", Incarnation: 50})
	out := d.due()
	s := only[core.Store](out)
	if len(s) != 1 || s[0].Ops[0].Key != claimKey("n2", 102) || len(s[0].Ops) != 1 {
		t.Fatalf("%+v", s)
	}
	if revisionIn(s[0].If, "nodes/n2") != 0 || revisionIn(s[0].If, claimKey("n2", 102)) != 0 {
		t.Errorf("%v", s[0].If)
	}
	d.commit(out)
	if id, ok := d.Resolve("n2", 50, "int_1"); id != "n1" || !ok {
		t.Errorf("%q %v", id, ok)
	}

	d.Anchored("t", "calls/1", cluster.Process{ID: "n1", Incarnation: 101})
	if out := only[core.Store](d.due()); len(out) > 0 {
		t.Fatalf("a record of a former life still needs the claim: %+v", out)
	}
	d.Anchored("t", "calls/2", cluster.Process{})
	out = d.due()
	s = only[core.Store](out)
	if len(s) != 1 || s[0].Ops[0].Key != claimKey("n2", 102) || s[0].Ops[0].Value != nil || len(s[0].If) != 1 || s[0].If[0].Revision == 0 {
		t.Fatalf("the claim stays: %+v", s)
	}
	d.commit(out)
	if c := claims(d.wait(time.Minute)); len(c) > 0 {
		t.Errorf("claims %v for nothing", c)
	}
}

// A claim that another leads to stays until that one is gone.
func TestClaimInAChainStays(t *testing.T) {
	d := newDesk(t, 1)
	d.commit(d.due())
	d.Anchored("t", "calls/1", cluster.Process{ID: "n7", Incarnation: 3})
	d.claim("n7", 3, cluster.Process{ID: "n8", Incarnation: 4})
	d.claim("n8", 4, cluster.Process{ID: "n1", Incarnation: 101})
	if out := only[core.Store](append(d.due(), d.wait(time.Minute)...)); len(out) > 0 {
		t.Fatalf("%+v", out)
	}
	d.Anchored("t", "calls/1", cluster.Process{ID: "n1", Incarnation: 101})
	if out := only[core.Store](d.due()); len(out) != 1 || len(out[0].Ops) != 2 {
		t.Fatalf("%+v", out)
	}
}
