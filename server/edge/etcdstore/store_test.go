package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

func TestGroupCommitKeepsOrder(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", pace{})
	var observed atomic.Int64
	s.cfg.Observe = func(_ time.Duration, ops int) { observed.Add(int64(ops)) } // before the first Do: the writer reads it later
	gate := make(chan struct{})
	r.faults.set(func(*pb.TxnRequest) fault { <-gate; return noFault })
	const n = 1000
	for i := range n {
		s.Do(put(core.Token(i+1), "demo", fmt.Sprint("k", i), fmt.Sprint(i)))
	}
	close(gate)
	h.awaitFinal(t, n, "stored")
	want := core.Token(1)
	for _, ev := range h.all() {
		if _, ok := ev.(core.Unknown); ok { // of this one and those behind it: the machine is slow
			continue
		}
		if ev != (core.Stored{Token: want}) {
			t.Fatalf("%v where token %d was due", ev, want)
		}
		want++
	}
	batches := r.faults.batches()
	if len(batches) > 1+(n+batchOps-1)/batchOps {
		t.Errorf("%d writes took %d batches", n, len(batches))
	}
	next := 0
	for i, b := range batches {
		if len(b.Success) > 64 {
			t.Errorf("batch %d has %d operations", i, len(b.Success))
		}
		for _, op := range b.Success[:len(b.Success)-1] {
			if key := string(op.GetRequestPut().Key); key != fmt.Sprint("t/demo/k", next) {
				t.Fatalf("batch %d writes %s, %d is due", i, key, next)
			}
			next++
		}
	}
	g := s.Gauges()
	if g.Commits != uint64(len(batches)) || g.Ops != n || observed.Load() != n || g.InFlight != 0 || g.QueuedOps != 0 {
		t.Errorf("gauges %+v, observed %d", g, observed.Load())
	}
}

// Stores of one step share a batch, also when the writer is idle and much time passes
// between them.
func TestStoresOfOneStepShareABatch(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", pace{})
	const rounds = 10
	for i := range rounds {
		first := put(core.Token(2*i+1), "demo", "a", fmt.Sprint(i))
		first.More = true
		until(t, "the writer to rest", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.listens
		})
		s.Do(first)
		time.Sleep(2 * defaultPace().spacing) // long enough for a writer that were awake
		s.Do(put(core.Token(2*i+2), "demo", "b", fmt.Sprint(i)))
		h.awaitFinal(t, core.Token(2*i+2), "stored")
	}
	if g := s.Gauges(); g.Commits != rounds {
		t.Errorf("%d batches for %d steps of two Stores each", g.Commits, rounds)
	}
}

// Under load batches keep their spacing, however fast etcd answers, and nothing is left
// behind when the load ends.
func TestBatchesKeepTheirSpacing(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", pace{})
	began := time.Now()
	const n = 200
	for i := range n {
		s.Do(put(core.Token(i+1), "demo", fmt.Sprint("k", i), "v"))
		time.Sleep(500 * time.Microsecond)
	}
	h.awaitFinal(t, n, "stored")
	most := uint64(time.Since(began)/defaultPace().spacing) + 1
	if g := s.Gauges(); g.Commits > most {
		t.Errorf("%d batches in %v, at most %d fit", g.Commits, time.Since(began), most)
	}
}

func TestLastOfSeveralWritesOfOneKeyHolds(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", pace{})
	gate := make(chan struct{})
	r.faults.set(func(*pb.TxnRequest) fault { <-gate; return noFault })
	s.Do(put(1, "demo", "first", "x"))
	until(t, "the first batch", func() bool { return s.Gauges().InFlight > 0 })
	s.Do(put(2, "demo", "a", "1", "a", "2"))
	s.Do(put(3, "demo", "a", "3", "b", "1"))
	s.Do(core.Store{Token: 4, Tenant: "demo", Ops: []core.Op{{Key: "b"}}})
	s.Do(core.Store{Token: 5, Tenant: "demo"}) // no change at all
	s.Do(core.Store{Token: 6, Tenant: "demo", Ops: []core.Op{{Key: "empty", Value: []byte{}}}})
	close(gate)
	h.awaitFinal(t, 6, "stored")
	for token := range core.Token(6) {
		h.awaitFinal(t, token+1, "stored")
	}
	if a, b := r.value("demo", "a"), r.value("demo", "b"); a != "3" || b != "" {
		t.Errorf("a %q, b %q", a, b)
	}
	if reply, err := r.plain.Get(t.Context(), "t/demo/empty"); err != nil || len(reply.Kvs) != 1 {
		t.Errorf("an empty value is not a deletion: %v %v", reply, err)
	}
	if n := len(r.faults.batches()); n != 2 {
		t.Errorf("%d batches, want 2: the first write alone, then what had waited", n)
	}
}

