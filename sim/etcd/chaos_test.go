package etcd

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// chaos is one cluster with some clients that do what nodes do, and more, while troubles
// come; everything that is answered, committed and told is held against the spec.
type chaos struct {
	c       *Cluster
	rng     *rand.Rand
	now     core.Time
	healed  bool
	clients []*chaosClient
	spec    *spec
	err     error
	out     []Answer

	asked   map[RequestID]*asked
	commits map[RequestID]bool
	floor   core.Revision // the highest that a linearizable answer has shown
	leader  MemberID
	leases  map[LeaseID]*chaosLease
	next    RequestID
	seen    map[string]int // situations
}

type chaosClient struct {
	id      ClientID
	free    core.Time // when it asks next
	busy    int
	watch   RequestID
	lease   LeaseID
	ttl     int64
	renew   core.Time
	renewed core.Time // the latest keepalive that was answered, by when it was asked
}

type asked struct {
	req    Request
	at     core.Time
	floor  core.Revision
	due    *Answer // once committed
	answer *Answer

	// of a watch
	begun bool
	from0 bool // it began "from now on" and has heard nothing
	next  core.Revision
	over  bool
}

type chaosLease struct {
	ttl  time.Duration
	safe []safety
}

// safety is from when on it is known that a lease must not end before.
type safety struct{ known, until core.Time }

func (x *chaosLease) secure(known, until core.Time) {
	if n := len(x.safe); n == 0 || x.safe[n-1].until < until {
		x.safe = append(x.safe, safety{known, until})
	}
}

// until returns what was known at an instant.
func (x *chaosLease) until(at core.Time) core.Time {
	for i := len(x.safe) - 1; i >= 0; i-- {
		if x.safe[i].known <= at {
			return x.safe[i].until
		}
	}
	return 0
}

var chaosKeys = [...]string{"chains/n1", "chains/n2", "claims/n1", "nodes/n1", "nodes/n2", "t/a/1", "t/a/2", "t/a/3", "t/b/1", "u"}

// hardships are the kinds of faults that worlds choose from.
func hardships() []FaultKind {
	return []FaultKind{CutLink, CutTo, CutFrom, Refuse, Reset, SlowLink, LagWatch, Isolate, Crash, Pause, SlowDisk, Elect, NoSpace, CompactAll}
}

func newChaos(seed uint64, plant Plant) *chaos {
	rng := rand.New(rand.NewPCG(seed, 0xe7cd))
	w := &chaos{rng: rng, spec: newSpec(), asked: map[RequestID]*asked{}, commits: map[RequestID]bool{}, leases: map[LeaseID]*chaosLease{},
		leader: 1, seen: map[string]int{}}
	cfg := Usual()
	cfg.Plant = plant
	if rng.IntN(8) == 0 {
		cfg.Members = []int{1, 5}[rng.IntN(2)]
	}
	if rng.IntN(2) == 0 {
		cfg.Odds = Odds{LostBefore: 0.02 * rng.Float64(), LostAfter: 0.02 * rng.Float64(), Late: 0.03 * rng.Float64(), LateBy: 4 * time.Second}
	}
	if rng.IntN(3) == 0 {
		cfg.Retain = 3 * time.Second
	}
	cfg.ProgressEvery = 2 * time.Second
	cfg.FragmentBytes = 100
	cfg.Seen = w.commit
	w.c = New(cfg, rand.New(rand.NewPCG(seed, 0xfeed)))
	for i := range 3 {
		w.clients = append(w.clients, &chaosClient{id: ClientID(fmt.Sprint("n", i+1))})
	}
	return w
}

func (w *chaos) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %.6f s: %s", time.Duration(w.now).Seconds(), fmt.Sprintf(format, args...))
	}
}

