package etcd

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// scene is a cluster with what it has answered and committed so far.
type scene struct {
	t       testing.TB
	c       *Cluster
	now     core.Time
	next    RequestID
	via     MemberID // of must
	got     map[RequestID][]Answer
	commits []Commit
}

func newScene(t testing.TB, seed uint64, change func(*Config)) *scene {
	s := &scene{t: t, got: map[RequestID][]Answer{}}
	cfg := Usual()
	cfg.Seen = func(k Commit) { s.commits = append(s.commits, k) }
	if change != nil {
		change(&cfg)
	}
	s.c = New(cfg, rand.New(rand.NewPCG(seed, 7)))
	return s
}

func (s *scene) ask(via MemberID, timeout time.Duration, leader bool, do Action) RequestID {
	s.next++
	s.c.Ask(s.now, Request{Client: "n1", ID: s.next, Timeout: timeout, Via: via, NeedLeader: leader, Do: do})
	return s.next
}

func (s *scene) pass(d time.Duration) {
	end := s.now.Add(d)
	for s.c.Deadline() <= end {
		s.now = s.c.Deadline()
		for _, a := range s.c.Step(s.now, nil) {
			s.got[a.ID] = append(s.got[a.ID], a)
		}
	}
	s.now = end
	s.c.Step(end, nil)
}

// answer returns the only answer of a request.
func (s *scene) answer(id RequestID) Answer {
	s.t.Helper()
	if len(s.got[id]) != 1 {
		s.t.Fatalf("request %d has %d answers: %+v", id, len(s.got[id]), s.got[id])
	}
	return s.got[id][0]
}

// must asks, waits and wants no error.
func (s *scene) must(do Action) Answer {
	s.t.Helper()
	id := s.ask(s.via, time.Second, false, do)
	for len(s.got[id]) == 0 {
		s.pass(time.Millisecond)
	}
	if a := s.answer(id); a.Err != "" {
		s.t.Fatalf("%+v: %s", do, a.Err)
	}
	return s.answer(id)
}

// committed returns the place of a request's commit, -1 for none.
func (s *scene) committed(id RequestID) int {
	for i, k := range s.commits {
		if k.ID == id && k.Client != "" {
			return i
		}
	}
	return -1
}

func putOf(key, value string) Txn {
	return Txn{Then: []Op{{Kind: Put, Key: key, Value: []byte(value)}}}
}

func TestLateRequestIsCarriedOutAfterTheNextOne(t *testing.T) {
	after := 0
	for seed := range uint64(40) {
		s := newScene(t, seed, nil)
		s.must(putOf("k", "0"))
		s.c.Inject(s.now, Fault{Kind: CutTo, Client: "n1", Member: 2, For: 2 * time.Second})
		late := s.ask(2, time.Second, false, putOf("k", "late"))
		s.pass(1500 * time.Millisecond)
		if a := s.answer(late); a.Err != ErrDeadline {
			t.Fatalf("the late one: %+v", a)
		}
		next := s.ask(1, time.Second, false, putOf("k", "next"))
		s.pass(3 * time.Second)
		if s.answer(next).Err != "" || s.committed(next) < 0 {
			t.Fatalf("the next one: %+v", s.answer(next))
		}
		if s.committed(late) > s.committed(next) {
			after++
		} else if s.committed(late) >= 0 {
			t.Fatal("it was carried out while its link was cut")
		}
	}
	if after == 0 || after == 40 {
		t.Errorf("of 40 late requests %d were carried out after the next one", after)
	}
}

func TestRequestIsLostWithTheConnection(t *testing.T) {
	s := newScene(t, 1, nil)
	s.must(putOf("k", "0"))
	s.c.Inject(s.now, Fault{Kind: CutTo, Client: "n1", Member: 2, For: 20 * time.Second})
	id := s.ask(2, 10*time.Second, false, putOf("k", "1"))
	s.pass(30 * time.Second)
	if a := s.answer(id); a.Err != ErrUnavailable || s.committed(id) >= 0 {
		t.Fatalf("%+v, commit %d", a, s.committed(id))
	}
}

