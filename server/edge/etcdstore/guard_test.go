package etcdstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// revision returns the mod revision of a full key, 0 when it is absent.
func (r *rig) revision(full string) core.Revision {
	r.t.Helper()
	reply, err := r.plain.Get(context.Background(), full)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(reply.Kvs) == 0 {
		return 0
	}
	return core.Revision(reply.Kvs[0].ModRevision)
}

func guarded(st core.Store, guards ...core.Guard) core.Store {
	st.If = guards
	return st
}

// A guard that fails refuses its Store alone: the others of its batch commit together in
// one more Txn, in order.
func TestGuardRefusesItsStoreAlone(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	s.Do(put(1, "demo", "epoch", "1"))
	h.awaitFinal(t, 1, "stored")
	epoch := r.revision("t/demo/epoch")
	gate := make(chan struct{})
	r.faults.set(func(*pb.TxnRequest) fault { <-gate; return noFault })
	s.Do(put(2, "demo", "first", "x"))
	until(t, "the first batch", func() bool { return s.Gauges().InFlight > 0 })
	at := core.Guard{Tenant: "demo", Key: "epoch", Revision: epoch}
	s.Do(guarded(put(3, "demo", "a", "3"), at))
	s.Do(guarded(put(4, "demo", "a", "4", "b", "4"), core.Guard{Tenant: "demo", Key: "epoch", Revision: epoch - 1}))
	s.Do(put(5, "demo", "c", "5"))
	s.Do(guarded(put(6, "demo", "d", "6"), at, core.Guard{Tenant: "demo", Key: "none"}))
	s.Do(guarded(put(7, "demo", "d", "7"), core.Guard{Tenant: "demo", Key: "epoch"}))
	close(gate)
	for token, want := range map[core.Token]string{2: "stored", 3: "stored", 4: "conflict", 5: "stored", 6: "stored", 7: "conflict"} {
		h.awaitFinal(t, token, want)
	}
	if a, b, c, d := r.value("demo", "a"), r.value("demo", "b"), r.value("demo", "c"), r.value("demo", "d"); a != "3" || b != "" || c != "5" || d != "6" {
		t.Errorf("a %q b %q c %q d %q", a, b, c, d)
	}
	if a, d := r.revision("t/demo/a"), r.revision("t/demo/d"); a != d {
		t.Errorf("what was left of the batch was committed at revisions %d and %d", a, d)
	}
	if g := s.Gauges(); g.Refused != 2 || g.Commits != 3 {
		t.Errorf("%+v", g)
	}
}

// A guard on what an earlier Store of the same batch would write is compared after that.
func TestGuardOnAnEarlierWriteOfTheSameBatch(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	gate := make(chan struct{})
	r.faults.set(func(*pb.TxnRequest) fault { <-gate; return noFault })
	s.Do(put(1, "demo", "first", "x"))
	until(t, "the first batch", func() bool { return s.Gauges().InFlight > 0 })
	absent := core.Guard{Tenant: "demo", Key: "a"}
	s.Do(guarded(put(2, "demo", "a", "2"), absent))
	s.Do(guarded(put(3, "demo", "a", "3"), absent))
	s.Do(core.Store{Token: 4, Tenant: "demo", Ops: []core.Op{{Key: "a"}}})
	s.Do(guarded(put(5, "demo", "a", "5"), absent))
	close(gate)
	for token, want := range map[core.Token]string{2: "stored", 3: "conflict", 4: "stored", 5: "stored"} {
		h.awaitFinal(t, token, want)
	}
	if a := r.value("demo", "a"); a != "5" {
		t.Errorf("a is %q", a)
	}
}

// etcd's own bound is 128 of each: changes, comparisons, and reads where these fail.
func TestMostChangesAndGuards(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	st := core.Store{Token: 1, Tenant: "demo"}
	for i := range MaxOps {
		st.Ops = append(st.Ops, core.Op{Key: fmt.Sprint("k", i), Value: []byte("v")})
	}
	for i := range MaxGuards {
		st.If = append(st.If, core.Guard{Tenant: "demo", Key: fmt.Sprint("g", i)})
	}
	s.Do(st)
	h.awaitFinal(t, 1, "stored")
	s.Do(put(2, "demo", fmt.Sprint("g", MaxGuards-1), "v"))
	h.awaitFinal(t, 2, "stored")
	st.Token = 3
	s.Do(st) // every key is read in vain
	h.awaitFinal(t, 3, "conflict")
	st.Token, st.If = 4, append(st.If, core.Guard{Tenant: "demo", Key: "more"})
	asked := r.faults.count()
	s.Do(st)
	h.awaitFinal(t, 4, "conflict")
	if now := r.faults.count(); now != asked {
		t.Errorf("%d requests for a Store with too many guards", now-asked)
	}
	if r.value("demo", "k0") != "v" || s.Gauges().Fenced {
		t.Errorf("%+v", s.Gauges())
	}
	for i := range core.Token(20) { // 20 x 20 guards: several batches
		st := put(100+i, "demo", fmt.Sprint("b", i), "v")
		for j := range 20 {
			st.If = append(st.If, core.Guard{Tenant: "demo", Key: fmt.Sprint("h", i, ".", j)})
		}
		s.Do(st)
	}
	for i := range core.Token(20) {
		h.awaitFinal(t, 100+i, "stored")
	}
}