// run lets a world happen: troubles, then peace.
func (w *chaos) run(trouble, peace time.Duration) error {
	until := core.Time(trouble)
	kinds := hardships()
	w.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	mean := time.Duration(100+w.rng.IntN(1500)) * time.Millisecond
	longest := time.Duration(200+w.rng.IntN(8000)) * time.Millisecond
	troubles := Troubles(w.rng, w.c.cfg, 0, until, mean, longest, kinds[:1+w.rng.IntN(len(kinds))], []ClientID{"n1", "n2", "n3"})
	for end := until.Add(peace); w.now < end && w.err == nil; {
		next := min(w.c.Deadline(), end)
		if len(troubles) > 0 {
			next = min(next, troubles[0].At)
		}
		for _, cl := range w.clients {
			next = min(next, max(cl.free, w.now))
		}
		w.now = next
		w.take()
		for len(troubles) > 0 && troubles[0].At <= w.now {
			w.seen[string(troubles[0].Kind)]++
			w.c.Inject(w.now, troubles[0].Fault)
			troubles = troubles[1:]
		}
		if w.now >= until && !w.healed {
			w.healed = true
			w.c.cfg.Odds = Odds{}
		}
		for _, cl := range w.clients {
			if cl.free <= w.now {
				w.act(cl)
			}
		}
	}
	if w.err == nil {
		w.atPeace(until.Add(peace))
	}
	return w.err
}

// take lets things happen and checks what has come.
func (w *chaos) take() {
	w.out = w.c.Step(w.now, w.out[:0])
	for i := range w.out {
		w.answer(&w.out[i])
	}
	if l := w.c.leader; l != 0 && l != w.leader {
		w.leader = l
		w.seen["leader changed"]++
		for _, x := range w.leases {
			x.secure(w.now, w.now.Add(x.ttl)) // an election timeout more, until the next keepalive
		}
	}
}

// act is one client's next deed.
func (w *chaos) act(cl *chaosClient) {
	cl.free = w.now.Add(time.Duration(w.rng.IntN(60)) * time.Millisecond)
	if cl.watch == 0 {
		from := core.Revision(0)
		if w.rng.IntN(2) == 0 {
			from = max(1, w.spec.rev-core.Revision(w.rng.IntN(20)))
		}
		watch := Watch{Key: "claims/", End: "t0", From: from, Progress: w.rng.IntN(2) == 0, Fragment: w.rng.IntN(2) == 0}
		cl.watch = w.ask(cl, watch, 0)
	}
	if cl.lease != 0 && w.now >= cl.renew && !(w.healed && cl.id == "n3") {
		cl.renew = w.now.Add(time.Duration(cl.ttl) * time.Second / 3)
		w.ask(cl, KeepAlive{Lease: cl.lease}, time.Second)
	}
	if cl.busy >= 2 {
		return
	}
	switch n := w.rng.IntN(40); {
	case n < 24:
		w.ask(cl, w.txn(cl), time.Second)
	case n < 30:
		w.ask(cl, Range{Key: "chains/", End: "u", Limit: int64(w.rng.IntN(4)), Serializable: w.rng.IntN(3) == 0}, time.Second)
	case n < 33:
		w.ask(cl, Txn{If: []Compare{w.guess("nodes/n1")}, Then: []Op{{Kind: Get, Key: "nodes/n1"}}, Else: []Op{{Kind: Get, Key: "chains/", End: "t0"}}}, time.Second)
	case n < 35 && cl.lease == 0:
		w.ask(cl, Grant{TTL: int64(w.rng.IntN(4))}, time.Second)
	case n == 35 && cl.lease != 0:
		w.ask(cl, Revoke{Lease: cl.lease}, 0)
	case n == 36:
		w.ask(cl, AskProgress{}, 0)
	case n == 37 && w.rng.IntN(10) == 0:
		w.ask(cl, Compact{Revision: w.spec.rev - core.Revision(w.rng.IntN(30))}, time.Second)
	case n == 38 && w.rng.IntN(10) == 0 && cl.watch != 0:
		w.ask(cl, Unwatch{Watch: cl.watch}, 0)
		w.asked[cl.watch].over = true
		cl.watch = 0
	case n == 39 && w.rng.IntN(20) == 0 && !w.healed:
		w.seen["a client is gone"]++
		for _, a := range w.asked {
			a.over = a.over || a.req.Client == cl.id && a.answer == nil
		}
		w.c.Close(w.now, cl.id)
		*cl = chaosClient{id: cl.id, free: cl.free}
	}
}

