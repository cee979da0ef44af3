package sim

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/sim/etcd"
)

// edge is the store edge of one process of a cluster's node. It keeps the same rules as the
// real one (CLUSTER.md): the node's key is bound to a lease and its revision is the
// incarnation; every batch compares the incarnation, where the chain was left, and the
// guards of its Stores; one batch is in flight; an outcome that is not known is found out.
type edge struct {
	w      *World
	s      *server
	c      *commits
	client etcd.ClientID
	over   bool // the process has ended
	asked  etcd.RequestID
	then   map[etcd.RequestID]func(etcd.Answer)
	held   []etcd.Answer // came while the process was paused

	born, incarnation, link core.Revision
	again                   string // the link of a claim of this node's by itself that is under way
	lease                   etcd.LeaseID
	made                    int

	queue  []*waiting
	batch  *lot
	busy   bool // a request of the writer is under way
	look   bool // first find out how things stand
	fails  int
	next   core.Time // not before
	due    core.Time // a turn is planned
	fenced bool

	watch   watching
	silence int // keepalives in a row without an answer
}

// waiting is one Store that is not answered.
type waiting struct {
	core.Store
	since  core.Time
	warned bool
	ops    int
	claim  bool
}

// lot is one batch.
type lot struct {
	id     string
	stores []*waiting
	open   bool // a copy was sent whose outcome is not known
	seal   string
}

const (
	leaseTTL     = 5 // seconds
	attempt      = time.Second
	spacing      = 3 * time.Millisecond
	warnAfter    = 100 * time.Millisecond
	batchOps     = 63
	batchGuards  = 125
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = 500 * time.Millisecond
)

// newEdge begins the store edge of a process: it claims the node's key, reads all, and then
// the core begins.
func newEdge(s *server) *edge {
	e := &edge{w: s.w, s: s, c: s.w.commits, client: etcd.ClientID(string(s.id) + "." + strconv.Itoa(s.generation)), then: map[etcd.RequestID]func(etcd.Answer){}}
	e.c.clients[e.client] = e
	e.open()
	return e
}

// send asks etcd and calls then with the answer, unless the process has ended before.
func (e *edge) send(do etcd.Action, timeout time.Duration, then func(etcd.Answer)) etcd.RequestID {
	e.asked++
	e.then[e.asked] = then
	e.c.ask(etcd.Request{Client: e.client, ID: e.asked, Timeout: timeout, NeedLeader: true, Do: do})
	return e.asked
}

func (e *edge) answered(a etcd.Answer) {
	if e.over {
		return
	}
	if e.s.stopped {
		e.held = append(e.held, a)
		return
	}
	then := e.then[a.ID]
	if w, ok := a.Reply.(etcd.WatchReply); !ok || w.Ended {
		delete(e.then, a.ID)
	}
	if then != nil {
		then(a)
	}
}

// awake goes on after a pause.
func (e *edge) awake() {
	held := e.held
	e.held = nil
	for _, a := range held {
		e.answered(a)
	}
	e.turn()
}

func (e *edge) crash() {
	e.over = true
	e.c.close(e.client)
}

// quit ends the process as it should: the lease is given back.
func (e *edge) quit() {
	if lease := e.lease; lease != 0 && !e.fenced {
		e.c.ask(etcd.Request{Client: "quit." + e.client, ID: 1, Timeout: attempt, Do: etcd.Revoke{Lease: lease}})
	}
	e.crash()
}

func (e *edge) waits() int {
	n := len(e.queue)
	if e.batch != nil {
		n += len(e.batch.stores)
	}
	return n
}

func (e *edge) after(d time.Duration, do func()) {
	e.w.after(d, func() {
		if !e.over {
			do()
		}
	})
}

func (e *edge) newLink() string { e.made++; return string(e.client) + "." + strconv.Itoa(e.made) }

func (e *edge) node() string  { return cluster.NodeKey(e.s.id) }
func (e *edge) chain() string { return "chains/" + string(e.s.id) }
func (e *edge) claimed() string {
	return "claims/" + string(e.s.id) + "/" + strconv.FormatInt(int64(e.incarnation), 10)
}

