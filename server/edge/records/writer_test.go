package records

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// inbox is the core's, as a Writer sees it.
type inbox struct {
	mu     sync.Mutex
	events []core.Event
	full   func() bool
	more   chan struct{}
}

func newInbox() *inbox { return &inbox{more: make(chan struct{}, 1)} }

func (in *inbox) emit(ev core.Event) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.full != nil && in.full() {
		return false
	}
	in.events = append(in.events, ev)
	select {
	case in.more <- struct{}{}:
	default:
	}
	return true
}

func (in *inbox) len() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.events)
}

func (in *inbox) await(t testing.TB, n int) {
	t.Helper()
	for deadline := time.After(20 * time.Second); in.len() < n; {
		select {
		case <-in.more:
		case <-deadline:
			t.Fatalf("waited 20 s for %d events, %d came", n, in.len())
		}
	}
}

func (in *inbox) failures() map[core.InteractionID]string {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := map[core.InteractionID]string{}
	for _, ev := range in.events {
		if f, ok := ev.(core.DeliveryFailed); ok {
			all[f.ID] = f.Cause
		}
	}
	return all
}

func (in *inbox) count() (delivered int, failed bool) {
	failures := in.failures()
	return in.len() - len(failures), len(failures) > 0
}

func (in *inbox) reset() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.events = nil
}

// playedStore is a Store whose Put does what a test wants.
type playedStore struct {
	Store
	put func([]core.CDR) error
}

func (p playedStore) Put(_ context.Context, cdrs []core.CDR) error { return p.put(cdrs) }

func deliver(w *Writer, cdrs ...core.CDR) {
	for i := range cdrs {
		w.Do(core.Deliver{CDR: &cdrs[i]})
	}
}

func TestWriterDeliversInOrder(t *testing.T) {
	s := openSQLite(t, filepath.Join(t.TempDir(), "records.db"))
	defer s.Close()
	in := newInbox()
	turn := 0
	in.full = func() bool { turn++; return turn%4 == 0 } // nothing is lost at a full inbox
	w := NewWriter(s, in.emit, nil)
	const n = 1000
	for i := range n {
		deliver(w, sample("demo", i))
	}
	must(t, w.Close(t.Context()))
	in.await(t, n)
	for i, ev := range in.events {
		if ev != (core.Delivered{ID: id(i)}) {
			t.Fatalf("event %d is %v", i, ev)
		}
	}
	ids, more := list(t, s, "demo", Filter{Limit: MaxLimit})
	if len(ids) != n || more {
		t.Errorf("%d CDRs", len(ids))
	}
	if g := w.Gauges(); g.Delivered != n || g.Failed != 0 || g.Queued != 0 || g.Batches > n/2 {
		t.Errorf("%+v", g)
	}
	deliver(w, sample("demo", n))
	in.full = nil
	deliver(w, sample("demo", n+1))
	if got := in.failures(); got[id(n+1)] == "" {
		t.Errorf("after Close: %v", got)
	}
}

func TestDeliveredComesAfterTheCommit(t *testing.T) {
	in := newInbox()
	gate := make(chan struct{})
	w := NewWriter(playedStore{put: func([]core.CDR) error { <-gate; return nil }}, in.emit, nil)
	deliver(w, sample("demo", 1))
	for deadline := time.Now().Add(10 * time.Second); w.Gauges().Queued > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if in.len() != 0 {
		t.Errorf("before the commit: %v", in.events)
	}
	close(gate)
	must(t, w.Close(t.Context()))
	if in.len() != 1 {
		t.Errorf("%v", in.events)
	}
}

// A lone CDR is written at once, those that follow soon share a transaction, and a full batch
// waits for nothing.
func TestTransactionsAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type put struct {
			at time.Duration
			n  int
		}
		var puts []put
		in, began := newInbox(), time.Now()
		w := NewWriter(playedStore{put: func(cdrs []core.CDR) error {
			puts = append(puts, put{time.Since(began), len(cdrs)})
			return nil
		}}, in.emit, nil)
		next := 0
		some := func(n int) {
			for range n {
				deliver(w, sample("demo", next))
				next++
			}
			synctest.Wait()
		}
		some(1)
		for range 10 {
			time.Sleep(spacing / 20)
			some(1)
		}
		time.Sleep(2 * spacing)
		some(1)
		some(maxBatch - 1)
		some(1)
		want := []put{{0, 1}, {spacing, 10}, {spacing/2 + 2*spacing, 1}, {spacing/2 + 2*spacing, maxBatch}}
		if !slices.Equal(puts, want) {
			t.Errorf("transactions %v, not %v", puts, want)
		}
		must(t, w.Close(t.Context()))
		if in.len() != next {
			t.Errorf("%d of %d events", in.len(), next)
		}
	})
}