func (w *chaos) guess(key string) Compare {
	return Compare{Key: key, Target: ModRevision, Is: Equal, Number: int64(w.spec.kept[key].Mod) - int64(w.rng.IntN(8)/7)}
}

// txn is one of the batches that nodes write: guarded by what the client believes.
func (w *chaos) txn(cl *chaosClient) Txn {
	key := func() string { return chaosKeys[w.rng.IntN(len(chaosKeys))] }
	t := Txn{If: []Compare{w.guess(key()), w.guess("chains/" + string(cl.id))}[:w.rng.IntN(3)]}
	used := map[string]bool{}
	for range 1 + w.rng.IntN(4) {
		k := key()
		if used[k] {
			continue
		}
		used[k] = true
		o := Op{Kind: Put, Key: k, Value: []byte(fmt.Sprint(w.next))}
		switch w.rng.IntN(6) {
		case 0:
			o = Op{Kind: Delete, Key: k}
		case 1:
			o.Lease = cl.lease
		}
		t.Then = append(t.Then, o)
	}
	t.Else = []Op{{Kind: Get, Key: key()}}
	return t
}

func (w *chaos) ask(cl *chaosClient, do Action, timeout time.Duration) RequestID {
	w.next++
	a := &asked{req: Request{Client: cl.id, ID: w.next, Timeout: timeout, NeedLeader: w.rng.IntN(3) > 0, Do: do}, at: w.now, floor: w.floor}
	if w.rng.IntN(10) == 0 {
		a.req.Via = MemberID(1 + w.rng.IntN(w.c.cfg.Members))
	}
	if watch, ok := do.(Watch); ok {
		a.next, a.from0 = watch.From, watch.From == 0
	} else {
		cl.busy++
	}
	w.asked[w.next] = a
	w.c.Ask(w.now, a.req)
	return w.next
}

// commit is what the log has carried out.
func (w *chaos) commit(k Commit) {
	w.now = max(w.now, k.At)
	due := Answer{Err: ErrNoSpace}
	if k.Err != ErrNoSpace {
		due = w.spec.apply(k.Do)
	}
	if due.Err != k.Err || w.spec.rev != k.Revision {
		w.fail("commit %+v: due is error %q at revision %d", k, due.Err, w.spec.rev)
	}
	switch do := k.Do.(type) {
	case Grant:
		if r, ok := due.Reply.(LeaseReply); ok {
			x := &chaosLease{ttl: time.Duration(r.TTL) * time.Second}
			x.secure(k.At, k.At.Add(x.ttl))
			w.leases[r.Lease] = x
		}
	case Revoke:
		// Its end was due when the leader proposed it. A renewal since then does not help: what is
		// in the log is carried out, by the next leader too.
		if x := w.leases[do.Lease]; x != nil && k.Client == "" && k.Proposed < x.until(k.Proposed) {
			w.fail("lease %d has expired at %v, and must not before %v", do.Lease, time.Duration(k.Proposed), time.Duration(x.until(k.Proposed)))
		}
		delete(w.leases, do.Lease)
	}
	if k.Client == "" {
		return
	}
	a := w.asked[k.ID]
	switch {
	case a == nil || a.req.Client != k.Client:
		w.fail("nobody has asked for %+v", k)
	case w.commits[k.ID]:
		w.fail("carried out a second time: %+v", k)
	case a.answer != nil && a.answer.Err.Definite():
		w.fail("carried out after %q was told: %+v", a.answer.Err, k)
	case a.answer != nil && a.answer.Err == "":
		w.fail("carried out after it was answered: %+v", k)
	case a.answer != nil:
		w.seen["carried out after the client gave up"]++
	}
	w.commits[k.ID] = true
	if a != nil {
		a.due = &due
	}
}