func TestAnswerIsLost(t *testing.T) {
	s := newScene(t, 1, nil)
	s.must(putOf("k", "0"))
	s.c.Inject(s.now, Fault{Kind: CutFrom, Client: "n1", Member: 2, For: 20 * time.Second})
	id := s.ask(2, time.Second, false, putOf("k", "1"))
	s.pass(2 * time.Second)
	if a := s.answer(id); a.Err != ErrDeadline || s.committed(id) < 0 {
		t.Fatalf("%+v, commit %d", a, s.committed(id))
	}
}

// What a leader had in its log when it was lost is carried out by the next one from its
// beginning up to some point, and the rest never.
func TestNextLeaderCarriesOutABeginning(t *testing.T) {
	lengths := map[int]int{}
	for seed := range uint64(60) {
		s := newScene(t, seed, func(cfg *Config) { cfg.Commit = Span{200 * time.Millisecond, 200 * time.Millisecond} })
		s.must(putOf("k", "0"))
		var ids []RequestID
		for i := range 5 {
			ids = append(ids, s.ask(1, time.Second, false, putOf("k", fmt.Sprint(i))))
		}
		s.pass(50 * time.Millisecond)
		s.c.Inject(s.now, Fault{Kind: Isolate, Member: 1, For: 20 * time.Second})
		s.pass(30 * time.Second)
		n := 0
		for i, id := range ids {
			if s.answer(id).Err != ErrDeadline {
				t.Fatalf("seed %d: %+v", seed, s.answer(id))
			}
			if s.committed(id) >= 0 {
				if n++; n != i+1 {
					t.Fatalf("seed %d: of what was in the log, %d was carried out and one before it was not", seed, i)
				}
			}
		}
		lengths[n]++
		if s.c.Leader() == 1 {
			t.Fatalf("seed %d: the lone member still leads", seed)
		}
	}
	if lengths[0] == 0 || lengths[5] == 0 || len(lengths) < 4 {
		t.Errorf("how many were carried out: %v", lengths)
	}
}

func TestLeaderChangeTakesItsTime(t *testing.T) {
	for seed := range uint64(30) {
		s := newScene(t, seed, nil)
		s.must(putOf("k", "0"))
		began := s.now
		s.c.Inject(s.now, Fault{Kind: Elect})
		var ids []RequestID
		for range 30 {
			ids = append(ids, s.ask(0, 100*time.Millisecond, false, putOf("k", "1")))
			s.pass(100 * time.Millisecond)
		}
		s.pass(5 * time.Second)
		for _, id := range ids {
			if a := s.answer(id); a.Err == "" {
				if d := a.At.Sub(began); d < 300*time.Millisecond || d > 2*time.Second {
					t.Errorf("seed %d: the first write after %v", seed, d)
				}
				break
			}
		}
	}
}

func TestLeaseExpires(t *testing.T) {
	s := newScene(t, 1, nil)
	grant := s.must(Grant{TTL: 1})
	lease := grant.Reply.(LeaseReply)
	if lease.TTL != 2 {
		t.Fatalf("granted %d s, the least is 2", lease.TTL)
	}
	s.must(Txn{Then: []Op{{Kind: Put, Key: "nodes/n1", Lease: lease.Lease}, {Kind: Put, Key: "nodes/n1/x", Lease: lease.Lease}}})
	for range 10 {
		s.pass(500 * time.Millisecond)
		s.must(KeepAlive{Lease: lease.Lease})
	}
	renewed := s.now
	s.pass(10 * time.Second)
	last := s.commits[len(s.commits)-1]
	if d := last.At.Sub(renewed); last.Client != "" || d < 1900*time.Millisecond || d > 2700*time.Millisecond {
		t.Fatalf("the lease ended %v after a keepalive was answered: %+v", d, last)
	}
	if r := s.must(Range{Key: "nodes/", End: "nodes0"}).Reply.(RangeReply); r.Count != 0 {
		t.Fatalf("left: %+v", r)
	}
	id := s.ask(0, time.Second, false, KeepAlive{Lease: lease.Lease})
	s.pass(time.Second)
	if s.answer(id).Err != ErrLeaseNotFound {
		t.Fatalf("keepalive: %+v", s.answer(id))
	}
}