// etcd's rule 6 of unknown outcomes: an error is not "not written" (etcd-io/etcd, api_guarantees).
func TestUnknownOutcomeIsResolved(t *testing.T) {
	for _, kind := range []fault{lostAsk, lostReply, noSpace, silent, stallReply, newLeader, late, twice} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t)
			s, h := r.open("n1", quick())
			r.faults.set(once(kind))
			s.Do(put(1, "demo", "a", "1"))
			s.Do(put(2, "demo", "a", "2", "b", "2"))
			h.awaitFinal(t, 2, "stored")
			h.awaitFinal(t, 1, "stored")
			if a := r.value("demo", "a"); a != "2" {
				t.Errorf("a is %q", a)
			}
			// Late copies of what was sent: none may commit.
			if n := r.faults.flush(); n != 0 {
				t.Errorf("%d late copies committed", n)
			}
			if a := r.value("demo", "a"); a != "2" {
				t.Errorf("after the late copies a is %q", a)
			}
			h.final(t)
			if fenced := s.Gauges().Fenced; fenced {
				t.Error("fenced")
			}
		})
	}
}

func TestUnknownIsToldOnceAlsoToThoseBehind(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	r.faults.setAway(true)
	s.Do(put(1, "demo", "a", "1"))
	until(t, "the first batch", func() bool { return s.Gauges().InFlight > 0 })
	s.Do(put(2, "demo", "b", "2"))
	h.awaitUnknown(t, 1)
	h.awaitUnknown(t, 2)
	if g := s.Gauges(); g.Unknown != 2 || g.InFlight < quick().warn {
		t.Errorf("gauges %+v", g)
	}
	if final := h.final(t); len(final) != 0 {
		t.Errorf("final while etcd is away: %v", final)
	}
	r.faults.set(nil)
	h.awaitFinal(t, 1, "stored")
	h.awaitFinal(t, 2, "stored")
	h.final(t)
}

// A claim by another node: it writes the chain of the one it takes over from.
func TestForeignLinkFences(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
	if _, err := r.plain.Put(t.Context(), "chains/n1", "claim by n2"); err != nil {
		t.Fatal(err)
	}
	s.Do(put(2, "demo", "a", "2"))
	s.Do(put(3, "demo", "b", "3"))
	h.awaitFinal(t, 2, "fenced")
	h.awaitFinal(t, 3, "fenced")
	s.Do(put(4, "demo", "b", "4"))
	h.awaitFinal(t, 4, "fenced")
	if a, b := r.value("demo", "a"), r.value("demo", "b"); a != "1" || b != "" || !s.Gauges().Fenced {
		t.Errorf("a %q, b %q, %+v", a, b, s.Gauges())
	}
	if reply, _ := r.plain.Get(t.Context(), "chains/n1"); string(reply.Kvs[0].Value) != "claim by n2" {
		t.Errorf("the claim was overwritten")
	}
}

// Interleaving of the package comment: is a batch that was open when another claimed
// written or not? Fenced must mean that it was not.
func TestFencedIsNeverSaidOfAWrittenBatch(t *testing.T) {
	for _, kind := range []fault{lostReply, lostAsk} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t)
			s, h := r.open("n1", quick())
			r.faults.set(func(*pb.TxnRequest) fault { r.faults.away = true; return kind })
			s.Do(put(1, "demo", "a", "1"))
			h.awaitUnknown(t, 1)
			for _, claim := range []string{"claim by n2", "claim by n3"} {
				if _, err := r.plain.Put(t.Context(), "chains/n1", claim); err != nil {
					t.Fatal(err)
				}
			}
			s.Do(put(2, "demo", "b", "2"))
			r.faults.set(nil)
			h.awaitFinal(t, 2, "fenced")
			h.awaitFinal(t, 1, map[fault]string{lostReply: "stored", lostAsk: "fenced"}[kind])
			if a, want := r.value("demo", "a"), map[fault]string{lostReply: "1", lostAsk: ""}[kind]; a != want {
				t.Errorf("a is %q, want %q", a, want)
			}
			h.final(t)
		})
	}
}

