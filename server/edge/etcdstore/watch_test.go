package etcdstore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// joinChanges checks the form of what was told: ascending, each commit within one Watched.
func joinChanges(t fataler, told []core.Watched) []core.Change {
	var all []core.Change
	last := core.Revision(0)
	for i, w := range told {
		if len(w.Changes) == 0 {
			t.Fatalf("Watched %d is empty", i)
		}
		if first := w.Changes[0].Revision; first <= last {
			t.Fatalf("Watched %d begins at revision %d, after %d", i, first, last)
		}
		for _, c := range w.Changes {
			if c.Revision < last {
				t.Fatalf("Watched %d: revision %d after %d", i, c.Revision, last)
			}
			last = c.Revision
		}
		all = append(all, w.Changes...)
	}
	return all
}

// differ says where two histories differ first, "" when they do not.
func differ(want, got []core.Change) string {
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i].Tenant != got[i].Tenant || want[i].Key != got[i].Key || want[i].Revision != got[i].Revision ||
			!bytes.Equal(want[i].Value, got[i].Value) || (want[i].Value == nil) != (got[i].Value == nil) {
			return fmt.Sprintf("%d changes of %d; from number %d on\n%.300v, not\n%.300v", len(got), len(want), i, got[min(i, len(got)):], want[min(i, len(want)):])
		}
	}
	return ""
}

// awaitMark waits until the watch has shown a key.
func (h *heard) awaitMark(t waiter, key string) {
	t.Helper()
	h.await(t, "the watch to show "+key, func() bool {
		for i := len(h.told) - 1; i >= 0; i-- {
			for _, c := range h.told[i].Changes {
				if c.Key == key {
					return true
				}
			}
		}
		return false
	})
}

// Everything that is committed is told: the cluster's records, all tenants, by this node, by
// another, by a lease that expires; once, in order; from the revision after the load.
func TestWatchTellsEverything(t *testing.T) {
	r := newRig(t)
	if _, err := r.plain.Put(t.Context(), "t/demo/before", "x"); err != nil {
		t.Fatal(err)
	}
	s, h := r.open("n1", pace{})
	from := r.header() + 1
	s2, h2 := r.open("n2", pace{})
	for i := range core.Token(300) {
		s.Do(put(1+i, "demo", fmt.Sprint("a", i%7), fmt.Sprint(i), fmt.Sprint("b", i), ""))
		s2.Do(put(1+i, "acme", fmt.Sprint("c", i%5), fmt.Sprint(i)))
		if i%10 == 0 {
			s2.Do(core.Store{Token: 1000 + i, Tenant: "demo", Ops: []core.Op{{Key: fmt.Sprint("a", i%7)}}})
		}
	}
	s2.Do(put(2000, "", "shards/003", "n2", "drains/n1", ""))
	h.awaitFinal(t, 300, "stored")
	h2.awaitFinal(t, 2000, "stored")
	if err := s2.Close(t.Context()); err != nil { // its key goes
		t.Fatal(err)
	}
	if _, err := r.plain.Put(t.Context(), "outside", "not told"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.plain.Put(t.Context(), "t/demo/mark", ""); err != nil {
		t.Fatal(err)
	}
	h.awaitMark(t, "mark")
	got, want := joinChanges(t, h.watched()), r.changes(t, from, r.header())
	if diff := differ(want, got); diff != "" {
		t.Fatalf("told %s", diff)
	}
	kinds := map[string]bool{}
	for _, c := range got {
		if c.Tenant == "" {
			kind, _, _ := strings.Cut(c.Key, "/")
			kinds[fmt.Sprint(kind, " ", c.Value == nil)] = true
		}
	}
	if diff := cmp.Diff(map[string]bool{"nodes false": true, "nodes true": true, "shards false": true, "drains false": true}, kinds); diff != "" {
		t.Errorf("cluster records\n%s", diff)
	}
	if g := s.Gauges(); g.Seen < got[len(got)-1].Revision || g.Behind != 0 || g.Relisted != 0 {
		t.Errorf("%+v", g)
	}
}

// A store's own commit is never shown before its Stored.
func TestStoredComesBeforeItsWatched(t *testing.T) {
	for _, kind := range []fault{noFault, stallReply, lostReply} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t)
			s, h := r.open("n1", quick())
			if kind != noFault {
				r.faults.set(times(5, kind))
			}
			const n = 500
			for i := range core.Token(n) {
				s.Do(put(1+i, "demo", fmt.Sprint("k", 1+i), "v"))
			}
			h.awaitFinal(t, n, "stored")
			h.awaitMark(t, fmt.Sprint("k", n))
			h.mu.Lock()
			defer h.mu.Unlock()
			shown := map[string]int{}
			for i, w := range h.told {
				for _, c := range w.Changes {
					shown[c.Key] = i
				}
			}
			for i := range core.Token(n) {
				if at := shown[fmt.Sprint("k", 1+i)]; h.own[1+i] > at {
					t.Fatalf("token %d: %d Watched had come before its Stored, its own was number %d", 1+i, h.own[1+i], at)
				}
			}
		})
	}
}