func TestNewLeaderExtendsLeases(t *testing.T) {
	s := newScene(t, 3, nil)
	lease := s.must(Grant{TTL: 3}).Reply.(LeaseReply).Lease
	granted := s.commits[0].At
	s.pass(500 * time.Millisecond)
	s.c.Inject(s.now, Fault{Kind: Pause, Member: 0, For: 30 * time.Second})
	for s.c.Leader() == 0 {
		s.pass(10 * time.Millisecond)
	}
	elected := s.now
	s.pass(20 * time.Second)
	last := s.commits[len(s.commits)-1]
	if d := last.At.Sub(elected); last.Do.(Revoke).Lease != lease || d < 3900*time.Millisecond || d > 5*time.Second {
		t.Fatalf("ended %v after the election (and %v after the grant): %+v", d, last.At.Sub(granted), last)
	}
}

func TestMemberCutOffFromItsPeers(t *testing.T) {
	s := newScene(t, 1, nil)
	s.via = 1
	s.must(putOf("k", "0"))
	s.pass(time.Second)
	deaf := s.ask(3, 0, false, Watch{Key: "k"})
	asks := s.ask(3, 0, true, Watch{Key: "k"})
	s.pass(time.Second)
	s.c.Inject(s.now, Fault{Kind: Isolate, Member: 3, For: 20 * time.Second})
	s.must(putOf("k", "1"))
	old := s.ask(3, time.Second, false, Range{Key: "k", Serializable: true})
	read := s.ask(3, time.Second, false, Range{Key: "k"})
	write := s.ask(3, time.Second, false, putOf("k", "2"))
	compare := s.ask(3, time.Second, false, Txn{If: []Compare{{Key: "k", Target: Value, Is: Equal, Value: []byte("0")}}})
	s.pass(3 * time.Second)
	if kv := s.answer(old).Reply.(RangeReply).KVs[0]; string(kv.Value) != "0" {
		t.Errorf("serializable: %q", kv.Value)
	}
	if s.answer(read).Err != ErrDeadline || s.answer(write).Err != ErrDeadline || s.committed(write) >= 0 {
		t.Errorf("read %+v, write %+v", s.answer(read), s.answer(write))
	}
	if !s.answer(compare).Reply.(TxnReply).Succeeded {
		t.Errorf("a Txn of comparisons only is serializable, and sees what the member has")
	}
	s.pass(6 * time.Second)
	refused := s.ask(3, time.Second, true, Range{Key: "k", Serializable: true})
	s.pass(time.Second)
	if s.answer(refused).Err != ErrNoLeader {
		t.Errorf("a leader was required: %+v", s.answer(refused))
	}
	if heard := s.got[asks]; len(heard) != 2 || heard[1].Err != ErrNoLeader {
		t.Errorf("the watch that requires a leader: %+v", heard)
	}
	if heard := s.got[deaf]; len(heard) != 1 {
		t.Errorf("the watch that does not: %+v", heard)
	}
	s.pass(20 * time.Second)
	if heard := s.got[deaf]; len(heard) != 2 || string(heard[1].Reply.(WatchReply).Events[0].KV.Value) != "1" {
		t.Errorf("the watch that does not, later: %+v", heard)
	}
}

func TestNoQuorum(t *testing.T) {
	s := newScene(t, 1, nil)
	s.must(putOf("k", "0"))
	s.c.Inject(s.now, Fault{Kind: Crash, Member: 2, For: 10 * time.Second})
	s.c.Inject(s.now, Fault{Kind: Crash, Member: 3, For: 10 * time.Second})
	id := s.ask(1, time.Second, false, putOf("k", "1"))
	s.pass(9 * time.Second)
	if s.answer(id).Err != ErrDeadline || s.committed(id) >= 0 || s.c.Leader() != 0 {
		t.Fatalf("without a majority: %+v, leader %d", s.answer(id), s.c.Leader())
	}
	s.pass(10 * time.Second)
	s.must(putOf("k", "2"))
}

func TestPausedMemberCarriesOutWhatWaited(t *testing.T) {
	late := 0
	for seed := range uint64(40) {
		s := newScene(t, seed, nil)
		s.must(putOf("k", "0"))
		s.c.Inject(s.now, Fault{Kind: Pause, Member: 1, For: 3 * time.Second})
		id := s.ask(1, time.Second, false, putOf("k", "1"))
		s.pass(2 * time.Second)
		if s.answer(id).Err != ErrDeadline || s.committed(id) >= 0 {
			t.Fatalf("seed %d: %+v", seed, s.answer(id))
		}
		s.pass(5 * time.Second)
		if s.committed(id) >= 0 {
			late++
		}
	}
	if late == 0 || late == 40 {
		t.Errorf("of 40 requests to a paused leader %d were carried out after it went on", late)
	}
}