func TestLeaseExpiryIsHealed(t *testing.T) {
	for _, kind := range []fault{noFault, lostAsk, lostReply, late, stallReply} {
		t.Run("claim: "+string(kind), func(t *testing.T) {
			r := newRig(t)
			s, h := r.open("n1", quick())
			s.Do(put(1, "demo", "a", "1"))
			h.awaitFinal(t, 1, "stored")
			r.faults.setAway(true)
			s.Do(put(2, "demo", "a", "2"))
			h.awaitUnknown(t, 2)
			r.expire("n1")
			// The first Txn that writes is refused, the second is the claim.
			skip := true
			first := once(kind)
			r.faults.set(func(in *pb.TxnRequest) fault {
				if skip && len(in.Success) == 3 && string(in.Success[0].GetRequestPut().Key) == "nodes/n1" {
					skip = false
					return first(in)
				}
				return noFault
			})
			h.awaitFinal(t, 2, "stored")
			if r.faults.flush() != 0 {
				t.Error("a late copy committed")
			}
			if a, g := r.value("demo", "a"), s.Gauges(); a != "2" || g.Claims != 2 || g.Fenced {
				t.Errorf("a %q, %+v", a, g)
			}
			if reply, err := r.plain.Get(t.Context(), "nodes/n1"); err != nil || len(reply.Kvs) != 1 || reply.Kvs[0].Lease == 0 {
				t.Errorf("node key: %v %v", reply, err)
			}
		})
	}
}

// expire ends the node's lease, as etcd does when nothing is heard of it.
func (r *rig) expire(node core.NodeID) {
	r.t.Helper()
	reply, err := r.plain.Get(context.Background(), nodeKey(node))
	if err != nil || len(reply.Kvs) != 1 {
		r.t.Fatalf("node key: %v %v", reply, err)
	}
	if _, err := r.plain.Revoke(context.Background(), clientv3.LeaseID(reply.Kvs[0].Lease)); err != nil {
		r.t.Fatal(err)
	}
}

// An idle node's presence must come back by itself: others would take it for dead.
func TestIdleNodeClaimsAgain(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	r.expire("n1")
	until(t, "the claim", func() bool { return s.Gauges().Claims == 2 })
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
}

func TestLeaseExpiryWithAForeignClaimFences(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	r.faults.setAway(true)
	s.Do(put(1, "demo", "a", "1"))
	h.awaitUnknown(t, 1)
	r.expire("n1")
	if _, err := r.plain.Put(t.Context(), "chains/n1", "claim by n2"); err != nil {
		t.Fatal(err)
	}
	r.faults.set(nil)
	h.awaitFinal(t, 1, "fenced")
	if g := s.Gauges(); g.Claims != 1 || !g.Fenced || r.value("demo", "a") != "" {
		t.Errorf("%+v, a %q", g, r.value("demo", "a"))
	}
}

// A restart takes over at once; the process that was there before is fenced.
func TestSameNodeTakesOverAtOnce(t *testing.T) {
	r := newRig(t)
	s1, h1 := r.open("n1", quick())
	s1.Do(put(1, "demo", "a", "1"))
	h1.awaitFinal(t, 1, "stored")
	began := time.Now()
	h2 := newHeard()
	s2, restored, err := Open(t.Context(), Config{Client: r.client, Node: "n1", LeaseTTL: time.Minute, Emit: h2.emit})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v, though the lease is the node's own", took)
	}
	node, err := r.plain.Get(t.Context(), "nodes/n1")
	if err != nil || len(node.Kvs) != 1 || node.Kvs[0].ModRevision != int64(restored.Incarnation) {
		t.Errorf("incarnation %d, node key %v %v", restored.Incarnation, node, err)
	}
	want := []core.Entry{{Key: "nodes/n1", Value: []byte{}, Revision: restored.Incarnation}, {Tenant: "demo", Key: "a", Value: []byte("1")}}
	a, _ := r.plain.Get(t.Context(), "t/demo/a")
	want[1].Revision = core.Revision(a.Kvs[0].ModRevision)
	if diff := cmp.Diff(want, restored.Entries); diff != "" {
		t.Errorf("restored (-want +got)\n%s", diff)
	}
	s1.Do(put(2, "demo", "a", "old process"))
	s2.Do(put(3, "demo", "a", "new process"))
	h1.awaitFinal(t, 2, "fenced")
	h2.awaitFinal(t, 3, "stored")
	if a := r.value("demo", "a"); a != "new process" {
		t.Errorf("a is %q", a)
	}
	if err := s2.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if reply, _ := r.plain.Get(t.Context(), "nodes/n1"); len(reply.Kvs) != 0 {
		t.Error("the node's key outlived Close")
	}
}

