package httpapi

import (
	"container/list"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	mostRings   = 4096 // tenants with events kept; the one that was quiet longest makes room
	mostStreams = 4096 // of all tenants
	batchSize   = 64   // events that a reader takes at once
)

// The kind of the event that says that some were missed.
const resetKind = "reset"

// A feed keeps the latest events of each tenant. A tenant's ring and its ids are its own, so
// that not even the pace of another's events shows.
//
// The loop hands events over as values; one goroutine writes them as JSON, once for all
// readers. A reader is a place in its tenant's ring and has no buffer: it costs nothing to
// be slow, but who is overtaken by the ring is dropped.
type feed struct {
	log    *slog.Logger
	events int // per ring
	bytes  int
	each   int // streams per tenant

	mu      sync.Mutex
	rings   map[core.TenantID]*list.Element
	order   *list.List // of *ring, the latest publication first
	fresh   []*ring    // with events to be written as JSON
	wake    chan struct{}
	streams int
	closed  chan struct{}
	done    chan struct{}
}

// A ring holds the events first+1..last of one tenant, without gaps. Ids begin at the time
// of its making, 4096 to a millisecond, plus chance: they go on rising after a restart, and
// an id of an earlier ring or of another node is not mistaken for one of this.
type ring struct {
	tenant  core.TenantID
	fresh   []core.Publish
	missed  bool // events were lost before they had ids
	kept    []event
	bytes   int
	first   uint64
	last    uint64
	readers int
	gone    bool
	changed chan struct{} // closed at the next change
}

type event struct {
	id   uint64
	kind string
	data []byte
}

func newFeed(c Config) *feed {
	f := &feed{log: c.Log, events: c.Events, bytes: c.EventsMax, each: c.Streams,
		rings: map[core.TenantID]*list.Element{}, order: list.New(),
		wake: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{})}
	go f.write()
	return f
}

// publish takes an event from the loop; it does no more than append it.
func (f *feed) publish(p core.Publish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.ring(p.Tenant)
	f.order.MoveToFront(f.rings[p.Tenant])
	if len(r.fresh) == 0 && !r.missed {
		f.fresh = append(f.fresh, r)
	}
	if len(r.fresh) < f.events {
		r.fresh = append(r.fresh, p)
	} else {
		r.missed = true
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// ring finds or makes a tenant's ring.
func (f *feed) ring(t core.TenantID) *ring {
	if e := f.rings[t]; e != nil {
		return e.Value.(*ring)
	}
	if f.order.Len() >= mostRings {
		f.drop(f.order.Back().Value.(*ring))
	}
	begin := uint64(time.Now().UnixMilli())<<12 | rand.Uint64N(1<<12)
	r := &ring{tenant: t, first: begin, last: begin, changed: make(chan struct{})}
	f.rings[t] = f.order.PushFront(r)
	return r
}

// forget drops a tenant's events and ends its streams: a tenant that is made anew under the
// same id must not read what the one before it did.
func (f *feed) forget(t core.TenantID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.rings[t]; e != nil {
		f.drop(e.Value.(*ring))
	}
}

func (f *feed) drop(r *ring) {
	f.order.Remove(f.rings[r.tenant])
	delete(f.rings, r.tenant)
	r.gone = true
	r.fresh = nil
	close(r.changed)
}

func (f *feed) close() {
	f.mu.Lock()
	select {
	case <-f.closed:
	default:
		close(f.closed)
	}
	f.mu.Unlock()
	<-f.done
}

// write is the goroutine that turns what is fresh into JSON.
func (f *feed) write() {
	defer close(f.done)
	for {
		select {
		case <-f.wake:
		case <-f.closed:
			return
		}
		f.mu.Lock()
		rings := f.fresh
		f.fresh = nil
		f.mu.Unlock()
		for _, r := range rings {
			f.writeRing(r)
		}
	}
}

func (f *feed) writeRing(r *ring) {
	f.mu.Lock()
	fresh, missed := r.fresh, r.missed
	r.fresh, r.missed = nil, false
	f.mu.Unlock()
	done := make([]event, 0, len(fresh)+1)
	for _, p := range fresh {
		data, err := json.Marshal(p.Data)
		if err != nil {
			f.log.Error("an event cannot be written as JSON", "kind", p.Kind, "tenant", string(p.Tenant), "error", err.Error())
			missed = true
			continue
		}
		done = append(done, event{kind: p.Kind, data: data})
	}
	if missed {
		done = append(done, event{kind: resetKind, data: resetData()})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.gone {
		return
	}
	for _, e := range done {
		r.last++
		e.id = r.last
		r.kept = append(r.kept, e)
		r.bytes += len(e.data)
	}
	for len(r.kept) > f.events || (r.bytes > f.bytes && len(r.kept) > 1) {
		r.bytes -= len(r.kept[0].data)
		r.kept[0] = event{}
		r.kept = r.kept[1:]
		r.first++
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func resetData() []byte {
	return []byte(`{"detail":"Events were missed. Read what you follow again; later events come after this one."}`)
}

// A reader is a place in the ring of one tenant.
type reader struct {
	feed  *feed
	ring  *ring
	at    uint64 // the last id it has seen
	reset bool   // the events after the id that it asked for are not here
}

// read opens a reader behind an event, 0 for the latest. Close it.
func (f *feed) read(t core.TenantID, behind uint64, asked bool) (*reader, *problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.ring(t)
	select {
	case <-f.closed:
		return nil, &problem{Kind: core.Unavailable, Detail: "The server is ending. Connect to another node, or later."}
	default:
	}
	switch {
	case r.readers >= f.each:
		return nil, &problem{Kind: rateLimited, RetryAfter: "5",
			Detail: "The tenant has as many event streams open as are allowed. Close one first."}
	case f.streams >= mostStreams:
		p := overloaded()
		return nil, &p
	}
	r.readers++
	f.streams++
	switch {
	case !asked:
		return &reader{feed: f, ring: r, at: r.last}, nil
	case behind < r.first || behind > r.last:
		return &reader{feed: f, ring: r, at: r.last, reset: true}, nil
	}
	return &reader{feed: f, ring: r, at: behind}, nil
}

func (r *reader) close() {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	r.ring.readers--
	r.feed.streams--
}

// next returns the events that follow, if any; what is closed when there are more; and
// whether the reader is at its end: overtaken, or its tenant is gone.
func (r *reader) next() ([]event, <-chan struct{}, bool) {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	g := r.ring
	if g.gone || r.at < g.first {
		return nil, nil, true
	}
	from := int(r.at - g.first) // ids have no gaps
	to := min(len(g.kept), from+batchSize)
	batch := append([]event(nil), g.kept[from:to]...)
	r.at += uint64(len(batch))
	return batch, g.changed, false
}
