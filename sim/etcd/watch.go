package etcd

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// watch is a client's side of a watch. It outlives connections.
type watch struct {
	req     Request
	do      Watch
	client  *client
	conn    *conn // nil: between two connections
	serial  uint64
	next    core.Revision // what is awaited; 0: what will be new
	created bool
	ended   bool
	lag     int     // faults for which it is told nothing now
	parts   []Event // of a message that is not complete yet
}

// watcher is a member's side of a watch, for as long as one connection lasts.
type watcher struct {
	watch    *watch
	conn     *conn
	epoch    uint64
	serial   uint64
	from     core.Revision // where it was to begin; 0: from now on
	next     core.Revision // the first that was not told
	place    int           // of next in history, or before
	since    int           // faults and reasons for which nothing is told now
	eventful bool          // since the last progress notification was due
}

// message is one message of a watch on its way.
type message struct {
	answer Answer
	part   bool // the rest of it follows
}

// batch is a piece of history as a watch tells it. Watches of one range share it.
type batch struct {
	key, end string
	from, to core.Revision
	after    int // place in history
	events   []Event
}

const batchRevs = 1000 // of one message (mvcc: watchBatchMaxRevs)

// open opens a watch at whatever member the client reaches; it is told from where it broke.
func (c *Cluster) open(w *watch) {
	if w.ended || w.conn != nil {
		return
	}
	n := w.client.pick(w.req.Via)
	if n == nil {
		return // redial will
	}
	w.conn, w.parts = n, nil
	w.serial++
	from := w.next
	if c.cfg.Plant == PlantRepeatedEvent && w.created && from > 1 {
		from--
	}
	x := &watcher{watch: w, conn: n, epoch: n.epoch, serial: w.serial, from: from, next: from}
	c.toMember(n, moment{what: arrives, conn: n, watcher: x, n: n.epoch})
}

// serve is the arrival of a watch at a member.
func (c *Cluster) serve(x *watcher) {
	m, w := x.conn.member, x.watch
	if w.ended || w.serial != x.serial {
		return
	}
	if w.req.NeedLeader && m.follows == 0 {
		c.end(x, ErrNoLeader, 0)
		return
	}
	do := &w.do
	if do.Key == "" {
		do.Key = "\x00"
	}
	if do.End != "" && do.End != "\x00" && do.Key >= do.End {
		c.end(x, ErrEmptyRange, 0)
		return
	}
	m.watchers = append(m.watchers, x)
	c.tell(x, m.view.rev, WatchReply{Created: true}, false)
	x.since = x.conn.lag + w.lag
	if x.next == 0 || x.next > m.view.rev {
		if x.next == 0 {
			x.next = m.view.rev + 1
		}
	} else {
		// One that begins in the past is served by a loop of its own, ten times a second.
		x.since++
		c.plan(c.draw(c.cfg.Sync), moment{what: pumps, watcher: x})
	}
	if do.Progress && c.cfg.ProgressEvery > 0 {
		c.plan(c.cfg.ProgressEvery, moment{what: progresses, conn: x.conn, watcher: x, n: x.epoch})
	}
}

// alive reports whether a member still has a watcher.
func (x *watcher) alive() bool {
	return x.epoch == x.conn.epoch && x.serial == x.watch.serial && !x.watch.ended && slices.Contains(x.conn.member.watchers, x)
}

// synced reports whether a watcher was told all that its member knows. One that begins at a
// revision of which the member has not heard is not: its progress would be a step back.
func (x *watcher) synced() bool {
	rev := x.conn.member.view.rev
	return x.since == 0 && x.next > rev && x.from <= rev
}

// pump ends one reason for which a watcher was not told anything.
func (c *Cluster) pump(x *watcher) {
	x.since--
	m := x.conn.member
	switch {
	case x.since > 0 || !x.alive():
	case m.paused > 0 || m.down > 0:
		x.since++
		c.plan(c.pause(c.cfg.Sync), moment{what: pumps, watcher: x})
	default:
		c.cut(x)
	}
}

// cut tells a watcher what is new at its member.
func (c *Cluster) cut(x *watcher) {
	rev := x.conn.member.view.rev
	if x.next <= x.conn.member.view.compacted-1 {
		if c.cfg.Plant != PlantSilentGap {
			c.remove(x)
			c.end(x, ErrCompacted, x.conn.member.view.compacted)
			return
		}
		x.next = x.conn.member.view.compacted
	}
	for x.next <= rev {
		events, to := c.slice(x, rev)
		x.next = to + 1
		if len(events) == 0 {
			continue
		}
		x.eventful = true
		for {
			part := len(events)
			if x.watch.do.Fragment {
				part = c.fragment(events)
			}
			if c.cfg.Plant == PlantSplitRevision && part > 1 {
				part--
			}
			split := part < len(events)
			c.tell(x, to, WatchReply{Events: events[:part:part]}, split && x.watch.do.Fragment)
			if events = events[part:]; !split {
				break
			}
		}
	}
}

