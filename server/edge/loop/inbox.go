package loop

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// inboxes hold what waits for the loop. What ends or answers something frees resources;
// what is new takes them. So the two wait apart: a flood of INVITEs fills its own inbox
// and is shed there, while the BYEs, commits and answers that let live calls end still
// find room.
type inboxes struct {
	urgent, fresh chan item
	shed          atomic.Uint64
	streak        int // urgent items taken in a row; the loop's goroutine only
}

type item struct {
	at  core.Time
	ev  core.Event
	ask func() // in place of an event
}

// The share of the fresh inbox: after so many urgent items in a row one fresh item is
// taken, for anybody can send a flood of BYEs too.
const longestStreak = 64

// Emit hands an event over and never blocks, also when called from Dispatch. False: the
// inbox is full and the event is lost; the caller sheds (503) or emits it again later.
func (l *Loop) Emit(ev core.Event) bool {
	inbox := l.urgent
	if isFresh(ev) {
		inbox = l.fresh
	}
	select {
	case inbox <- item{at: l.cfg.Clock(), ev: ev}:
		return true
	default:
		l.shed.Add(1)
		return false
	}
}

// Ask runs f on the loop's goroutine, between two steps, and waits for it: the one way to
// look into the node from outside. It fails when ctx ends first; f may then still run.
func (l *Loop) Ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case l.urgent <- item{ask: func() { f(); close(done) }}:
	case <-ctx.Done():
		return fmt.Errorf("loop does not take questions: %w", ctx.Err())
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loop does not answer: %w", ctx.Err())
	}
}

// Waiting returns how many events wait in the urgent and in the fresh inbox.
func (l *Loop) Waiting() (urgent, fresh int) { return len(l.urgent), len(l.fresh) }

// Shed returns how many events found their inbox full.
func (l *Loop) Shed() uint64 { return l.shed.Load() }

// take returns what waits, urgent first, without blocking.
func (b *inboxes) take() (item, bool) {
	if b.streak < longestStreak {
		select {
		case it := <-b.urgent:
			b.streak++
			return it, true
		default:
		}
	}
	b.streak = 0
	select {
	case it := <-b.fresh:
		return it, true
	default:
	}
	select {
	case it := <-b.urgent:
		return it, true
	default:
		return item{}, false
	}
}

// wait blocks until something comes; false: look again (deadline or end).
func (b *inboxes) wait(ctx context.Context, timer *time.Timer) (item, bool) {
	select {
	case it := <-b.urgent:
		return it, true
	case it := <-b.fresh:
		return it, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return item{}, false
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
