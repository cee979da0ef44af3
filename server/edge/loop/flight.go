package loop

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Flight is the flight recorder: a ring of the last events and effects. They are put into
// words only when it is read, so that recording costs a copy of an interface.
type Flight struct {
	mu    sync.Mutex
	ring  []record
	count uint64 // records ever made; the next goes to count % len(ring)
}

// record is one event or one effect.
type record struct {
	at   core.Time
	what any
}

func newFlight(size int) *Flight { return &Flight{ring: make([]record, size)} }

func (f *Flight) event(now core.Time, ev core.Event) {
	f.mu.Lock()
	f.put(now, ev)
	f.mu.Unlock()
}

func (f *Flight) effects(now core.Time, all []core.Effect) {
	if len(all) == 0 {
		return
	}
	f.mu.Lock()
	for _, effect := range all {
		f.put(now, effect)
	}
	f.mu.Unlock()
}

func (f *Flight) put(now core.Time, what any) {
	f.ring[f.count%uint64(len(f.ring))] = record{now, what}
	f.count++
}

// WriteTo writes the ring in words, oldest first, one line each: time, ">" for an event or
// "<" for an effect, and what it was. It holds no secret, no SIP body and no stored value.
func (f *Flight) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	kept := min(f.count, uint64(len(f.ring)))
	lines := make([]record, 0, kept)
	for i := f.count - kept; i < f.count; i++ {
		lines = append(lines, f.ring[i%uint64(len(f.ring))])
	}
	total := f.count
	f.mu.Unlock()

	buffered := bufio.NewWriter(w)
	written, err := fmt.Fprintf(buffered, "flight record: the last %d of %d events (>) and effects (<)\n", kept, total)
	for _, line := range lines {
		if err != nil {
			break
		}
		var n int
		n, err = fmt.Fprintf(buffered, "%s %s\n", line.at, words(line.what))
		written += n
	}
	if err == nil {
		err = buffered.Flush()
	}
	return int64(written), err
}