func TestMalformedGuardsAndClusterRecordsAreConflicts(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	s.Do(guarded(put(1, "demo", "a", "1"), core.Guard{Tenant: "acme", Key: "a"}))
	s.Do(guarded(put(2, "demo", "a", "1"), core.Guard{Key: "chains/n1"}))
	s.Do(guarded(put(3, "demo", "a", "1"), core.Guard{Tenant: "demo", Key: "a", Revision: -1}))
	s.Do(put(4, "", "chains/n2", "x"))
	s.Do(put(5, "", "nodes/n2", "a node that never expires"))
	s.Do(put(6, "", "t/demo/a", "x"))
	s.Do(core.Store{Token: 7, Ops: []core.Op{{Key: "nodes/n1"}}})
	s.Do(put(8, "", "shards/64", "x"))
	for token := core.Token(1); token <= 8; token++ {
		h.awaitFinal(t, token, "conflict")
	}
	s.Do(guarded(put(9, "", "shards/007", "n1", "drains/n2", "x"), core.Guard{Key: "shards/007"}, core.Guard{Tenant: "demo", Key: "a"}))
	h.awaitFinal(t, 9, "stored")
	if g := s.Gauges(); g.Refused != 8 || g.Fenced || r.revision("shards/007") == 0 {
		t.Errorf("%+v", g)
	}
}

// A late copy of a batch whose guard failed must not commit when the guard holds again.
func TestConflictOfAGuardHoldsAgainstALateCopy(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	r.faults.set(func(in *pb.TxnRequest) fault {
		if len(in.Compare) < 3 {
			return noFault
		}
		r.faults.choose = nil // which is called under the lock
		if _, err := r.plain.Put(context.Background(), "t/demo/taken", "by another"); err != nil {
			t.Error(err)
		}
		return late
	})
	s.Do(guarded(put(1, "demo", "a", "1"), core.Guard{Tenant: "demo", Key: "taken"}))
	h.awaitFinal(t, 1, "conflict")
	if _, err := r.plain.Delete(t.Context(), "t/demo/taken"); err != nil {
		t.Fatal(err)
	}
	if n := r.faults.flush(); n != 0 || r.value("demo", "a") != "" { // nothing else has moved the chain
		t.Errorf("%d late copies committed, a is %q", n, r.value("demo", "a"))
	}
	s.Do(put(2, "demo", "b", "2"))
	h.awaitFinal(t, 2, "stored")
}

// Random Stores with guards from two writers, under random faults, against a model that
// applies them one by one: every outcome is exact. Only one of the two writes at a time, so
// that the model knows the order; the next test lets both.
func TestGuardsAgainstAModel(t *testing.T) {
	r := newRig(t)
	run, met := 0, map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &guardModel{r: r, t: t, tenant: core.TenantID(fmt.Sprint("t", run)), there: map[string]core.Revision{}, met: met}
		for i := range 2 {
			h := newHeard()
			s, _, err := Open(context.Background(), Config{Client: r.client, Node: core.NodeID(fmt.Sprintf("n%d.%d", run, i)), Emit: h.emit, pace: quick()})
			if err != nil {
				t.Fatalf("%v", err)
			}
			defer func() {
				r.faults.set(nil)
				s.Close(context.Background())
				r.faults.flush()
			}()
			m.writers = append(m.writers, s)
			m.heards = append(m.heards, h)
		}
		for range rapid.IntRange(1, 8).Draw(t, "groups") {
			m.group(rapid.IntRange(0, 1).Draw(t, "writer"))
		}
	})
	t.Log(met)
	for _, what := range []string{"stored", "conflict", string(lostReply), string(late), "guard on an earlier write holds"} {
		if met[what] == 0 {
			t.Errorf("%q never happened: the test is blind to it", what)
		}
	}
}

type guardModel struct {
	r       *rig
	t       *rapid.T
	tenant  core.TenantID
	writers []*Store
	heards  []*heard
	tokens  core.Token
	there   map[string]core.Revision // the model: which keys are there
	met     map[string]int
}

// fresh is the revision of a key that was written within the group: no guard can know it.
const fresh core.Revision = -1

