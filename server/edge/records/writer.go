package records

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds of the Writer.
const (
	maxQueued = 4096 // CDRs that wait; one more is answered with DeliveryFailed at once
	maxBatch  = 256  // CDRs in one transaction
	// The least time between the starts of two transactions while fewer wait than fill one:
	// each costs a sync of the disk and much work besides, and nobody waits for a CDR, which is
	// safe in the outbox meanwhile. The first after a pause goes at once.
	spacing     = 200 * time.Millisecond
	putTime     = 10 * time.Second
	emitBackoff = time.Millisecond // the core's inbox is full
)

// Gauges is how a Writer stands at a moment.
type Gauges struct {
	Queued    int    // CDRs that wait
	Delivered uint64 // times that Delivered was said
	Failed    uint64 // times that DeliveryFailed was said
	Batches   uint64 // transactions that were committed
}

// Writer brings CDRs from the core to a Store: one goroutine, batch after batch. It does
// not try again by itself: a failure is told, and the core, whose outbox survives this
// process, delivers again.
type Writer struct {
	store Store
	emit  func(core.Event) bool
	log   *slog.Logger

	mu      sync.Mutex
	queue   []*core.CDR
	refused []core.Event // of deliveries that were not queued
	closing bool
	gauges  Gauges

	wake    chan struct{}
	flushed chan struct{}
	done    chan struct{}
	base    context.Context
	end     context.CancelFunc
	failing bool      // the last batch failed: the next failure is not logged
	last    time.Time // when the last batch was taken
}

// NewWriter starts a Writer. Emit must not block; when it returns false the event is kept
// and handed over again.
func NewWriter(store Store, emit func(core.Event) bool, log *slog.Logger) *Writer {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w := &Writer{store: store, emit: emit, log: log,
		wake: make(chan struct{}, 1), flushed: make(chan struct{}), done: make(chan struct{})}
	w.base, w.end = context.WithCancel(context.Background())
	go w.run()
	return w
}

// Do queues a CDR; it never blocks. Delivered follows when it is on the disk, or
// DeliveryFailed: when it could not be written, has no tenant or id, or too many wait.
func (w *Writer) Do(effect core.Deliver) {
	cdr := effect.CDR
	if cdr == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closing: // the goroutine may be gone; the outbox keeps it
		w.emit(core.DeliveryFailed{ID: cdr.ID, Cause: "the records store is closing"})
		return
	case cdr.Tenant == "" || cdr.ID == "":
		w.refuse(cdr, "a CDR needs a tenant and an id")
	case len(w.queue) >= maxQueued:
		w.refuse(cdr, "too many CDRs wait for the records store")
	default:
		w.queue = append(w.queue, cdr)
		if n := len(w.queue); n != 1 && n != maxBatch {
			return // the goroutine knows already, and rests or writes
		}
	}
	w.signal()
}

func (w *Writer) refuse(cdr *core.CDR, cause string) {
	w.gauges.Failed++
	w.refused = append(w.refused, core.DeliveryFailed{ID: cdr.ID, Cause: cause})
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Gauges returns how the Writer stands.
func (w *Writer) Gauges() Gauges {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.gauges
	g.Queued = len(w.queue)
	return g
}

// Close takes no more CDRs and waits until those that were taken are written or ctx ends.
// It does not close the Store. What is not written stays in the core's outbox.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	w.signal()
	select {
	case <-w.flushed:
	case <-ctx.Done():
	}
	w.end()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.queue); n > 0 {
		return fmt.Errorf("%d CDRs were not written when the records store was closed; they are delivered at the next start: %w", n, context.Cause(ctx))
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, refused, rest, over := w.next(time.Now())
		for _, ev := range refused {
			w.tell(ev)
		}
		if len(batch) > 0 {
			w.deliver(batch)
			continue
		}
		if over {
			close(w.flushed)
			return
		}
		timer.Reset(rest)
		select {
		case <-w.base.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// next takes what is to be written now, and says when to look again, or that nothing will
// follow.
func (w *Writer) next(now time.Time) (batch []*core.CDR, refused []core.Event, rest time.Duration, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	refused, w.refused = w.refused, nil
	if w.base.Err() != nil {
		return nil, refused, 0, true
	}
	n := min(len(w.queue), maxBatch)
	if n == 0 {
		return nil, refused, time.Hour, w.closing
	}
	if rest = w.last.Add(spacing).Sub(now); rest > 0 && n < maxBatch && !w.closing {
		return nil, refused, rest, false
	}
	w.last = now
	batch = append(batch, w.queue[:n]...)
	clear(w.queue[:n])
	if w.queue = w.queue[n:]; len(w.queue) == 0 {
		w.queue = nil
	}
	return batch, refused, 0, false
}

// deliver writes a batch. When the store refuses one CDR of it (ErrInvalid), the others
// must not suffer for it: the halves are tried by themselves, and so on, which finds one of
// 256 in 17 transactions. Every other cause (a full disk) strikes all.
func (w *Writer) deliver(batch []*core.CDR) {
	switch err := w.put(batch); {
	case err == nil:
		w.delivered(batch)
	case errors.Is(err, ErrInvalid) && len(batch) > 1:
		half := len(batch) / 2
		w.deliver(batch[:half])
		w.deliver(batch[half:])
	default:
		w.failed(batch, err)
	}
}

func (w *Writer) put(batch []*core.CDR) error {
	ctx, cancel := context.WithTimeout(w.base, putTime)
	defer cancel()
	cdrs := make([]core.CDR, len(batch))
	for i, cdr := range batch {
		cdrs[i] = *cdr
	}
	return w.store.Put(ctx, cdrs)
}

func (w *Writer) delivered(batch []*core.CDR) {
	w.mu.Lock()
	w.gauges.Delivered += uint64(len(batch))
	w.gauges.Batches++
	w.mu.Unlock()
	if w.failing {
		w.failing = false
		w.log.Info("CDRs are written again")
	}
	for _, cdr := range batch {
		w.tell(core.Delivered{ID: cdr.ID})
	}
}

func (w *Writer) failed(batch []*core.CDR, err error) {
	w.mu.Lock()
	w.gauges.Failed += uint64(len(batch))
	w.mu.Unlock()
	if !w.failing {
		w.failing = true
		w.log.Error("CDRs can't be written; they wait in the outbox", "err", err)
	}
	for _, cdr := range batch {
		w.tell(core.DeliveryFailed{ID: cdr.ID, Cause: err.Error()})
	}
}

// tell hands an event to the core, however long its inbox is full.
func (w *Writer) tell(ev core.Event) {
	for !w.emit(ev) {
		select {
		case <-w.base.Done():
			return
		case <-time.After(emitBackoff):
		}
	}
}
