package etcdstore

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// trio is three members on addresses of their own.
type trio struct {
	t       testing.TB
	log     *syncBuffer
	configs [3]MemberConfig
	members [3]*Member
}

func newTrio(t testing.TB) *trio {
	t.Helper()
	c := &trio{t: t, log: &syncBuffer{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", c.log)
		}
	})
	cluster := map[string]netip.AddrPort{}
	dir, pid := t.TempDir(), os.Getpid()
	for i := range c.configs {
		// Each process of a test has addresses of its own within 127.0.0.0/8.
		addr := netip.AddrFrom4([4]byte{127, byte(100 + i), byte(pid >> 8), byte(pid)})
		name := fmt.Sprint("e", 1+i)
		cluster[name] = netip.AddrPortFrom(addr, 2380)
		c.configs[i] = MemberConfig{Name: name, Dir: filepath.Join(dir, name), Client: netip.AddrPortFrom(addr, 2379), Cluster: cluster, Log: logTo(c.log)}
	}
	var wait sync.WaitGroup
	for i := range c.configs {
		wait.Go(func() { c.start(i) })
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			if m != nil {
				m.Close()
			}
		}
		// A member leaves its connections to peers open until they time out after some seconds.
		stacks := make([]byte, 4<<20)
		until(t, "the connections between the members to end", func() bool {
			return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("net/http.(*persistConn)"))
		})
	})
	return c
}

func (c *trio) start(i int) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m, err := StartMember(ctx, c.configs[i])
	if err != nil {
		c.t.Errorf("member %d: %v", i, err)
	}
	c.members[i] = m
}

func (c *trio) endpoints() (all []string) {
	for _, cfg := range c.configs {
		all = append(all, cfg.Client.String())
	}
	return all
}

// leader returns the number of the member that leads.
func (c *trio) leader() int {
	c.t.Helper()
	leads := -1
	until(c.t, "a leader", func() bool {
		for i, m := range c.members {
			if m != nil && m.etcd.Server.Leader() == m.etcd.Server.MemberID() {
				leads = i
				return true
			}
		}
		return false
	})
	return leads
}

