package telemetry

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Writer takes lines without ever waiting for where they go: a terminal that is stopped or
// a pipe that nobody reads must not stop calls. What does not fit is dropped and counted.
type Writer struct {
	to      io.Writer
	lines   chan []byte
	dropped atomic.Uint64
	mu      sync.Mutex // guards lines against a Write after Close
	closed  bool
	done    chan struct{}
}

// How many lines wait before lines are dropped.
const waitingLines = 4096

// NewWriter returns a Writer that passes whole lines on to a slower one.
func NewWriter(to io.Writer) *Writer {
	w := &Writer{to: to, lines: make(chan []byte, waitingLines), done: make(chan struct{})}
	go w.pass()
	return w
}

// Write takes a copy of one line. It never blocks and never fails.
func (w *Writer) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return w.to.Write(line)
	}
	select {
	case w.lines <- append([]byte(nil), line...):
	default:
		w.dropped.Add(1)
	}
	return len(line), nil
}

// Dropped returns how many lines were lost.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

func (w *Writer) pass() {
	defer close(w.done)
	for line := range w.lines {
		_, _ = w.to.Write(line) // there is no other place to complain to
	}
}

// Close passes on what waits, for at most two seconds. Later lines are written directly.
func (w *Writer) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	close(w.lines)
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-time.After(2 * time.Second):
	}
}
