package sim

import (
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