// fence is what every Txn compares.
func (e *edge) fence() []etcd.Compare {
	return []etcd.Compare{{Key: e.node(), Target: etcd.CreateRevision, Is: etcd.Equal, Number: int64(e.incarnation)},
		{Key: e.chain(), Target: etcd.ModRevision, Is: etcd.Equal, Number: int64(e.link)}}
}

// sight is what the keys of the fence say.
type sight struct {
	node, chain core.Revision
	last        string
	claimed     bool
	found       []core.Revision // of guards
}

func (e *edge) gets(guards []core.Guard) []etcd.Op {
	ops := []etcd.Op{{Kind: etcd.Get, Key: e.node()}, {Kind: etcd.Get, Key: e.chain()}, {Kind: etcd.Get, Key: e.claimed()}}
	for _, g := range guards {
		ops = append(ops, etcd.Op{Kind: etcd.Get, Key: joined(g.Tenant, g.Key)})
	}
	return ops
}

func sightOf(r etcd.TxnReply) sight {
	var s sight
	for i, x := range r.Results {
		var kv etcd.KeyValue
		if len(x.Range.KVs) == 1 {
			kv = x.Range.KVs[0]
		}
		switch i {
		case 0:
			s.node = kv.Create
		case 1:
			s.chain, s.last = kv.Mod, string(kv.Value)
		case 2:
			s.claimed = kv.Mod != 0
		default:
			s.found = append(s.found, kv.Mod)
		}
	}
	return s
}

// open claims the node's key; a former process of this node loses it at once.
func (e *edge) open() {
	again := func() { e.after(e.w.between(50*time.Millisecond, 300*time.Millisecond), e.open) }
	e.incarnation, e.link = 0, 0
	e.send(etcd.Txn{Then: e.gets(nil)}, 2*attempt, func(a etcd.Answer) {
		r, ok := a.Reply.(etcd.TxnReply)
		if !ok {
			again()
			return
		}
		s := sightOf(r)
		e.incarnation, e.link = s.node, s.chain
		if s.node == 0 {
			e.lend(again)
			return
		}
		ops := []etcd.Op{{Kind: etcd.Delete, Key: e.node()}, {Kind: etcd.Put, Key: e.chain(), Value: []byte(e.newLink())}}
		e.send(etcd.Txn{If: e.fence(), Then: ops}, 2*attempt, func(a etcd.Answer) {
			if r, ok := a.Reply.(etcd.TxnReply); !ok || !r.Succeeded {
				again()
				return
			}
			e.incarnation, e.link = 0, a.Revision
			e.lend(again)
		})
	})
}

// lend makes the lease and the key.
func (e *edge) lend(again func()) {
	e.send(etcd.Grant{TTL: leaseTTL}, 2*attempt, func(a etcd.Answer) {
		g, ok := a.Reply.(etcd.LeaseReply)
		if !ok {
			again()
			return
		}
		e.lease = g.Lease
		ops := []etcd.Op{{Kind: etcd.Put, Key: e.node(), Value: e.s.record().Encode(), Lease: g.Lease}, {Kind: etcd.Put, Key: e.chain(), Value: []byte(e.newLink())}}
		e.send(etcd.Txn{If: e.fence(), Then: ops}, 2*attempt, func(a etcd.Answer) {
			if r, ok := a.Reply.(etcd.TxnReply); !ok || !r.Succeeded {
				again()
				return
			}
			e.born, e.incarnation, e.link = a.Revision, a.Revision, a.Revision
			e.load(again)
		})
	})
}

// load reads all and begins the watch.
func (e *edge) load(again func()) {
	e.send(etcd.Range{Key: "claims/", End: "t0"}, 2*attempt, func(a etcd.Answer) {
		r, ok := a.Reply.(etcd.RangeReply)
		if !ok {
			again()
			return
		}
		var entries []core.Entry
		for _, kv := range r.KVs {
			t, k := parted(kv.Key)
			entries = append(entries, core.Entry{Tenant: t, Key: k, Value: slices.Clone(kv.Value), Revision: kv.Mod})
		}
		e.watch.from = a.Revision + 1
		e.keepAlive()
		e.s.restored(core.Restored{Incarnation: e.incarnation, Entries: entries})
		e.follow()
	})
}

