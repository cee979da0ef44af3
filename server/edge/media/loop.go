package media

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/media/kernel"
)

// loop relays for its legs on one operating system thread. All that a leg is belongs to
// it; the goroutine of Do talks to it through orders only.
type loop struct {
	media  *Media
	poller poller
	family int

	mu     sync.Mutex
	orders []order // of Do, in order; drained at every turn, so as long as one burst of the core

	slots   []*leg // by the mark of an epoll event; nil: free
	vacant  []int32
	born    int32 // generations, so that an event of a closed leg is known
	byID    map[core.LegID]*leg
	heard   map[core.LegID][]*leg // who hears whom
	wheel   [wheelSlots][]*leg
	streams uint64 // identities given to sources
	pending []core.Event

	birth   time.Time
	now     int64 // ns since birth, read once per turn
	ticked  int64 // the last tick that was played
	tended  int64 // the last tick at which legs were tended
	cursor  int   // where tending goes on
	playing int   // legs in the wheel
	every   int64 // ns between two timer ticks; 0: the timer stands
	late    bool  // the loop was held up: what waits in the sockets is old

	routes   *kernel.Routes // nil on the portable path
	rerouted bool           // a route changed and the flows do not know yet
	birthAt  int64          // birth on the kernel's clock: ns of CLOCK_MONOTONIC

	count     counters
	published publishedCounters

	events [128]unix.EpollEvent
	spare  []order
	buf    [2][packetSize]byte
	out    [packetSize]byte
}

const (
	packetSize = 2048 // no network carries more without fragments; longer ones are refused
	// A loop that had legs and did not turn for so long was held up (a stopped process, a
	// paused virtual machine); it ticks every 2 or 10 ms otherwise.
	heldUp = 100 * time.Millisecond
	// The most that one socket can hold, by far, in small packets.
	drainMost = 256
	tendTurns = 100 // ticks in which every leg is tended once: 200 ms
	// While nothing plays, the timer fires only so often; the ticks between are made up for.
	slowTick = 10 * time.Millisecond
)

// What an epoll event is about: the two low bits of its mark, the leg's slot above.
const (
	rtpReadable int32 = iota
	rtcpReadable
	catcherReadable
)

const (
	markWake  int32 = -1
	markTimer int32 = -2
	markRoute int32 = -3
)

func mark(slot, kind int32) int32 { return slot<<2 | kind }

// order is what Do asks of a loop.
type order struct {
	do    orderKind
	leg   *leg
	spec  core.MediaSpec
	sound *sound     // of a playback, nil when there is none of that name
	event core.Event // orderEmit
}

type orderKind uint8

const (
	orderOpen orderKind = iota
	orderSet
	orderClose
	orderEmit // an event that the inbox had no room for
	orderStop
)

func newLoop(m *Media) (*loop, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	l := &loop{media: m, poller: p, family: familyOf(m.cfg.Addr), byID: map[core.LegID]*leg{}, heard: map[core.LegID][]*leg{}}
	l.birth, l.birthAt = bothClocks()
	if err := l.watchRoutes(); err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

func (l *loop) free() {
	l.poller.close()
	if l.routes != nil {
		l.routes.Close()
	}
}

// post hands an order over. The first of a burst wakes the loop.
func (l *loop) post(o order) {
	l.mu.Lock()
	l.orders = append(l.orders, o)
	first := len(l.orders) == 1
	l.mu.Unlock()
	if first {
		l.poller.ring()
	}
}

// run turns until it is told to stop. The thread is locked, so that the kernel's wake-up
// finds the same one each time, and goes before others where that is permitted; it is
// never unlocked, so it ends with the loop and nobody inherits its priority.
func (l *loop) run() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
	for {
		n := l.poller.wait(l.events[:])
		now := int64(time.Since(l.birth))
		if l.every != 0 && now-l.now > int64(heldUp) {
			l.late = true
			l.media.cfg.Log.Warn("media loop was held up; old audio is dropped", slog.Duration("for", time.Duration(now-l.now)))
		}
		l.now = now
		if !l.turnOnce(l.events[:n]) {
			return
		}
		if n < len(l.events) {
			l.late = false // every socket that had something was seen
		}
	}
}

// turnOnce carries out what the poller found; false: stop.
func (l *loop) turnOnce(events []unix.EpollEvent) bool {
	ordered := false
	for i := range events {
		e := &events[i]
		switch e.Fd {
		case markWake:
			l.poller.clear(l.poller.wake)
			ordered = true
		case markTimer:
			l.poller.clear(l.poller.timer)
			l.beat()
		case markRoute:
			l.routes.Clear()
			l.rerouted = true
		default:
			g := l.slots[e.Fd>>2]
			if g == nil || g.generation != e.Pad {
				continue // closed in this very turn
			}
			l.readable(g, e.Fd&3)
		}
	}
	// After the packets, since orders open and close legs.
	return !ordered || l.obey()
}

// beat plays the ticks that have come and tends a share of the legs.
func (l *loop) beat() {
	t := l.now / int64(tick)
	for from := max(l.ticked+1, t-lateTicks+1); from <= t; from++ {
		l.ticked = from
		l.turn(from)
	}
	if l.rerouted {
		l.reroute()
	}
	share := (len(l.slots)/tendTurns + 1) * int(min(t-l.tended, tendTurns))
	l.tended = t
	for range min(len(l.slots), share) {
		l.cursor++
		if l.cursor >= len(l.slots) {
			l.cursor = 0
		}
		if g := l.slots[l.cursor]; g != nil {
			l.tend(g)
		}
	}
	l.retry()
	l.published.set(&l.count, len(l.byID))
	l.setTicking()
}