// Three members, two nodes that write: the leader hands over, the leader dies and comes back.
// Every write is Stored once, and both nodes are told all that is committed.
func TestNodesOnThreeMembers(t *testing.T) {
	c := newTrio(t)
	client, err := Connect(ClientConfig{Endpoints: c.endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	plain := quietClient(t, c.endpoints()...)
	r := &rig{t: t, plain: plain, client: client, faults: &faults{}, log: c.log}
	s1, h1 := r.open("n1", pace{})
	s2, h2 := r.open("n2", pace{})
	if g := s2.Gauges(); g.Fenced {
		t.Fatalf("%+v", g)
	}
	from := r.header() + 1
	var wait sync.WaitGroup
	stop := make(chan struct{})
	last := make([]core.Token, 2)
	for i, s := range []*Store{s1, s2} {
		wait.Go(func() {
			for token := core.Token(1); ; token++ {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
					s.Do(guarded(put(token, core.TenantID(fmt.Sprint("t", i)), fmt.Sprint("k", token), "v"), core.Guard{Key: "drains/x"}))
					last[i] = token
				}
			}
		})
	}
	pause := func() {
		n := len(h1.all())
		h1.await(t, "writes", func() bool { return len(h1.events) > n+30 })
	}
	pause()
	for range 3 { // the leader hands over
		leads := c.leader()
		to := c.members[(leads+1)%3].etcd.Server.MemberID()
		direct := quietClient(t, c.configs[leads].Client.String())
		if _, err := direct.MoveLeader(t.Context(), uint64(to)); err != nil {
			t.Fatal(err)
		}
		pause()
	}
	for range 2 { // the leader dies
		leads := c.leader()
		began := time.Now()
		c.members[leads].Close()
		c.members[leads] = nil
		pause()
		t.Logf("30 writes were stored within %v of the leader's end", time.Since(began).Round(time.Millisecond))
		c.start(leads)
		pause()
	}
	close(stop)
	wait.Wait()
	for i, h := range []*heard{h1, h2} {
		h.awaitFinals(t, 1, last[i]+1)
		for token, said := range h.final(t) {
			if said != "stored" {
				t.Errorf("n%d: token %d is %s", 1+i, token, said)
			}
		}
	}
	if _, err := plain.Put(t.Context(), "t/demo/mark", ""); err != nil {
		t.Fatal(err)
	}
	want := r.changes(t, from, r.header())
	for i, h := range []*heard{h1, h2} {
		h.awaitMark(t, "mark")
		got := joinChanges(t, h.watched())
		for len(got) > 0 && got[0].Revision < from { // n2's key, as n1 saw it
			got = got[1:]
		}
		if diff := differ(want, got); diff != "" {
			t.Errorf("n%d was told %s", 1+i, diff)
		}
	}
	t.Logf("%d and %d writes, %d changes were told", last[0], last[1], len(want))
}

// Most members are away: nothing is written and nobody is claimed; then all goes on.
func TestQuorumIsLostAndComesBack(t *testing.T) {
	c := newTrio(t)
	client, err := Connect(ClientConfig{Endpoints: c.endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	r := &rig{t: t, plain: client, client: client, faults: &faults{}, log: c.log}
	s, h := r.open("n1", pace{})
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
	for i := range 2 {
		c.members[i].Close()
		c.members[i] = nil
	}
	s.Do(put(2, "demo", "a", "2"))
	h.awaitUnknown(t, 2)
	var wait sync.WaitGroup
	for i := range 2 {
		wait.Go(func() { c.start(i) })
	}
	wait.Wait()
	h.awaitFinal(t, 2, "stored")
	h.awaitMark(t, "a")
	until(t, "the watch to show both", func() bool {
		n := 0
		for _, w := range h.watched() {
			for _, ch := range w.Changes {
				if ch.Key == "a" {
					n++
				}
			}
		}
		return n == 2
	})
	if g := s.Gauges(); g.Fenced || r.value("demo", "a") != "2" {
		t.Errorf("%+v", g)
	}
}

func TestMemberConfigIsChecked(t *testing.T) {
	at := netip.MustParseAddrPort
	cluster := map[string]netip.AddrPort{"e1": at("127.0.0.1:2380")}
	for want, cfg := range map[string]MemberConfig{
		"letters":            {Name: "e 1", Client: at("127.0.0.1:2379"), Cluster: cluster},
		"no address":         {Name: "e1", Cluster: cluster},
		"not in the cluster": {Name: "e2", Client: at("127.0.0.1:2379"), Cluster: cluster},
		"lacks an address":   {Name: "e1", Client: at("127.0.0.1:2379"), Cluster: map[string]netip.AddrPort{"e1": at("127.0.0.1:2380"), "e2": {}}},
	} {
		cfg.Dir = t.TempDir()
		if _, err := StartMember(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// One member of three waits for the others.
	dir := t.TempDir()
	lonely := MemberConfig{Name: "e1", Dir: dir, Client: at("127.0.0.1:0"), Cluster: map[string]netip.AddrPort{
		"e1": netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 110, byte(os.Getpid() >> 8), byte(os.Getpid())}), 2380), "e2": at("127.110.0.1:9"), "e3": at("127.110.0.1:10")}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := StartMember(ctx, lonely); err == nil || !strings.Contains(err.Error(), "start the others") {
		t.Errorf("%v", err)
	}
}

// BenchmarkGuards is the latency of one Store of 300 bytes on three members, from Do to
// Stored, without and with guards, and until the watch of another node has told it.
func BenchmarkGuards(b *testing.B) {
	c := newTrio(b)
	for _, guards := range []int{0, 1, 20, 100} {
		b.Run(fmt.Sprint("guards=", guards), func(b *testing.B) { benchmarkGuards(b, c, guards) })
	}
}

func benchmarkGuards(b *testing.B, c *trio, guards int) {
	s, done, _ := openBench(b, quietClient(b, c.endpoints()...), "n1")
	defer s.Close(b.Context())
	s2, _, told := openBench(b, quietClient(b, c.endpoints()...), "n2")
	defer s2.Close(b.Context())
	var stored, seen []time.Duration
	st := core.Store{Tenant: "demo", Ops: []core.Op{{Key: "call", Value: make([]byte, 300)}}}
	for i := range guards {
		st.If = append(st.If, core.Guard{Tenant: "demo", Key: fmt.Sprint("g", i)})
	}
	for b.Loop() {
		st.Token++
		began := time.Now()
		s.Do(st)
		<-done
		stored = append(stored, time.Since(began))
		<-told
		seen = append(seen, time.Since(began))
	}
	report(b, stored, len(stored))
	slices.Sort(seen)
	b.ReportMetric(ms(seen[len(seen)/2]), "told-p50-ms")
	b.ReportMetric(ms(seen[len(seen)*99/100]), "told-p99-ms")
}

func openBench(b *testing.B, client *clientv3.Client, node core.NodeID) (s *Store, done, told chan struct{}) {
	done, told = make(chan struct{}, 1), make(chan struct{}, 1<<20)
	s, _, err := Open(b.Context(), Config{Client: client, Node: node, Emit: func(ev core.Event) bool {
		switch ev := ev.(type) {
		case core.Stored:
			done <- struct{}{}
		case core.Watched:
			for _, c := range ev.Changes {
				if c.Key == "call" {
					told <- struct{}{}
				}
			}
		}
		return true
	}})
	if err != nil {
		b.Fatal(err)
	}
	return s, done, told
}