func TestEtcdStoppedForAWhile(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
	r.etcd.Stop()
	for i := range core.Token(200) {
		s.Do(put(100+i, "demo", fmt.Sprint("k", i), "v"))
	}
	h.awaitUnknown(t, 299)
	if err := r.etcd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range core.Token(200) {
		h.awaitFinal(t, 100+i, "stored")
	}
	h.final(t)
	if !strings.Contains(r.log.String(), "etcd does not answer") {
		t.Error("nothing was logged")
	}
}

func TestMalformedStoresAreConflictsAlone(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	big := string(make([]byte, MaxBytes))
	many := core.Store{Token: 5, Tenant: "demo"}
	most := core.Store{Token: 6, Tenant: "demo"}
	for i := range MaxOps + 1 {
		op := core.Op{Key: fmt.Sprint("k", i), Value: []byte("v")}
		if many.Ops = append(many.Ops, op); i < MaxOps {
			most.Ops = append(most.Ops, op)
		}
	}
	s.Do(put(1, "../acme", "a", "1"))
	s.Do(put(2, "", "a", "1"))
	s.Do(put(3, "demo", "ok", "1", "/a", "1"))
	s.Do(put(4, "demo", "a", big))
	s.Do(many)
	s.Do(most)
	s.Do(put(7, "demo", "a", big[:MaxBytes-len("t/demo/a")]))
	for token, want := range map[core.Token]string{1: "conflict", 2: "conflict", 3: "conflict", 4: "conflict", 5: "conflict", 6: "stored", 7: "stored"} {
		h.awaitFinal(t, token, want)
	}
	if ok := r.value("demo", "ok"); ok != "" {
		t.Errorf("a part of a refused Store was written: %q", ok)
	}
	if g := s.Gauges(); g.Refused != 5 {
		t.Errorf("%+v", g)
	}
}

// A server with lower limits refuses a batch for its form: each of its Stores is tried
// alone, exactly, also when an earlier copy of the batch is still under way.
func TestRefusedFormIsSplit(t *testing.T) {
	for _, before := range []fault{noFault, late, lostReply, lostAsk} {
		t.Run("before: "+string(before), func(t *testing.T) {
			r := newRig(t)
			s, h := r.open("n1", quick())
			gate := make(chan struct{})
			first := true
			r.faults.set(func(in *pb.TxnRequest) fault {
				<-gate
				if len(in.Success) > 3 && first && before != noFault {
					first = false
					return before
				}
				if len(in.Success) > 3 {
					return badForm
				}
				return noFault
			})
			s.Do(put(1, "demo", "first", "x"))
			until(t, "the first batch", func() bool { return s.Gauges().InFlight > 0 })
			s.Do(put(2, "demo", "a", "2"))
			s.Do(put(3, "demo", "a", "3", "b", "3", "c", "3"))
			s.Do(put(4, "demo", "a", "4", "d", "4"))
			close(gate)
			third, a, b := "conflict", "4", ""
			if before == lostReply { // the batch was committed before the limit was lowered
				third, b = "stored", "3"
			}
			h.awaitFinal(t, 4, "stored")
			h.awaitFinal(t, 2, "stored")
			h.awaitFinal(t, 3, third)
			if n := r.faults.flush(); n != 0 {
				t.Errorf("%d late copies committed", n)
			}
			if gotA, gotB := r.value("demo", "a"), r.value("demo", "b"); gotA != a || gotB != b {
				t.Errorf("a %q b %q, want %q %q", gotA, gotB, a, b)
			}
			h.final(t)
		})
	}
}

// Conflict says that nothing was written and nothing will be: not by a late copy either.
func TestConflictHoldsAgainstALateCopy(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	first := true
	r.faults.set(func(in *pb.TxnRequest) fault {
		switch {
		case len(in.Success) <= 3:
			return noFault
		case first:
			first = false
			return late
		default:
			return badForm
		}
	})
	s.Do(put(1, "demo", "a", "1", "b", "1", "c", "1"))
	h.awaitFinal(t, 1, "conflict")
	if n := r.faults.flush(); n != 0 || r.value("demo", "a") != "" {
		t.Errorf("%d late copies committed, a is %q", n, r.value("demo", "a"))
	}
	s.Do(put(2, "demo", "a", "2"))
	h.awaitFinal(t, 2, "stored")
}

