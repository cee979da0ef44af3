package acd

import (
	"errors"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Why an interaction is not taken into a queue.
var (
	ErrNoQueue = errors.New("acd: no such queue")
	ErrNobody  = errors.New("acd: no agent of the queue is logged in and reachable")
	ErrFull    = errors.New("acd: the queue is full")
	ErrTaken   = errors.New("acd: the interaction waits already, or an agent talks with it")
)

// Entry is an interaction that asks for a place in a queue.
type Entry struct {
	ID        core.InteractionID
	Queue     core.QueueID
	Priority  int            // 0..10, higher is sooner
	Skills    map[string]int // required beside those of the queue: skill -> least proficiency
	ArrivedAt core.Time      // the first arrival, kept through every failover and overflow
	QueuedAt  core.Time      // when it came to this queue; zero: now
}

// Enqueue gives an entry a place. It fails with ErrNoQueue; with ErrTaken; with ErrNobody
// when the queue overflows at once with nobody there; with ErrFull when MaxWaiting entries
// wait, those included that are being offered (0 closes the queue). Then nothing has
// changed. An interaction that an agent still rings for (its offer is being withdrawn) is
// matched only after that agent's Release.
func (c *Center) Enqueue(now core.Time, e Entry) error {
	if q := c.queues[e.Queue]; q != nil && !c.taken(e.ID) {
		if q.Overflow != nil && q.Overflow.WhenNobody && !c.Staffed(e.Queue) {
			return ErrNobody
		}
		if q.arrived.n >= q.MaxWaiting {
			return ErrFull
		}
	}
	return c.Requeue(now, e)
}

// Requeue is Enqueue for an entry that had been accepted before a restart or takeover: no
// limit sends it away.
func (c *Center) Requeue(now core.Time, e Entry) error {
	q := c.queues[e.Queue]
	if q == nil {
		return ErrNoQueue
	}
	if c.taken(e.ID) {
		return ErrTaken
	}
	if e.QueuedAt.IsZero() {
		e.QueuedAt = now
	}
	w := &entry{Entry: e, place: entryPlace(e, q.ageing)}
	c.entries[e.ID] = w
	q.arrived.insert(w.arrival(), w)
	c.enline(w, c.lineFor(q, e.Skills))
	return nil
}

// taken reports whether an interaction waits, or is with an agent for good.
func (c *Center) taken(id core.InteractionID) bool {
	if c.entries[id] != nil {
		return true
	}
	m := c.serving[id]
	return m != nil && (m.State == Talking || m.State == Held)
}

// Leave takes an interaction out of its queue for good: abandoned, overflowed or ended. An
// agent that is being offered it stays so until its Release.
func (c *Center) Leave(now core.Time, id core.InteractionID) {
	if e := c.entries[id]; e != nil {
		c.leave(e)
	}
}

// Waiting reports whether an interaction waits; while it is being offered it does.
func (c *Center) Waiting(id core.InteractionID) bool { return c.entries[id] != nil }

// Position returns the place of an interaction in its queue, 1 for the next; 0 when it does
// not wait. Those being offered count. It costs a pass over the queue.
func (c *Center) Position(id core.InteractionID) int {
	e := c.entries[id]
	if e == nil {
		return 0
	}
	position := 1
	for _, block := range e.line.queue.arrived.blocks {
		for _, it := range block {
			if it.value.place.compare(e.place) < 0 {
				position++
			}
		}
	}
	return position
}

// Count is a queue at this moment.
type Count struct {
	Waiting          int       // those being offered included
	LongestWaitSince core.Time // the earliest arrival of those; zero when none
	Ready            int       // agents that can be offered an interaction
	Busy             int       // Reserved, Ringing, Talking, Held or in WrapUp, from any queue
	NotReady         int       // logged in and idle, but NotReady or unreachable
}

// Count returns a queue in numbers. It adds up the teams of the queue: agents and entries
// are not visited.
func (c *Center) Count(id core.QueueID) Count {
	q := c.queues[id]
	if q == nil {
		return Count{}
	}
	n := Count{Waiting: q.arrived.n}
	if q.arrived.n > 0 {
		n.LongestWaitSince = q.arrived.first().at
	}
	for _, t := range q.teams {
		n.Ready += t.ready
		n.Busy += t.busy
		n.NotReady += t.notReady
	}
	return n
}

// Staffed reports whether an agent of the queue is logged in and reachable, busy or not.
func (c *Center) Staffed(id core.QueueID) bool {
	q := c.queues[id]
	if q == nil {
		return false
	}
	for _, t := range q.teams {
		if t.staffed > 0 {
			return true
		}
	}
	return false
}

// enline puts an entry into a line; it can be matched if no agent is with it.
func (c *Center) enline(e *entry, l *line) {
	e.line = l
	l.entries++
	c.offerable(e)
}

// offerable lets an entry that no agent is with be matched.
func (c *Center) offerable(e *entry) {
	if c.serving[e.ID] != nil {
		return
	}
	l := e.line
	l.waiting.insert(e.place, e)
	update(&c.heads, l.number, &l.waiting)
	if !l.fresh {
		l.fresh = true
		c.freshLines = append(c.freshLines, l)
	}
}

// unofferable keeps an entry from being matched.
func (c *Center) unofferable(e *entry) {
	e.line.waiting.remove(e.place)
	update(&c.heads, e.line.number, &e.line.waiting)
}

// unline takes an entry out of its line.
func (c *Center) unline(e *entry) {
	c.unofferable(e)
	e.line.entries--
}

func (c *Center) leave(e *entry) {
	c.unline(e)
	e.line.queue.arrived.remove(e.arrival())
	delete(c.entries, e.ID)
}

// free lets an interaction be matched again, in its old place, if it still waits.
func (c *Center) free(id core.InteractionID) {
	if e := c.entries[id]; e != nil {
		c.offerable(e)
	}
}