// answer is what a client has got.
func (w *chaos) answer(a *Answer) {
	q := w.asked[a.ID]
	cl := w.clients[a.Client[1]-'1']
	if q == nil || q.req.Client != a.Client || q.over && q.answer == nil {
		w.fail("an answer that nobody awaits: %+v", *a)
		return
	}
	if _, ok := q.req.Do.(Watch); ok {
		w.heard(cl, q, a)
		return
	}
	if q.answer != nil {
		w.fail("answered twice: %+v", *a)
	}
	copied := *a
	q.answer = &copied
	cl.busy--
	if t := q.req.Timeout; t > 0 && a.At > q.at.Add(t) {
		w.fail("%+v: answered %v late", q.req, a.At.Sub(q.at.Add(t)))
	}
	if a.Err != "" {
		w.seen["error: "+string(a.Err)]++
		if a.Err.Definite() && q.due != nil && q.due.Err != a.Err {
			w.fail("%q was told of what was carried out: %+v", a.Err, q.req)
		}
		if a.Err == ErrLeaseNotFound {
			cl.lease = 0
		}
		return
	}
	w.right(cl, q, a)
}

// right checks an answer that is no error.
func (w *chaos) right(cl *chaosClient, q *asked, a *Answer) {
	floor := q.floor
	switch do := q.req.Do.(type) {
	case Unwatch, AskProgress:
		return
	case KeepAlive:
		x := w.leases[do.Lease]
		if x != nil {
			x.secure(w.now, q.at.Add(x.ttl))
		}
		return
	case Range:
		if do.Serializable {
			floor = 0
			if a.Revision < q.floor {
				w.seen["stale serializable read"]++
			}
		}
		w.read(q, a, Answer{Revision: a.Revision, Reply: pick(w.spec.past[a.Revision], do.Key, do.End, do.Limit)})
	case Txn:
		if readOnly(&do) {
			at := spec{rev: a.Revision, kept: w.spec.past[a.Revision], past: map[core.Revision]map[string]KeyValue{}}
			w.read(q, a, at.txn(do))
			break
		}
		w.committed(q, a)
	case Grant:
		w.committed(q, a)
		r := a.Reply.(LeaseReply)
		cl.lease, cl.ttl, cl.renew = r.Lease, r.TTL, w.now
	case Revoke:
		w.committed(q, a)
		cl.lease = 0
	default:
		w.committed(q, a)
	}
	if a.Revision < floor {
		w.fail("%+v: answered at revision %d, and %d was known before it was asked", q.req, a.Revision, floor)
	}
	if r, ok := q.req.Do.(Range); !ok || !r.Serializable {
		w.floor = max(w.floor, a.Revision)
	}
}

func (w *chaos) read(q *asked, a *Answer, due Answer) {
	if err := same(*a, due); err != nil {
		w.fail("%+v: %v", q.req, err)
	}
}

func (w *chaos) committed(q *asked, a *Answer) {
	if q.due == nil {
		w.fail("%+v: answered, and not carried out", q.req)
		return
	}
	if err := same(*a, *q.due); err != nil {
		w.fail("%+v: %v", q.req, err)
	}
}

// heard is one message of a watch.
func (w *chaos) heard(cl *chaosClient, q *asked, a *Answer) {
	do := q.req.Do.(Watch)
	r := a.Reply.(WatchReply)
	switch {
	case q.over:
		w.fail("a watch that is over hears of %+v", *a)
	case r.Ended:
		w.seen["watch ended: "+string(a.Err)]++
		q.over, cl.watch = true, 0
		next := q.next
		if q.from0 {
			next-- // as below
		}
		if a.Err == ErrCompacted && (q.begun && next >= r.Compacted || r.Compacted > w.spec.compacted) {
			w.fail("told that what was before %d is compacted away, and awaits %d", r.Compacted, next)
		}
		if a.Err == ErrNoLeader && !q.req.NeedLeader || a.Err != ErrNoLeader && a.Err != ErrCompacted {
			w.fail("a watch was ended: %+v", *a)
		}
		return
	case r.Created:
		if q.begun {
			w.fail("a watch began twice")
		}
		if q.begun = true; q.from0 {
			q.next = a.Revision + 1
		}
		return
	}
	from := q.next
	if q.from0 && len(r.Events) > 0 && r.Events[0].KV.Mod == from-1 {
		from-- // etcd's client, when the first connection broke before it heard of anything
	}
	q.from0 = false
	due := w.spec.between(do.Key, do.End, from, a.Revision)
	if len(due) != len(r.Events) {
		w.fail("watch %d heard %d events up to revision %d, due from %d on are %d", a.ID, len(r.Events), a.Revision, from, len(due))
		return
	}
	for i := range due {
		if x, y := showEvent(r.Events[i], 0, sameNumber), showEvent(due[i], 0, sameNumber); x != y {
			w.fail("watch %d heard %s, due is %s", a.ID, x, y)
		}
	}
	if a.Revision > w.spec.rev {
		w.fail("watch %d heard of revision %d", a.ID, a.Revision)
	}
	q.next = max(q.next, a.Revision+1)
	w.seen["events"] += len(r.Events)
}