// Between the end of the lease and the claim nothing is written, though nobody claimed:
// others count a node without a lease as dead.
func TestNothingIsWrittenWithoutAnIncarnation(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", pace{}) // its keepalive notices later
	r.expire("n1")
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
	if g := s.Gauges(); g.Claims != 2 {
		t.Errorf("written with %d claims", g.Claims)
	}
	node, err := r.plain.Get(t.Context(), "nodes/n1")
	if err != nil || len(node.Kvs) != 1 {
		t.Fatalf("%v %v", node, err)
	}
	if a, _ := r.plain.Get(t.Context(), "t/demo/a"); a.Kvs[0].ModRevision < node.Kvs[0].CreateRevision {
		t.Error("the write is older than the incarnation")
	}
}

func TestQueueIsBounded(t *testing.T) {
	r := newRig(t)
	const room = 2000
	h := newHeard()
	s, _, err := Open(t.Context(), Config{Client: r.client, Node: "n1", Emit: h.emit, pace: quick(), queueOps: room})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	r.faults.setAway(true)
	const n = room + 200
	for i := range n {
		s.Do(put(core.Token(i+1), "demo", fmt.Sprint("k", i%1000), "v"))
	}
	s.Do(core.Store{Token: n + 1, Tenant: "demo"}) // no operation takes no room, but is bounded too
	h.awaitFinal(t, n, "conflict")
	if g := s.Gauges(); g.QueuedOps > room || g.Refused < 100 || g.Refused > 201 {
		t.Errorf("%+v", g)
	}
	r.faults.set(nil)
	h.awaitFinal(t, 1, "stored")
	until(t, "room", func() bool { return s.Gauges().QueuedOps == 0 })
	s.Do(put(n+2, "demo", "a", "v"))
	h.awaitFinal(t, n+2, "stored")
	if final := h.final(t); len(final) != n+2 {
		t.Errorf("%d of %d have an outcome", len(final), n+2)
	}
	if h.final(t)[n+1] != "conflict" {
		t.Errorf("an empty write found room: %s", h.final(t)[n+1])
	}
}

func TestFullInboxLosesNoOutcome(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	turn := 0
	h.full = func() bool { turn++; return turn%3 != 0 }
	for i := range core.Token(300) {
		s.Do(put(i+1, "demo", fmt.Sprint("k", i), "v"))
		s.Do(put(1000+i, "", "a", "v"))
	}
	for i := range core.Token(300) {
		h.awaitFinal(t, i+1, "stored")
		h.awaitFinal(t, 1000+i, "conflict")
	}
	h.final(t)
}

func TestCloseFlushes(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	for i := range core.Token(500) {
		s.Do(put(i+1, "demo", fmt.Sprint("k", i), "v"))
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if final := h.final(t); len(final) != 500 {
		t.Errorf("%d outcomes", len(final))
	}
	s.Do(put(501, "demo", "a", "v"))
	h.awaitFinal(t, 501, "conflict")
	s2, h2 := r.open("n2", quick())
	r.faults.setAway(true)
	s2.Do(put(1, "demo", "late", "v"))
	h2.awaitUnknown(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s2.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 writes") {
		t.Errorf("Close with etcd away: %v", err)
	}
}

// takeAway claims a node as a survivor does: with whatever incarnation it has, or had last.
func (r *rig) takeAway(node core.NodeID) error {
	for {
		reply, err := r.plain.Get(context.Background(), nodeKey(node))
		if err != nil {
			return err
		}
		if len(reply.Kvs) == 0 {
			time.Sleep(time.Millisecond) // its lease has expired: it comes back with the next write
			continue
		}
		rev := reply.Kvs[0].ModRevision
		txn, err := r.plain.Txn(context.Background()).If(clientv3.Compare(clientv3.ModRevision(nodeKey(node)), "=", rev)).
			Then(clientv3.OpDelete(nodeKey(node)), clientv3.OpPut(claimKey(node, rev), "by another")).Commit()
		if err != nil || txn.Succeeded {
			return err
		}
	}
}

// An earlier version kept the chain below nodes/: its process is fenced, and the key goes.
func TestFormerChainIsRemoved(t *testing.T) {
	r := newRig(t)
	if _, err := r.plain.Put(t.Context(), "nodes/n1/chain", "n1.0123.7"); err != nil {
		t.Fatal(err)
	}
	r.open("n1", quick())
	if reply, err := r.plain.Get(t.Context(), "nodes/n1", clientv3.WithPrefix()); err != nil || len(reply.Kvs) != 1 || string(reply.Kvs[0].Key) != "nodes/n1" {
		t.Errorf("%v %v", reply, err)
	}
	if reply, err := r.plain.Get(t.Context(), "chains/n1"); err != nil || len(reply.Kvs) != 1 {
		t.Errorf("%v %v", reply, err)
	}
}
