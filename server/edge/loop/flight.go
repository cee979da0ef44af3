package loop

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/dialtone-cc/dialtone/server/core"
)

// maxFlight bounds the memory of what the flight recorder keeps, in bytes: peers choose how
// large their messages are.
const maxFlight = 32 << 20

// Flight is the flight recorder: a ring of the last events and effects. They are put into
// words only when it is read, so that recording costs a copy of an interface.
type Flight struct {
	mu    sync.Mutex
	ring  []record
	count uint64 // records ever made; the next goes to count % len(ring)
	kept  int    // records that are in the ring, the last ones
	bytes int    // that they hold
}

// record is one event or one effect.
type record struct {
	at   core.Time
	what any
	size int
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
	what, size := weigh(what)
	if f.kept == len(f.ring) {
		f.drop()
	}
	f.ring[f.count%uint64(len(f.ring))] = record{now, what, size}
	f.count++
	f.kept++
	f.bytes += size
	for f.bytes > maxFlight {
		f.drop()
	}
}

// drop lets go of the oldest record.
func (f *Flight) drop() {
	oldest := &f.ring[(f.count-uint64(f.kept))%uint64(len(f.ring))]
	f.bytes -= oldest.size
	*oldest = record{}
	f.kept--
}

// weigh estimates how many bytes a record keeps alive. What may be of any size, and is
// only named in words, is taken out.
func weigh(what any) (any, int) {
	const least = 128
	switch w := what.(type) {
	case core.RequestReceived:
		return what, weighMessage(&w.Request.Message)
	case core.ResponseReceived:
		return what, weighMessage(&w.Response.Message)
	case core.SendRequest:
		return what, weighMessage(&w.Request.Message)
	case core.Respond:
		return what, weighMessage(&w.Response.Message)
	case core.Store:
		size := least
		for _, op := range w.Ops {
			size += len(op.Key) + len(op.Value) + 40
		}
		return what, size
	case core.Restored:
		return restored(len(w.Entries)), least
	case core.Commanded:
		w.Do = reflect.TypeOf(w.Do)
		return w, least
	case core.Reply:
		w.Value = reflect.TypeOf(w.Value)
		return w, least
	case core.Publish, core.Deliver:
		return what, 8 * least
	}
	return what, least
}

// restored stands for core.Restored: how many entries there were.
type restored int

// weighMessage counts each text once, though they may be parts of one.
func weighMessage(m *core.Message) int {
	size := 1024 + len(m.CallID) + len(m.Body) + len(m.From.Params) + len(m.To.Params) + len(m.From.Display) + len(m.To.Display)
	for _, v := range m.Via {
		size += len(v)
	}
	for i := range m.Header {
		size += len(m.Header[i].Name) + len(m.Header[i].Value) + 32
	}
	return size + 160*(len(m.Contact)+len(m.Route)+len(m.RecordRoute))
}

// WriteTo writes the ring in words, oldest first, one line each: time, ">" for an event or
// "<" for an effect, and what it was. It holds no secret, no SIP body and no stored value.
func (f *Flight) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	kept := uint64(f.kept)
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