// atPeace is what must hold some time after the last trouble.
func (w *chaos) atPeace(end core.Time) {
	if w.c.Leader() == 0 {
		w.fail("no leader")
	}
	for _, m := range w.c.members {
		if m.follows != w.c.leader {
			w.fail("member %d follows %d, not %d", m.id, m.follows, w.c.leader)
		}
	}
	for _, cl := range w.clients {
		if cl.watch == 0 {
			continue
		}
		q := w.asked[cl.watch]
		do := q.req.Do.(Watch)
		// What was committed just now may be on its way.
		if missing := w.spec.between(do.Key, do.End, q.next, w.spec.rev); q.next != 0 && len(missing) > 40 {
			w.fail("watch %d of %s has not heard of revision %d", cl.watch, cl.id, missing[0].KV.Mod)
		}
	}
	for id := range w.asked {
		q := w.asked[id]
		_, isWatch := q.req.Do.(Watch)
		if !isWatch && q.answer == nil && !q.over && q.at < end.Add(-10*time.Second) {
			w.fail("never answered: %+v", q.req)
		}
	}
	for id, x := range w.leases {
		if w.clients[2].lease == id && w.now > x.until(w.now).Add(5*time.Second) {
			w.fail("lease %d has not expired", id)
		}
	}
}

var (
	worlds = flag.Int("worlds", 60, "how many worlds with troubles are tried")
	first  = flag.Uint64("seed", 1, "of the first world")
)

// TestGuaranteesUnderTrouble holds everything that clients see in random worlds against the
// spec: what was committed, by whom, how often, and what was told of it.
func TestGuaranteesUnderTrouble(t *testing.T) {
	if testing.Short() {
		*worlds = min(*worlds, 10)
	}
	total := map[string]int{}
	commits := 0
	for seed := *first; seed < *first+uint64(*worlds); seed++ {
		w := newChaos(seed, "")
		if err := w.run(40*time.Second, 25*time.Second); err != nil {
			t.Fatalf("seed %d: %v\nagain: go test ./sim/etcd -run %s -worlds 1 -seed %d", seed, err, t.Name(), seed)
		}
		commits += len(w.commits)
		for k, n := range w.seen {
			total[k] += n
		}
	}
	t.Logf("%d worlds, %d commits, %v", *worlds, commits, total)
	for _, situation := range []string{
		"carried out after the client gave up", "stale serializable read", "leader changed", "a client is gone", "watch ended: " + string(ErrCompacted),
		"watch ended: " + string(ErrNoLeader), "error: " + string(ErrUnavailable), "error: " + string(ErrDeadline), "error: " + string(ErrNoLeader),
		"error: " + string(ErrNoSpace), "error: " + string(ErrLeaderChanged), "error: " + string(ErrTimeout), "error: " + string(ErrLeaseNotFound),
	} {
		if total[situation] == 0 && *worlds >= 60 {
			t.Errorf("never met: %s", situation)
		}
	}
}

// TestSameSeedSameWorld compares the hashes of worlds that happen twice.
func TestSameSeedSameWorld(t *testing.T) {
	different := map[uint64]bool{}
	for seed := range uint64(10) {
		var hashes [2]uint64
		for i := range hashes {
			w := newChaos(seed, "")
			if err := w.run(15*time.Second, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			hashes[i] = w.c.Hash()
		}
		if hashes[0] != hashes[1] {
			t.Errorf("seed %d: %x and %x", seed, hashes[0], hashes[1])
		}
		different[hashes[0]] = true
	}
	if len(different) != 10 {
		t.Errorf("%d different worlds of 10 seeds", len(different))
	}
}