func TestNoSpaceMayStillCommit(t *testing.T) {
	s := newScene(t, 1, func(cfg *Config) { cfg.Commit = Span{50 * time.Millisecond, 50 * time.Millisecond} })
	s.must(putOf("k", "0"))
	before := s.ask(1, time.Second, false, putOf("k", "1"))
	s.pass(10 * time.Millisecond)
	s.c.Inject(s.now, Fault{Kind: NoSpace, For: 10 * time.Second})
	after := s.ask(1, time.Second, false, putOf("k", "2"))
	lease := s.ask(1, time.Second, false, Grant{TTL: 10})
	gone := s.ask(1, time.Second, false, Txn{Then: []Op{{Kind: Delete, Key: "k"}}})
	s.pass(time.Second)
	if s.answer(before).Err != ErrNoSpace || s.committed(before) < 0 {
		t.Errorf("in flight: %+v, commit %d", s.answer(before), s.committed(before))
	}
	if s.answer(after).Err != ErrNoSpace || s.committed(after) >= 0 || s.answer(lease).Err != ErrNoSpace {
		t.Errorf("asked under the alarm: %+v, %+v", s.answer(after), s.answer(lease))
	}
	if s.answer(gone).Err != "" {
		t.Errorf("a deletion: %+v", s.answer(gone))
	}
	s.pass(10 * time.Second)
	s.must(putOf("k", "3"))
}

func TestWatchThatLagsIsCompactedAway(t *testing.T) {
	s := newScene(t, 1, nil)
	s.must(putOf("k", "0"))
	id := s.ask(1, 0, false, Watch{Key: "k"})
	s.pass(time.Second)
	s.c.Inject(s.now, Fault{Kind: LagWatch, Client: "n1", Member: 1, For: 10 * time.Second})
	for range 4 {
		s.must(putOf("k", "1"))
	}
	s.must(Compact{Revision: s.c.Revision()})
	if len(s.got[id]) != 1 {
		t.Fatalf("it lags, and hears %+v", s.got[id])
	}
	s.pass(20 * time.Second)
	last := s.got[id][len(s.got[id])-1]
	if last.Err != ErrCompacted || last.Reply.(WatchReply).Compacted != s.c.Revision() {
		t.Fatalf("%+v", last)
	}
}

func TestOneWatchLags(t *testing.T) {
	s := newScene(t, 1, nil)
	slow := s.ask(1, 0, false, Watch{Key: "k"})
	quick := s.ask(1, 0, false, Watch{Key: "k"})
	s.pass(time.Second)
	s.c.Inject(s.now, Fault{Kind: LagWatch, Client: "n1", Watch: slow, For: 10 * time.Second})
	s.c.Inject(s.now, Fault{Kind: Reset, Client: "n1", Member: 1}) // it lags wherever it is
	s.pass(3 * time.Second)
	s.must(putOf("k", "1"))
	s.must(putOf("k", "2"))
	s.pass(time.Second)
	if len(s.got[slow]) != 1 || len(s.got[quick]) < 3 {
		t.Fatalf("the slow one: %+v, the quick one: %+v", s.got[slow], s.got[quick])
	}
	s.pass(10 * time.Second)
	if heard := s.got[slow]; len(heard) != 2 || len(heard[1].Reply.(WatchReply).Events) != 2 {
		t.Fatalf("the slow one, later: %+v", heard)
	}
}