// keepAlive renews the lease three times in its life.
func (e *edge) keepAlive() {
	e.after(leaseTTL*time.Second/3, func() {
		if e.fenced {
			return
		}
		e.keepAlive()
		if e.s.stopped {
			return
		}
		e.send(etcd.KeepAlive{Lease: e.lease}, leaseTTL*time.Second/3, func(a etcd.Answer) {
			if a.Err == etcd.ErrLeaseNotFound {
				e.suspect()
			}
		})
	})
}

// suspect has the writer look whether the node's key is still its own.
func (e *edge) suspect() {
	e.look = true
	e.wake()
}

// ask queues a Store. A claim of another node overtakes those of tenants.
func (e *edge) ask(s core.Store) {
	w := &waiting{Store: s, since: e.w.now, ops: len(s.Ops)}
	if s.Tenant == "" {
		w.claim = slices.ContainsFunc(s.Ops, func(op core.Op) bool { return op.Value == nil && strings.HasPrefix(op.Key, "nodes/") })
	}
	at := len(e.queue)
	for w.claim && at > 0 && e.queue[at-1].Tenant != "" {
		at--
	}
	e.queue = slices.Insert(e.queue, at, w)
	e.after(warnAfter, func() { e.warn(w) })
	e.wake()
}

// warn tells Unknown of a Store that has waited for so long.
func (e *edge) warn(w *waiting) {
	waits := slices.Contains(e.queue, w) || e.batch != nil && slices.Contains(e.batch.stores, w)
	if !w.warned && waits && !e.s.stopped {
		w.warned = true
		e.w.marks.hit("store outcome unknown")
		e.s.emit(core.Unknown{Token: w.Token})
	}
}

// wake plans a turn of the writer.
func (e *edge) wake() {
	at := max(e.next, e.w.now)
	if e.due > e.w.now && e.due <= at || e.over {
		return
	}
	e.due = at
	e.w.at(at, func() {
		if e.due == at {
			e.due = 0
			e.turn()
		}
	})
}

// turn does what is next to do, if nothing is under way.
func (e *edge) turn() {
	switch {
	case e.over || e.busy || e.s.stopped || e.incarnation == 0:
	case e.fenced:
		e.refuseAll()
	case e.w.now < e.next:
		e.wake()
	case e.look:
		e.busy = true
		e.send(etcd.Txn{Then: e.gets(nil)}, attempt, func(a etcd.Answer) { e.took(a, looking) })
	case e.again != "":
		e.reclaim()
	case e.batch != nil && e.batch.seal != "":
		e.busy = true
		e.send(etcd.Txn{If: e.fence(), Then: []etcd.Op{{Kind: etcd.Put, Key: e.chain(), Value: []byte(e.batch.seal)}}, Else: e.gets(nil)},
			attempt, func(a etcd.Answer) { e.took(a, sealing) })
	case e.batch != nil:
		e.commit()
	case len(e.queue) > 0:
		e.form()
		e.next = e.w.now.Add(spacing)
		e.commit()
	}
}

// form takes as many Stores as go into one batch. One whose guard is on a key that another
// before it writes goes into the next; a claim is alone.
func (e *edge) form() {
	b := &lot{id: e.newLink()}
	ops, guards := 0, 0
	written := map[string]bool{}
	for i, w := range e.queue {
		clash := slices.ContainsFunc(w.If, func(g core.Guard) bool { return written[joined(g.Tenant, g.Key)] })
		if i > 0 && (clash || w.claim || e.queue[0].claim || ops+w.ops > batchOps || guards+len(w.If) > batchGuards) {
			break
		}
		for _, op := range w.Ops {
			written[joined(w.Tenant, op.Key)] = true
		}
		ops, guards = ops+w.ops, guards+len(w.If)
		b.stores = append(b.stores, w)
	}
	e.queue = e.queue[len(b.stores):]
	e.batch = b
}

func (b *lot) guards() []core.Guard {
	var all []core.Guard
	for _, w := range b.stores {
		for _, g := range w.If {
			if !slices.Contains(all, g) {
				all = append(all, g)
			}
		}
	}
	return all
}