func (m *guardModel) group(writer int) {
	s, h := m.writers[writer], m.heards[writer]
	kinds := []fault{lostAsk, lostReply, noSpace, late, twice, newLeader, stallReply}
	chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(m.t, "fault seed"), 0))
	bad := rapid.IntRange(0, 3).Draw(m.t, "faults")
	gate := make(chan struct{})
	m.r.faults.set(func(*pb.TxnRequest) fault {
		<-gate
		if bad == 0 || chance.IntN(2) == 0 {
			return noFault
		}
		bad--
		kind := kinds[chance.IntN(len(kinds))]
		m.met[string(kind)]++
		return kind
	})
	want := map[core.Token]string{}
	known := map[string]core.Revision{} // at the beginning of the group
	for key, rev := range m.there {
		known[key] = rev
	}
	for range rapid.IntRange(1, 12).Draw(m.t, "stores") {
		m.tokens++
		st := m.draw(known)
		s.Do(st)
		want[m.tokens] = m.apply(st)
		m.met[want[m.tokens]]++
	}
	close(gate)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		got := h.final(m.t)
		if got[m.tokens] != "" && !slices.ContainsFunc(slices.Collect(keysOf(want)), func(k core.Token) bool { return got[k] == "" }) {
			for token, said := range want {
				if got[token] != said {
					m.t.Fatalf("token %d: %s, the model says %s", token, got[token], said)
				}
			}
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("no outcome after 20 s: %v of %v", got, want)
		}
	}
	if n := m.r.faults.flush(); n != 0 {
		m.t.Fatalf("%d late copies committed", n)
	}
	m.compare()
}

func keysOf[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// draw makes a Store of a few changes and guards on the same few keys.
func (m *guardModel) draw(known map[string]core.Revision) core.Store {
	st := core.Store{Token: m.tokens, Tenant: m.tenant}
	key := func() string { return fmt.Sprint("k", rapid.IntRange(0, 5).Draw(m.t, "key")) }
	for range rapid.IntRange(0, 3).Draw(m.t, "ops") {
		op := core.Op{Key: key(), Value: fmt.Append(nil, m.tokens)}
		if rapid.IntRange(0, 3).Draw(m.t, "delete") == 0 {
			op.Value = nil
		}
		st.Ops = append(st.Ops, op)
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 1, 2}).Draw(m.t, "guards") {
		g := core.Guard{Tenant: m.tenant, Key: key()}
		switch rapid.IntRange(0, 5).Draw(m.t, "revision") {
		case 0: // must be absent
		case 1:
			g.Revision = 1 // long ago
		default:
			g.Revision = known[g.Key]
		}
		st.If = append(st.If, g)
	}
	return st
}

// apply is the model.
func (m *guardModel) apply(st core.Store) string {
	for _, g := range st.If {
		if m.there[g.Key] != g.Revision {
			return "conflict"
		}
		if _, touched := m.there[g.Key+" touched"]; touched {
			m.met["guard on an earlier write holds"]++
		}
	}
	for _, op := range st.Ops {
		if op.Value == nil {
			delete(m.there, op.Key)
		} else {
			m.there[op.Key] = fresh
		}
		m.there[op.Key+" touched"] = fresh
	}
	return "stored"
}

// compare checks which keys are there, and learns their revisions.
func (m *guardModel) compare() {
	reply, err := m.r.plain.Get(context.Background(), "t/"+string(m.tenant)+"/", clientv3.WithPrefix())
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	got := map[string]core.Revision{}
	for _, kv := range reply.Kvs {
		_, key, _ := entryKey(string(kv.Key))
		got[key] = core.Revision(kv.ModRevision)
	}
	for i := range 6 {
		key := fmt.Sprint("k", i)
		if rev, ok := m.there[key]; ok != (got[key] != 0) || ok && rev != fresh && rev != got[key] {
			m.t.Fatalf("%s: etcd has revision %d, the model %d (%v)", key, got[key], rev, ok)
		}
	}
	m.there = got
}