// slice cuts what a watcher is to be told next out of history: whole revisions up to rev.
func (c *Cluster) slice(x *watcher, rev core.Revision) (events []Event, to core.Revision) {
	do, b := &x.watch.do, &c.batch
	if b.key == do.Key && b.end == do.End && b.from == x.next && b.to == rev {
		x.place = b.after
		return b.events, rev
	}
	past := &c.keys.past
	if x.place < past.base || x.place < past.next && past.at(x.place).KV.Mod < x.next {
		x.place = past.find(x.next)
	}
	revs, last := 0, core.Revision(0)
	to = rev
	for ; x.place < past.next && past.at(x.place).KV.Mod <= rev; x.place++ {
		e := past.at(x.place)
		if !inside(e.KV.Key, do.Key, do.End) {
			continue
		}
		if e.KV.Mod != last {
			if revs++; revs > batchRevs {
				to = last
				break
			}
			last = e.KV.Mod
		}
		if c.cfg.Plant == PlantLostEvent && e.KV.Version%8 == 7 {
			continue
		}
		if events == nil {
			events = make([]Event, 0, min(past.next-x.place, 128))
		}
		events = append(events, e.Event)
	}
	if to == rev {
		*b = batch{do.Key, do.End, x.next, rev, x.place, events}
	}
	return events, to
}

// fragment returns how many of the events fit in one part.
func (c *Cluster) fragment(events []Event) int {
	size := 0
	for i := range events {
		size += len(events[i].KV.Key) + len(events[i].KV.Value) + 2*aroundOp
		if size >= c.cfg.FragmentBytes && i > 0 {
			return i
		}
	}
	return len(events)
}

// tell sends a message to a watch.
func (c *Cluster) tell(x *watcher, rev core.Revision, reply WatchReply, part bool) {
	a := &message{Answer{Revision: rev, Member: x.conn.member.id, Reply: reply}, part}
	c.toClient(x.conn, moment{what: tells, conn: x.conn, watch: x.watch, message: a, n: x.serial})
}

// end tells a watch that it is over.
func (c *Cluster) end(x *watcher, err Error, compacted core.Revision) {
	a := &message{answer: Answer{Err: err, Member: x.conn.member.id, Reply: WatchReply{Ended: true, Compacted: compacted}}}
	c.toClient(x.conn, moment{what: tells, conn: x.conn, watch: x.watch, message: a, n: x.serial})
}

func (c *Cluster) remove(x *watcher) {
	m := x.conn.member
	m.watchers = slices.DeleteFunc(slices.Clone(m.watchers), func(y *watcher) bool { return x == y })
}

// dropWatchers forgets the watchers of a connection.
func (c *Cluster) dropWatchers(n *conn) {
	n.member.watchers = slices.DeleteFunc(n.member.watchers, func(x *watcher) bool { return x.conn == n })
}

// told is the arrival of a message of a watch at the client, which remembers how far it is.
func (c *Cluster) told(m moment) {
	w := m.watch
	if w.ended || m.n != w.serial || w.conn != m.conn {
		return
	}
	a := m.message.answer
	reply := a.Reply.(WatchReply)
	switch {
	case reply.Ended:
		w.ended = true
		w.client.watches = slices.DeleteFunc(w.client.watches, func(x *watch) bool { return x == w })
	case reply.Created:
		if w.next == 0 {
			// Not one more: a watch that breaks before it has heard of a change is told of the
			// last one before it began (clientv3 watch.go: nextRev = wr.Header.Revision).
			w.next = a.Revision
		}
		if w.created {
			return // the client library has opened it anew; nobody else is told
		}
		w.created = true
	case m.message.part:
		w.parts = append(w.parts, reply.Events...)
		return
	default:
		if len(w.parts) > 0 {
			reply.Events = append(w.parts, reply.Events...)
			a.Reply, w.parts = reply, nil
		}
		w.next = a.Revision + 1
	}
	a.At, a.Client, a.ID = c.now, w.client.id, w.req.ID
	c.say(a)
}

// progressAll tells all watches of a connection how far they are, if each has been told all;
// or one of them, as it wished, after a time without events.
func (c *Cluster) progressAll(n *conn, epoch uint64) {
	if n.epoch != epoch || n.member.down > 0 || n.member.paused > 0 {
		return
	}
	for _, x := range n.member.watchers {
		if x.conn == n && !x.synced() {
			return
		}
	}
	for _, x := range n.member.watchers {
		if x.conn == n {
			c.tell(x, n.member.view.rev, WatchReply{}, false)
		}
	}
}

// progress is one watcher's regular notification.
func (c *Cluster) progress(x *watcher) {
	if !x.alive() {
		return
	}
	m := x.conn.member
	if !x.eventful && m.paused == 0 && x.synced() {
		c.tell(x, m.view.rev, WatchReply{}, false)
	}
	x.eventful = false
	c.plan(c.cfg.ProgressEvery, moment{what: progresses, conn: x.conn, watcher: x, n: x.epoch})
}