// changes returns the last change of each key.
func (b *lot) changes() []etcd.Op {
	var all []etcd.Op
	for _, w := range b.stores {
		for _, op := range w.Ops {
			o := etcd.Op{Kind: etcd.Put, Key: joined(w.Tenant, op.Key), Value: op.Value}
			if op.Value == nil {
				o.Kind = etcd.Delete
			}
			if i := slices.IndexFunc(all, func(x etcd.Op) bool { return x.Key == o.Key }); i >= 0 {
				all[i] = o
			} else {
				all = append(all, o)
			}
		}
	}
	return all
}

func (e *edge) commit() {
	b := e.batch
	guards := b.guards()
	compare := e.fence()
	for _, g := range guards {
		if e.w.opt.Plant != "guards-dropped" || g.Tenant == "" && strings.HasPrefix(g.Key, "nodes/") {
			compare = append(compare, etcd.Compare{Key: joined(g.Tenant, g.Key), Target: etcd.ModRevision, Is: etcd.Equal, Number: int64(g.Revision)})
		}
	}
	e.busy = true
	then := append(b.changes(), etcd.Op{Kind: etcd.Put, Key: e.chain(), Value: []byte(b.id)})
	// Who claims a process moves its chain: when the claim has done its work and is gone, that
	// process must not take what it finds for a lease that has merely ended.
	for _, op := range b.changes() {
		if rest, is := strings.CutPrefix(op.Key, "claims/"); is && op.Kind == etcd.Put {
			if id, _, _ := strings.Cut(rest, "/"); id != string(e.s.id) {
				then = append(then, etcd.Op{Kind: etcd.Put, Key: "chains/" + id, Value: []byte(b.id)})
			}
		}
	}
	e.send(etcd.Txn{If: compare, Then: then, Else: e.gets(guards)},
		attempt, func(a etcd.Answer) { e.took(a, sending) })
}

// task is what a request of the writer is for.
type task string

const (
	looking task = "look" // how things stand
	sealing task = "seal" // an empty link, after which no copy of the batch can commit
	sending task = "send"
	joining task = "join" // anew, after the lease has ended
)

// took acts on an answer.
func (e *edge) took(a etcd.Answer, of task) {
	e.busy = false
	defer e.wake()
	r, ok := a.Reply.(etcd.TxnReply)
	if !ok {
		e.failed(a.Err, of)
		return
	}
	e.fails = 0
	switch {
	case of == looking:
		e.look = false
		e.judge(sightOf(r), of)
	case !r.Succeeded:
		e.judge(sightOf(r), of)
	case of == joining:
		e.rejoined(a.Revision)
	case of == sending:
		e.link = a.Revision
		e.stored(a.Revision)
	default:
		e.link = a.Revision
		e.split(nil)
	}
}

// failed notes that an outcome is open.
func (e *edge) failed(err etcd.Error, of task) {
	switch err {
	case etcd.ErrTooManyOps, etcd.ErrTooLarge, etcd.ErrDuplicateKey, etcd.ErrEmptyKey:
		e.w.fail("etcd", "a batch is refused for its form: "+string(err))
		return
	}
	if of == sending {
		e.batch.open = true
		if e.w.opt.Plant == "unknown-is-refused" {
			e.settle(func(w *waiting) core.Event { return core.Conflict{Token: w.Token} })
		}
	}
	e.look = true
	e.fails++
	e.next = e.w.now.Add(min(lastBackoff, firstBackoff<<min(e.fails-1, 10)))
}

// judge acts on what the keys of the fence say.
func (e *edge) judge(s sight, of task) {
	b := e.batch
	switch {
	case s.chain != e.link && b != nil && b.open && s.last == b.id:
		e.link = s.chain
		e.stored(s.chain)
	case s.chain != e.link && b != nil && b.seal != "" && s.last == b.seal:
		e.link = s.chain
		e.split(nil)
	case s.chain != e.link && e.again != "" && s.last == e.again:
		e.rejoined(s.chain)
	case s.chain != e.link && e.w.opt.Plant == "unknown-is-refused" && s.node == e.incarnation:
		e.link = s.chain
	case s.chain == e.link && !s.claimed && s.node == 0 && e.w.opt.Plant != "lapse-is-loss":
		if b != nil {
			b.open = false // its copies compare an incarnation that is gone
		}
		e.again = e.newLink()
	case s.chain != e.link, s.claimed, s.node != e.incarnation:
		e.lose()
	case of == sending && b.open: // refused, and a copy may still commit: that must be ended first
		b.seal = e.newLink()
	case of == sending:
		e.split(s.found)
	}
}