func TestMemberThatWasDownForLong(t *testing.T) {
	s := newScene(t, 1, nil)
	s.via = 1
	s.must(Txn{Then: []Op{{Kind: Put, Key: "a"}, {Kind: Put, Key: "b"}}})
	s.c.Inject(s.now, Fault{Kind: Crash, Member: 3, For: 20 * time.Second})
	for range 3000 {
		s.must(putOf("b", "1"))
	}
	s.must(Compact{Revision: s.c.Revision()})
	if s.c.keys.past.next-s.c.keys.past.base > 2*historyLeaf {
		t.Errorf("history of %d changes is kept for a member that is down", s.c.keys.past.next-s.c.keys.past.base)
	}
	s.pass(30 * time.Second)
	id := s.ask(3, time.Second, false, Range{Key: "a", End: "z", Serializable: true})
	s.pass(time.Second)
	if r := s.answer(id); r.Err != "" || r.Revision != s.c.Revision() || r.Reply.(RangeReply).Count != 2 {
		t.Errorf("%+v", r)
	}
}

func TestWatchGoesOnElsewhere(t *testing.T) {
	s := newScene(t, 1, func(cfg *Config) { cfg.FragmentBytes = 60 })
	s.must(putOf("k", "0"))
	id := s.ask(0, 0, true, Watch{Key: "k", End: "l", From: 2, Fragment: true})
	for i := range 40 {
		var t Txn
		for j := range 5 {
			t.Then = append(t.Then, Op{Kind: Put, Key: fmt.Sprint("k", j), Value: []byte(fmt.Sprint(i))})
		}
		s.must(t)
		s.pass(300 * time.Millisecond)
		if i%4 == 0 {
			s.c.Inject(s.now, Fault{Kind: []FaultKind{Reset, Refuse}[i/4%2], Member: MemberID(1 + i%3), For: time.Second})
		}
	}
	s.pass(5 * time.Second)
	seen, members, rev := 0, map[MemberID]bool{}, core.Revision(1)
	for _, a := range s.got[id] {
		for _, e := range a.Reply.(WatchReply).Events {
			if e.KV.Mod < rev || e.KV.Mod > rev+1 {
				t.Fatalf("revision %d after %d", e.KV.Mod, rev)
			}
			rev = e.KV.Mod
			seen++
		}
		members[a.Member] = true
		if rev != max(1, a.Revision) && len(a.Reply.(WatchReply).Events) > 0 {
			t.Fatalf("a message ends within revision %d", rev)
		}
	}
	if seen != 1+40*5 || len(members) < 2 {
		t.Fatalf("%d events, from members %v", seen, members)
	}
}

func TestFormIsRefused(t *testing.T) {
	s := newScene(t, 1, nil)
	many := Txn{}
	for i := range 129 {
		many.Then = append(many.Then, Op{Kind: Put, Key: fmt.Sprint(i)})
	}
	for _, c := range []struct {
		do   Action
		want Error
	}{
		{Range{}, ErrEmptyKey},
		{Txn{If: []Compare{{Target: Version}}}, ErrEmptyKey},
		{many, ErrTooManyOps},
		{Txn{Then: many.Then[:128]}, ""},
		{Txn{Else: []Op{{Kind: Put, Key: "a"}, {Kind: Put, Key: "a"}}}, ErrDuplicateKey},
		{Txn{Then: []Op{{Kind: Put, Key: "a"}, {Kind: Delete, Key: "a"}}}, ErrDuplicateKey},
		{Txn{Then: []Op{{Kind: Put, Key: "b"}, {Kind: Delete, Key: "a", End: "c"}}}, ErrDuplicateKey},
		{Txn{Then: []Op{{Kind: Delete, Key: "a"}, {Kind: Delete, Key: "a", End: "c"}}}, ""},
		{putOf("k", string(make([]byte, 3<<19))), ErrTooLarge},
		{Txn{Then: []Op{{Kind: Put, Key: "k", Lease: 77}}}, ErrLeaseNotFound},
		{Range{Key: "k", Revision: 100}, ErrFuture},
		{Compact{Revision: 100}, ErrFuture},
		{Grant{TTL: maxTTL + 1}, ErrTTLTooLarge},
		{Revoke{Lease: 5}, ErrLeaseNotFound},
	} {
		id := s.ask(0, time.Second, false, c.do)
		s.pass(time.Second)
		if got := s.answer(id).Err; got != c.want {
			t.Errorf("%T: %q, want %q", c.do, got, c.want)
		}
	}
	id := s.ask(0, 0, false, Watch{Key: "b", End: "a"})
	s.pass(time.Second)
	if s.answer(id).Err != ErrEmptyRange {
		t.Errorf("watch: %+v", s.answer(id))
	}
}