// A core that takes nothing for a while: memory stays bounded, nothing is missing after.
func TestSlowCoreBoundsTheWatch(t *testing.T) {
	r := newRig(t)
	h := newHeard()
	h.full = func() bool { return true }
	const bound = 64 << 10
	s, _, err := Open(t.Context(), Config{Client: r.client, Node: "n1", Emit: h.emit, pace: quick(), watchBytes: bound})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	from := r.header() + 1
	value := strings.Repeat("x", 1000)
	for range 60 {
		var ops []clientv3.Op
		for i := range 30 {
			ops = append(ops, clientv3.OpPut(fmt.Sprint("t/demo/k", i), value))
		}
		if _, err := r.plain.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the watch to stop", func() bool { return s.Gauges().Behind > bound/1100 })
	s.watcher.mu.Lock()
	bytes := s.watcher.bytes
	s.watcher.mu.Unlock()
	if bytes > 2*bound { // one reply of etcd more than the bound
		t.Errorf("%d bytes wait", bytes)
	}
	var wait sync.WaitGroup // more commits than etcd tells in one reply
	for i := range 40 {
		wait.Go(func() {
			for range 40 {
				if _, err := r.plain.Put(t.Context(), fmt.Sprint("t/demo/s", i), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	h.mu.Lock()
	h.full = nil
	h.mu.Unlock()
	if _, err := r.plain.Put(t.Context(), "t/demo/mark", ""); err != nil {
		t.Fatal(err)
	}
	h.awaitMark(t, "mark")
	if diff := differ(r.changes(t, from, r.header()), joinChanges(t, h.watched())); diff != "" {
		t.Errorf("told %s", diff)
	}
}

// reconnecting returns a client through a proxy that comes back quickly.
func reconnecting(t testing.TB, p *proxy) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{p.listener.Addr().String()}, DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second,
		BackoffWaitBetween: 10 * time.Millisecond, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second,
			Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.3, MaxDelay: 30 * time.Millisecond}})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// Random commits through random trouble with the connection, a slow core and compaction.
// What is told leads to the state that etcd holds; as long as no history was compacted away
// unseen, it is exactly etcd's history, and if it was, that was noticed.
func TestWatchThroughTrouble(t *testing.T) {
	log := &syncBuffer{}
	e, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), Log: logTo(log), Listen: "127.0.0.1:0", MinFree: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	p := newProxy(t, e.Addr())
	r := &rig{t: t, etcd: e, plain: e.Client(), client: reconnecting(t, p), faults: &faults{}, log: log}
	run, met := 0, map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		run++
		p.set(false, false, false)
		w := &trouble{r: r, t: t, p: p, run: run, met: met, state: map[string]string{}}
		w.drive()
	})
	t.Log(met)
	for _, what := range []string{"exact", "relisted", "cut", "compact", "refuse", "slow"} {
		if met[what] == 0 {
			t.Errorf("%q never happened: the test is blind to it", what)
		}
	}
}

type trouble struct {
	r     *rig
	t     *rapid.T
	p     *proxy
	run   int
	met   map[string]int
	state map[string]string // what the core knows
	rev   core.Revision     // of the last compaction
}

func (w *trouble) drive() {
	h := newHeard()
	s, restored, err := Open(context.Background(), Config{Client: w.r.client, Node: "n1", Emit: h.emit, Log: logTo(w.r.log), pace: quick(), watchBytes: 2000})
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	defer func() {
		w.p.set(false, false, false)
		s.Close(context.Background())
	}()
	for _, entry := range restored.Entries {
		w.state[joined(entry.Tenant, entry.Key)] = string(entry.Value)
	}
	from := core.Revision(s.watcher.seen) + 1
	token := core.Token(0)
	for range rapid.IntRange(2, 25).Draw(w.t, "steps") {
		switch what := rapid.SampledFrom([]string{"commit", "commit", "commit", "own", "cut", "refuse", "back", "compact", "slow", "quick"}).Draw(w.t, "step"); what {
		case "commit":
			for range rapid.IntRange(1, 8).Draw(w.t, "commits") {
				w.commit()
			}
		case "own":
			token++
			s.Do(put(token, "demo", "own", fmt.Sprint(token)))
		default:
			w.met[what]++
			w.disturb(what, h)
		}
	}
	w.p.set(false, false, false)
	h.mu.Lock()
	h.full = nil
	h.mu.Unlock()
	if token > 0 {
		h.awaitFinals(w.t, 1, token+1)
	}
	mark := fmt.Sprint("mark", w.run)
	w.must(w.r.plain.Put(context.Background(), "t/demo/"+mark, ""))
	h.awaitMark(w.t, mark)
	w.check(s, h, from)
}

