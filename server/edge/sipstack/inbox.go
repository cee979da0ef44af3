package sipstack

import (
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	maxKept    = 1 << 16 // events; more than all client transactions could cause at once
	retryAfter = 2 * time.Millisecond
)

// inbox hands events to the core. A request that finds no room is refused to the peer; a
// response, a failure or the end of a flow cannot be refused to anybody, so it waits here
// and goes first when there is room again.
type inbox struct {
	stack *Stack
	emit  func(core.Event) bool

	mu       sync.Mutex
	kept     []core.Event
	closed   bool
	retrying chan struct{} // holds a token while events are kept
}

func (b *inbox) init(s *Stack, emit func(core.Event) bool) {
	b.stack, b.emit, b.retrying = s, emit, make(chan struct{}, 1)
}

// offer hands on what a reader received, or reports that there is no room.
func (b *inbox) offer(e core.Event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.closed && len(b.kept) == 0 && b.emit(e)
}

// keep hands on an event now or later.
func (b *inbox) keep(e core.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
	case len(b.kept) == 0 && b.emit(e):
	case len(b.kept) >= maxKept:
		b.stack.tally.lost.Add(1)
		b.stack.log.Error("SIP: the core's inbox stays full, an event is lost: the node is overloaded or stuck")
	default:
		b.kept = append(b.kept, e)
		select {
		case b.retrying <- struct{}{}:
		default:
		}
	}
}

// retry hands on what was kept as soon as there is room.
func (b *inbox) retry() {
	for {
		select {
		case <-b.stack.done:
			return
		case <-b.retrying:
		}
		for b.flush() {
			b.stack.pause(retryAfter)
		}
	}
}

// flush reports whether events are left.
func (b *inbox) flush() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for n < len(b.kept) && !b.closed && b.emit(b.kept[n]) {
		n++
	}
	clear(b.kept[:n])
	b.kept = b.kept[n:]
	if len(b.kept) == 0 {
		b.kept = nil
	}
	return len(b.kept) > 0 && !b.stack.closed.Load()
}

func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.kept = true, nil
}