func TestQueueOfTheWriterIsBounded(t *testing.T) {
	in := newInbox()
	gate := make(chan struct{})
	w := NewWriter(playedStore{put: func([]core.CDR) error { <-gate; return nil }}, in.emit, nil)
	const n = maxQueued + maxBatch + 50
	began := time.Now()
	for i := range n {
		deliver(w, sample("demo", i))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Do waited: %v", took)
	}
	close(gate)
	must(t, w.Close(t.Context()))
	delivered, _ := in.count()
	failures := in.failures()
	if in.len() != n || len(failures) < 50 || delivered+len(failures) != n {
		t.Errorf("%d events, %d failures", in.len(), len(failures))
	}
	for _, cause := range failures {
		if !strings.Contains(cause, "too many") {
			t.Fatal(cause)
		}
	}
}

// signalwire/freeswitch#1235: one CDR that can't be kept must not hold up the others.
func TestOneBadCDRFailsAlone(t *testing.T) {
	s := openSQLite(t, filepath.Join(t.TempDir(), "records.db"))
	defer s.Close()
	in := newInbox()
	gate, first := make(chan struct{}), true
	w := NewWriter(playedStore{s, func(cdrs []core.CDR) error {
		if first {
			first = false
			<-gate
		}
		for _, c := range cdrs {
			if c.ID == id(3) || c.ID == id(1) {
				return ErrInvalid
			}
		}
		return s.Put(t.Context(), cdrs)
	}}, in.emit, nil)
	for i := range 6 {
		deliver(w, sample("demo", i))
	}
	bad := sample("", 7)
	deliver(w, bad)
	w.Do(core.Deliver{})
	close(gate)
	must(t, w.Close(t.Context()))
	failures := in.failures()
	if len(failures) != 3 || failures[id(1)] == "" || failures[id(3)] == "" || failures[id(7)] == "" || in.len() != 7 {
		t.Errorf("%v", in.events)
	}
	if ids, _ := list(t, s, "demo", Filter{}); len(ids) != 4 {
		t.Errorf("%v", ids)
	}
}

func TestBadCDRIsFoundByHalves(t *testing.T) {
	in := newInbox()
	puts, gate := 0, make(chan struct{})
	w := NewWriter(playedStore{put: func(cdrs []core.CDR) error {
		<-gate
		puts++
		if slices.ContainsFunc(cdrs, func(c core.CDR) bool { return c.ID == id(77) }) {
			return ErrInvalid
		}
		return nil
	}}, in.emit, nil)
	const n = 1 + maxBatch // the first may go alone
	for i := range n {
		deliver(w, sample("demo", i))
	}
	close(gate)
	must(t, w.Close(t.Context()))
	if failures := in.failures(); in.len() != n || len(failures) != 1 || failures[id(77)] == "" {
		t.Errorf("%d events, failures %v", in.len(), failures)
	}
	if puts > 20 {
		t.Errorf("%d transactions to find one of %d", puts, maxBatch)
	}
}

func TestFailureStrikesAllOfABatch(t *testing.T) {
	in := newInbox()
	puts, gate := 0, make(chan struct{})
	w := NewWriter(playedStore{put: func([]core.CDR) error { <-gate; puts++; return errors.New("locked") }}, in.emit, nil)
	for i := range 500 {
		deliver(w, sample("demo", i))
	}
	close(gate)
	must(t, w.Close(t.Context()))
	if got := len(in.failures()); got != 500 {
		t.Errorf("%d failures", got)
	}
	if puts > 3 { // what came first, and the rest in batches
		t.Errorf("%d tries for 500 CDRs", puts)
	}
	if want := map[string]bool{"locked": true}; !maps.Equal(want, causes(in)) {
		t.Errorf("%v", causes(in))
	}
}

func causes(in *inbox) map[string]bool {
	all := map[string]bool{}
	for _, cause := range in.failures() {
		all[cause] = true
	}
	return all
}

func TestCloseOfTheWriterEndsInTime(t *testing.T) {
	in := newInbox()
	in.full = func() bool { return true } // the core is gone
	w := NewWriter(playedStore{put: func([]core.CDR) error { return nil }}, in.emit, nil)
	for i := range 2 * maxBatch {
		deliver(w, sample("demo", i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