// Two writers at the same time, all with guards on the same keys. From etcd's history: what
// was Stored was right to be (its guards held when it was committed), what was a Conflict
// had a reason between the asking and the answer, and each Stored one is there once.
func TestGuardsOfTwoWritersAtOnce(t *testing.T) {
	r := newRig(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	began := r.header()
	var wait sync.WaitGroup
	writers := make([]*racer, 2)
	for i := range writers {
		w := &racer{chance: rand.New(rand.NewPCG(seed, uint64(i))), asked: map[core.Token]core.Store{}, before: map[core.Token]core.Revision{}, after: map[core.Token]core.Revision{}}
		w.s, w.h = r.open(core.NodeID(fmt.Sprint("n", i)), pace{})
		writers[i] = w
	}
	for i, w := range writers {
		wait.Go(func() { w.race(t, r, core.Token(1+100_000*i)) })
	}
	wait.Wait()
	history := r.history(t, began+1, r.header())
	count := map[string]int{}
	for _, w := range writers {
		for token, st := range w.asked {
			said := w.h.final(t)[token]
			count[said]++
			switch commits := history.marks[fmt.Sprint("mark/", token)]; {
			case said == "stored" && len(commits) == 1:
				for _, g := range st.If {
					if rev := history.before(g.Key, commits[0]); rev != g.Revision {
						t.Errorf("token %d was stored at %d though %s had revision %d, not %d", token, commits[0], g.Key, rev, g.Revision)
					}
				}
			case said == "conflict" && len(commits) == 0:
				if history.held(st.If, w.before[token], w.after[token]) {
					t.Errorf("token %d is a conflict though its guards held from revision %d to %d: %v", token, w.before[token], w.after[token], st.If)
				}
			default:
				t.Errorf("token %d: %q, committed at %v", token, said, commits)
			}
		}
	}
	t.Log(count)
	if count["stored"] < 50 || count["conflict"] < 50 {
		t.Errorf("the race is too tame: %v", count)
	}
}

func (r *rig) header() core.Revision {
	reply, err := r.plain.Get(context.Background(), "none")
	if err != nil {
		r.t.Fatal(err)
	}
	return core.Revision(reply.Header.Revision)
}

type racer struct {
	s             *Store
	h             *heard
	chance        *rand.Rand
	asked         map[core.Token]core.Store
	before, after map[core.Token]core.Revision
}

func (w *racer) race(t *testing.T, r *rig, token core.Token) {
	for range 120 {
		first := token
		rev := r.header()
		for range 1 + w.chance.IntN(6) {
			key := fmt.Sprint("k", w.chance.IntN(4))
			st := put(token, "demo", fmt.Sprint("mark/", token), "x")
			if w.chance.IntN(2) == 0 {
				st.Ops = append(st.Ops, core.Op{Key: key, Value: []byte("x")})
			}
			st.If = []core.Guard{{Tenant: "demo", Key: key, Revision: r.revision("t/demo/" + key)}}
			w.asked[token], w.before[token] = st, rev
			w.s.Do(st)
			token++
		}
		w.h.awaitFinals(t, first, token)
		rev = r.header()
		for ; first < token; first++ {
			w.after[first] = rev
		}
	}
}

// awaitFinals waits until all tokens of a range have their outcome.
func (h *heard) awaitFinals(t waiter, from, to core.Token) {
	h.await(t, "the outcomes of a group", func() bool {
		for token := from; token < to; token++ {
			if h.said[token] == "" {
				return false
			}
		}
		return true
	})
}

// history is what was committed, key by key below the tenant demo.
type history struct {
	marks map[string][]core.Revision // of each key, ascending; deletions negative
}

func (r *rig) history(t *testing.T, from, to core.Revision) history {
	h := history{map[string][]core.Revision{}}
	for _, c := range r.changes(t, from, to) {
		rev := c.Revision
		if c.Value == nil {
			rev = -rev
		}
		h.marks[c.Key] = append(h.marks[c.Key], rev)
	}
	return h
}

// changes reads from etcd's history what was committed in the watched range.
func (r *rig) changes(t fataler, from, to core.Revision) []core.Change {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// The end of it is marked by a key of its own.
	mark, err := r.plain.Put(ctx, "t0end", "")
	if err != nil {
		t.Fatalf("%v", err)
	}
	var all []core.Change
	for reply := range r.plain.Watch(ctx, rangeFrom, clientv3.WithRange("t0f"), clientv3.WithRev(int64(from))) {
		if err := reply.Err(); err != nil {
			t.Fatalf("%v", err)
		}
		for _, ev := range reply.Events {
			rev := core.Revision(ev.Kv.ModRevision)
			if rev >= core.Revision(mark.Header.Revision) {
				return all
			}
			if tenant, key, ok := entryKey(string(ev.Kv.Key)); ok && rev <= to {
				c := core.Change{Tenant: tenant, Key: key, Revision: rev}
				if ev.Type == clientv3.EventTypePut {
					c.Value = present(ev.Kv.Value)
				}
				all = append(all, c)
			}
		}
	}
	t.Fatalf("the history has no end")
	return nil
}

// before returns the revision of a key before the commit of a revision.
func (h history) before(key string, rev core.Revision) core.Revision {
	was := core.Revision(0)
	for _, at := range h.marks[key] {
		if max(at, -at) >= rev {
			break
		}
		was = max(at, 0)
	}
	return was
}

// held reports whether all guards held at every revision from one to another.
func (h history) held(guards []core.Guard, from, to core.Revision) bool {
	for _, g := range guards {
		for rev := from; rev <= to; rev++ {
			if h.before(g.Key, rev+1) != g.Revision {
				return false
			}
		}
	}
	return true
}
