package sim

import (
	"encoding/json"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/sim/etcd"
)

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