func (w *trouble) must(_ any, err error) {
	if err != nil {
		w.t.Fatalf("%v", err)
	}
}

// commit writes one to three keys in one Txn, past the proxy.
func (w *trouble) commit() {
	var ops []clientv3.Op
	for i, key := range rand.New(rand.NewPCG(rapid.Uint64().Draw(w.t, "keys"), 0)).Perm(6)[:rapid.IntRange(1, 3).Draw(w.t, "ops")] {
		full := []string{"t/demo/a", "t/demo/b", "t/acme/c", "shards/001", "drains/n9", "nodes/n7"}[key]
		if rapid.IntRange(0, 3).Draw(w.t, "delete") == 0 {
			ops = append(ops, clientv3.OpDelete(full))
		} else {
			ops = append(ops, clientv3.OpPut(full, fmt.Sprint(w.run, ".", i, strings.Repeat("x", rapid.IntRange(0, 200).Draw(w.t, "size")))))
		}
	}
	w.must(w.r.plain.Txn(context.Background()).Then(ops...).Commit())
}

func (w *trouble) disturb(what string, h *heard) {
	switch what {
	case "cut":
		w.p.cut()
	case "refuse":
		w.p.set(false, false, true)
		w.p.cut()
	case "back":
		w.p.set(false, false, false)
	case "compact":
		if rev := w.r.header(); rev > w.rev {
			w.must(w.r.plain.Compact(context.Background(), int64(rev)))
			w.rev = rev
		}
	case "slow", "quick":
		h.mu.Lock()
		h.full = nil
		if what == "slow" {
			h.full = func() bool { return true }
		}
		h.mu.Unlock()
	}
}

func (w *trouble) check(s *Store, h *heard, from core.Revision) {
	told := joinChanges(w.t, h.watched())
	for _, c := range told {
		if full := joined(c.Tenant, c.Key); c.Value == nil {
			delete(w.state, full)
		} else {
			w.state[full] = string(c.Value)
		}
	}
	entries, _, err := load(context.Background(), w.r.plain, loadPage, logTo(w.r.log))
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	there := map[string]string{}
	for _, entry := range entries {
		there[joined(entry.Tenant, entry.Key)] = string(entry.Value)
	}
	if diff := cmp.Diff(there, w.state); diff != "" {
		w.t.Fatalf("what was told does not lead to what is there (-there +told)\n%s", diff)
	}
	if s.Gauges().Relisted > 0 {
		w.met["relisted"]++
		return
	}
	if w.rev >= from {
		for len(told) > 0 && told[0].Revision <= w.rev {
			told = told[1:]
		}
		from = w.rev + 1
	}
	w.met["exact"]++
	if diff := differ(w.r.changes(w.t, from, w.r.header()), told); diff != "" {
		w.t.Fatalf("told %s", diff)
	}
}

// BenchmarkWatchedChange is what one change costs from etcd's reply to the core's inbox, in
// replies of one commit of 16 changes, which is usual under load.
func BenchmarkWatchedChange(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	changes := 0
	s := &Store{node: "nodes/n1", base: ctx, cfg: Config{watchBytes: watchBytes, Emit: func(ev core.Event) bool {
		changes += len(ev.(core.Watched).Changes)
		return true
	}}}
	s.writer = &writer{s: s}
	w := newWatcher(s, nil, 0)
	s.wait.Go(w.tell)
	value := make([]byte, 300)
	rev, sent := int64(0), 0
	b.ReportAllocs()
	for b.Loop() {
		if sent%16 == 0 {
			rev++
			reply := clientv3.WatchResponse{}
			for i := range 16 {
				key := fmt.Appendf(nil, "t/demo/calls/int_%d", (rev*16+int64(i))%5000)
				reply.Events = append(reply.Events, &clientv3.Event{Kv: &mvccpb.KeyValue{Key: key, Value: value, ModRevision: rev}})
			}
			w.took(reply)
		}
		sent++
	}
	if err := w.drain(); err != nil {
		b.Fatal(err)
	}
	cancel()
	s.wait.Wait()
	if changes < sent {
		b.Fatalf("%d of %d changes were told", changes, sent)
	}
}
