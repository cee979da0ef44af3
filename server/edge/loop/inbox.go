package loop

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// inboxes hold what waits for the loop. What ends or answers something frees resources;
// what is new takes them. So the two wait apart: a flood of INVITEs fills its own inbox
// and is shed there, while the BYEs, commits and answers that let live calls end still
// find room.
type inboxes struct {
	mu            sync.Mutex
	urgent, fresh fifo
	streak        int           // urgent items taken in a row
	pace          time.Duration // mean time from one fresh item to the next, while some wait
	taken         core.Time     // when the last fresh item was taken; 0: none waited behind it
	resting       bool          // the loop's goroutine sleeps, or is about to

	bell chan struct{} // wakes it
	shed atomic.Uint64
}

type item struct {
	at  core.Time
	ev  core.Event
	ask func() // in place of an event
}

// The share of the fresh inbox: after so many urgent items in a row one fresh item is
// taken, for anybody can send a flood of BYEs too.
const longestStreak = 64

// staleAfter bounds how long anything new waits. What would have to wait longer, by the
// pace of those before it, is shed: a queue of seconds would serve everybody when they have
// given up, one of a fraction of T1 (500 ms) serves as many as there is time for.
const staleAfter = 200 * time.Millisecond

// Emit hands an event over and never blocks, also when called from Dispatch. False: the
// inbox is full, or what is new waits too long already, and the event is lost; the caller
// sheds (503) or emits it again later.
func (l *Loop) Emit(ev core.Event) bool { return l.put(item{at: l.cfg.Clock(), ev: ev}) }

// put wakes the loop only when it rests: a wake-up costs more than most steps.
func (b *inboxes) put(it item) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	inbox := &b.urgent
	if isFresh(it.ev) {
		inbox = &b.fresh
		if wait := time.Duration(inbox.count) * b.pace; wait > staleAfter ||
			inbox.count > 0 && it.at.Sub(inbox.first().at) > staleAfter { // nothing is taken at all
			b.shed.Add(1)
			return false
		}
	}
	if !inbox.push(it) {
		b.shed.Add(1)
		return false
	}
	if b.resting {
		b.resting = false
		b.bell <- struct{}{} // has room: one token for each rest
	}
	return true
}

// rest waits until something is put, or for the timer.
func (b *inboxes) rest(ctx context.Context, timer *time.Timer) {
	b.mu.Lock()
	if b.resting = b.urgent.count+b.fresh.count == 0; !b.resting {
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	select {
	case <-b.bell:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.resting { // something was put at the same moment: its token must not wake the next rest
		<-b.bell
	}
	b.resting = false
}

// Ask runs f between two steps and waits for it: the one way to look into the node from
// outside. It fails when ctx ends first; f may then still run.
func (l *Loop) Ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	it := item{ask: func() { f(); close(done) }}
	for !l.put(it) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("loop does not take questions: %w", ctx.Err())
		}
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loop does not answer: %w", ctx.Err())
	}
}

// Waiting returns how many events wait in the urgent and in the fresh inbox.
func (l *Loop) Waiting() (urgent, fresh int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.urgent.count, l.fresh.count
}

// Shed returns how many events found their inbox full or too slow.
func (l *Loop) Shed() uint64 { return l.shed.Load() }

// take returns what waits, urgent first.
func (b *inboxes) take(now core.Time) (item, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.urgent.count > 0 && (b.streak < longestStreak || b.fresh.count == 0) {
		b.streak = min(b.streak+1, longestStreak)
		return b.urgent.pop(), true
	}
	b.streak = 0
	if b.fresh.count == 0 {
		return item{}, false
	}
	if b.taken > 0 {
		b.pace += (min(now.Sub(b.taken), staleAfter) - b.pace) / 8
	}
	it := b.fresh.pop()
	if b.taken = now; b.fresh.count == 0 { // what comes next does not wait behind this hiccup
		b.taken, b.pace = 0, 0
	}
	return it, true
}

// isFresh reports whether an event asks for something new: a request outside a dialog
// (its To has no tag, RFC 3261 s.12.2.2) or a command. A CANCEL has no tag either, but it ends something.
func isFresh(ev core.Event) bool {
	switch ev := ev.(type) {
	case core.RequestReceived:
		return ev.Request.To.Tag() == "" && ev.Request.Method != core.CANCEL
	case core.Commanded:
		return true
	}
	return false
}

// fifo is a queue in a ring that grows up to its limit.
type fifo struct {
	ring  []item
	head  int
	count int
	limit int
}

func (q *fifo) first() *item { return &q.ring[q.head] }

func (q *fifo) push(it item) bool {
	if q.count == q.limit {
		return false
	}
	if q.count == len(q.ring) {
		grown := make([]item, min(q.limit, max(64, 2*len(q.ring))))
		copy(grown[copy(grown, q.ring[q.head:]):], q.ring[:q.head])
		q.ring, q.head = grown, 0
	}
	q.ring[(q.head+q.count)%len(q.ring)] = it
	q.count++
	return true
}

func (q *fifo) pop() item {
	it := q.ring[q.head]
	q.ring[q.head] = item{}
	q.head = (q.head + 1) % len(q.ring)
	q.count--
	return it
}
