package sim

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/etcd"
)

// watching is how far an edge has told the core what was committed.
type watching struct {
	from core.Revision // the next that is awaited
	held []core.Watched
	told core.Revision // the last that the core has heard of
}

// follow opens the watch where the last one ended.
func (e *edge) follow() {
	e.send(etcd.Watch{Key: "claims/", End: "t0", From: e.watch.from}, 0, func(a etcd.Answer) {
		r, ok := a.Reply.(etcd.WatchReply)
		switch {
		case !ok || r.Ended && a.Err == etcd.ErrCompacted:
			e.w.fail("etcd", "a watch has ended: "+string(a.Err))
		case r.Ended:
			e.after(e.w.between(firstBackoff, lastBackoff), e.follow)
		default:
			e.watched(r.Events)
		}
	})
}

// watched queues what a message of the watch tells: whole commits.
func (e *edge) watched(events []etcd.Event) {
	var w core.Watched
	own := false
	for i := range events {
		kv := &events[i].KV
		if kv.Mod < e.watch.from {
			continue
		}
		t, k := parted(kv.Key)
		c := core.Change{Tenant: t, Key: k, Revision: kv.Mod}
		if !events[i].Deleted {
			c.Value = slices.Clone(kv.Value)
			if c.Value == nil {
				c.Value = []byte{}
			}
		}
		own = own || kv.Key == e.node()
		w.Changes = append(w.Changes, c)
	}
	if len(w.Changes) == 0 {
		return
	}
	e.watch.from = w.Changes[len(w.Changes)-1].Revision + 1
	if e.w.opt.Plant == "watch-gap" && w.Changes[0].Tenant != "" && e.w.rng.IntN(40) == 0 {
		return
	}
	e.watch.held = append(e.watch.held, w)
	if own {
		e.suspect()
	}
	e.tell()
}

// tell hands over what waits. What may be of the batch in flight waits for its outcome: the
// core is to hear of its Store before it sees it.
func (e *edge) tell() {
	for len(e.watch.held) > 0 && !e.over {
		p := e.watch.held[0]
		if e.batch != nil && slices.ContainsFunc(p.Changes, e.batch.makes) {
			return
		}
		e.watch.held = e.watch.held[1:]
		e.watch.told = p.Changes[len(p.Changes)-1].Revision
		e.s.emit(p)
	}
}

// makes reports whether the batch makes that very change.
func (b *lot) makes(c core.Change) bool {
	for _, op := range b.changes() {
		if op.Key == joined(c.Tenant, c.Key) && (op.Value == nil) == (c.Value == nil) && bytes.Equal(op.Value, c.Value) {
			return true
		}
	}
	return false
}

// tells reports whether an event says to a process that it has been fenced.
func (e *edge) tells(ev core.Event) bool {
	switch ev := ev.(type) {
	case core.Fenced:
		return true
	case core.Watched:
		return slices.ContainsFunc(ev.Changes, func(c core.Change) bool {
			of, claimed := strings.CutPrefix(c.Key, "claims/"+string(e.s.id)+"/")
			incarnation, err := strconv.ParseInt(of, 10, 64)
			return c.Tenant == "" && claimed && err == nil && c.Value != nil && core.Revision(incarnation) >= e.born
		})
	}
	return false
}

// behind reports whether something was committed that the core has not heard of, or may
// not have had the time to act on.
func (e *edge) behind() bool { return e.watch.told < e.c.rev }