// reclaim makes the node's key anew: its lease has ended, and nobody has claimed it.
func (e *edge) reclaim() {
	e.busy = true
	e.send(etcd.Grant{TTL: leaseTTL}, attempt, func(a etcd.Answer) {
		g, ok := a.Reply.(etcd.LeaseReply)
		if !ok {
			e.took(a, joining)
			return
		}
		e.lease = g.Lease
		compare := e.fence()
		compare[0].Number = 0
		compare = append(compare, etcd.Compare{Key: e.claimed(), Target: etcd.CreateRevision, Is: etcd.Equal})
		ops := []etcd.Op{{Kind: etcd.Put, Key: e.node(), Value: e.s.record().Encode(), Lease: g.Lease}, {Kind: etcd.Put, Key: e.chain(), Value: []byte(e.again)}}
		e.send(etcd.Txn{If: compare, Then: ops, Else: e.gets(nil)}, attempt, func(a etcd.Answer) { e.took(a, joining) })
	})
}

// rejoined goes on under a new incarnation.
func (e *edge) rejoined(rev core.Revision) {
	e.w.marks.hit("cluster: joined anew after its lease")
	e.again, e.incarnation, e.link = "", rev, rev
	e.look = false
	if e.batch != nil {
		e.batch.open, e.batch.seal = false, ""
	}
	e.w.review()
}

// stored answers the batch.
func (e *edge) stored(rev core.Revision) {
	e.settle(func(w *waiting) core.Event { return core.Stored{Token: w.Token, Revision: rev} })
}

func (e *edge) settle(outcome func(*waiting) core.Event) {
	stores := e.batch.stores
	e.batch = nil
	for _, w := range stores {
		if !e.over {
			e.s.emit(outcome(w))
		}
	}
	e.tell()
}

// split answers Conflict to the Stores whose guards do not hold; the others go once more.
// Without found the batch is sent again: what was found is out of date.
func (e *edge) split(found []core.Revision) {
	b := e.batch
	guards := b.guards()
	var refused, again []*waiting
	for _, w := range b.stores {
		bad := slices.ContainsFunc(w.If, func(g core.Guard) bool {
			i := slices.Index(guards, g)
			return i < len(found) && found[i] != g.Revision
		})
		if bad {
			refused = append(refused, w)
		} else {
			again = append(again, w)
		}
	}
	if found != nil && len(refused) == 0 {
		e.w.fail("etcd", "a batch is refused though every comparison holds")
		return
	}
	e.queue = append(again, e.queue...)
	e.batch = &lot{stores: refused}
	if len(refused) > 0 {
		e.w.marks.hit("store conflict")
	}
	e.settle(func(w *waiting) core.Event { return core.Conflict{Token: w.Token} })
}

// lose ends all writing: this process has been claimed, or its lease has ended.
func (e *edge) lose() {
	e.fenced = true
	e.w.marks.hit("fenced")
	if b := e.batch; b != nil && b.open {
		if rev, mine := e.c.links[b.id]; mine { // as the history of the chain shows
			e.stored(rev)
		}
	}
	if e.waits() == 0 {
		e.s.emit(core.Fenced{})
	}
	e.refuseAll()
}

func (e *edge) refuseAll() {
	if b := e.batch; b != nil {
		e.queue = append(b.stores, e.queue...)
	}
	e.batch = &lot{stores: e.queue}
	e.queue = nil
	e.settle(func(w *waiting) core.Event { return core.Fenced{Token: w.Token} })
}

// shardOwner reads who owns a shard.
func shardOwner(value []byte) cluster.Process {
	var r cluster.ShardRecord
	if json.Unmarshal(value, &r) != nil {
		return cluster.Process{}
	}
	return cluster.Process{ID: r.Owner, Incarnation: r.Incarnation}
}

// offeredTo reads whom an offer names.
func offeredTo(value []byte) core.AgentID {
	var r struct {
		Agent core.AgentID `json:"agent"`
	}
	if json.Unmarshal(value, &r) != nil {
		return ""
	}
	return r.Agent
}