// setTicking runs the timer while there is something to do by time, and no faster than
// it needs.
func (l *loop) setTicking() {
	every := int64(0)
	switch {
	case l.playing > 0:
		every = int64(tick)
	case len(l.byID) > 0 || len(l.pending) > 0:
		every = int64(slowTick)
	}
	if every == l.every {
		return
	}
	l.every = every
	if every == 0 {
		l.poller.tickEvery(0, 0)
		return
	}
	now := int64(time.Since(l.birth)) // l.now may be long past on a busy machine
	l.poller.tickEvery(every-now%every+int64(tickLag), every)
}

// obey carries out what Do has asked for; false: stop.
func (l *loop) obey() bool {
	l.mu.Lock()
	l.orders, l.spare = l.spare[:0], l.orders
	l.mu.Unlock()
	if l.playing == 0 {
		l.ticked = max(l.ticked, l.now/int64(tick)) // what an order begins, begins now
	}
	for i := range l.spare {
		switch o := &l.spare[i]; o.do {
		case orderOpen:
			l.open(o.leg)
		case orderSet:
			l.apply(o.leg, o.spec, o.sound)
		case orderClose:
			l.closeLeg(o.leg)
		case orderEmit:
			l.emit(o.event)
		case orderStop:
			l.shut()
			return false
		}
	}
	clear(l.spare)
	l.published.set(&l.count, len(l.byID))
	l.setTicking()
	return true
}

func (l *loop) open(g *leg) {
	if n := len(l.vacant); n > 0 {
		g.slot, l.vacant = l.vacant[n-1], l.vacant[:n-1]
	} else {
		g.slot = int32(len(l.slots))
		l.slots = append(l.slots, nil)
	}
	l.born++
	g.generation = l.born
	l.slots[g.slot] = g
	l.byID[g.id] = g
	g.hearers = l.heard[g.id]
	g.quietSince = l.now
	err := l.poller.add(g.rtp, mark(g.slot, rtpReadable), g.generation)
	if err == nil {
		err = l.poller.add(g.rtcp, mark(g.slot, rtcpReadable), g.generation)
	}
	if err != nil {
		l.media.cfg.Log.Error("cannot watch a media port (raise fs.epoll.max_user_watches)", slog.Any("error", err))
	}
}

func (l *loop) closeLeg(g *leg) {
	l.recallAround(g)
	if g.control.said || g.out.packets > 0 { // who never spoke must not say BYE (RFC 3550 s.6.3.7)
		l.report(g, true)
	}
	if g.spec.Hear.Kind == core.Bridge {
		l.unhear(g.spec.Hear.Peer, g)
	}
	l.stopPlayback(g)
	for _, to := range g.hearers {
		to.out.source = 0
	}
	delete(l.byID, g.id)
	l.slots[g.slot] = nil
	l.vacant = append(l.vacant, g.slot)
	l.closeSockets(g)
	l.media.ports.give(g.port, time.Now())
	l.emit(core.MediaClosed{Leg: g.id, Stats: g.stats()})
}

func (l *loop) closeSockets(g *leg) {
	l.closeCatcher(g)
	closeFD(g.rtp)
	closeFD(g.rtcp)
}

// shut frees everything without a word to anybody: a node that ends or is fenced leaves
// its calls to another one, so there is no BYE.
func (l *loop) shut() {
	for _, g := range l.slots {
		if g != nil {
			l.recall(g)
			l.closeSockets(g)
		}
	}
	l.free()
}

// emit tells the core. What the inbox has no room for waits, in order, for the next tick.
func (l *loop) emit(ev core.Event) {
	if len(l.pending) == 0 && l.media.cfg.Emit(ev) {
		return
	}
	if len(l.pending) >= l.media.pendingMost {
		l.media.cfg.Log.Error("media events lost: the inbox has been full for too long")
		return
	}
	l.pending = append(l.pending, ev)
}

func (l *loop) retry() {
	n := 0
	for n < len(l.pending) && l.media.cfg.Emit(l.pending[n]) {
		n++
	}
	if n > 0 {
		l.pending = append(l.pending[:0], l.pending[n:]...)
	}
}

// counters are totals since the start.
type counters struct {
	Relayed, ByKernel, Transcoded, Played, Dropped, Refused uint64
	Entrusted                                               int // not a total
}

// publishedCounters is the copy that others may read; it lags by a tick.
type publishedCounters struct {
	relayed, byKernel, transcoded, played, dropped, refused atomic.Uint64
	legs, entrusted                                         atomic.Int64
}

func (p *publishedCounters) set(c *counters, legs int) {
	p.relayed.Store(c.Relayed)
	p.byKernel.Store(c.ByKernel)
	p.entrusted.Store(int64(c.Entrusted))
	p.transcoded.Store(c.Transcoded)
	p.played.Store(c.Played)
	p.dropped.Store(c.Dropped)
	p.refused.Store(c.Refused)
	p.legs.Store(int64(legs))
}
