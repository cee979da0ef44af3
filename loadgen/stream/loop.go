package stream

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

const (
	// A tick is how exactly the schedule is kept. Longer ones send larger bursts, in which the
	// last packets are late and meet a queue at the server that telephones would not have
	// made; at 100,000 packets/s it is 12 packets. Fewer wake-ups save little: with ticks of
	// 1 ms a packet costs a tenth less and is five times as late.
	tick       = 125 * time.Microsecond
	frameTicks = int(voice.FrameTime / tick)
	// A loop that was held up for longer does not send what it has missed: real phones do
	// not send a hundred frames at once.
	tooLate = 60 * time.Millisecond
	// How long a loop that has nothing to send lets packets wait.
	longestRest = 2 * time.Millisecond
	// Steps in which ticks are given out: no divisor of frameTicks, so that few streams lie
	// far apart.
	tickStride = 61
	// In one turn, so that sending, reading and orders all have their share of a loop that
	// has too much to do.
	mostOrders = 16
	mostTicks  = 16
)

const markWake int32 = -1

// loop serves its streams on one operating system thread. All that a stream is belongs to
// it; others ask it to do things between two turns.
type loop struct {
	engine *Engine
	poller poller
	inlet  *inlet

	load int // streams given to it; under Engine.mu

	asked atomic.Pointer[order] // newest first; &ended: nothing more
	ended order
	posts atomic.Int32 // under way; who is between the list and the bell still needs the poller
	todo  *order       // taken from asked and not done yet, oldest first

	slots  []*Stream // by the mark of an epoll event; nil: free
	vacant []int32
	born   int32 // generations, so that an event of a closed stream is known
	open   int

	wheel [frameTicks][]*Stream // who speaks at which tick
	held  [][]departure         // by tick, what the emulated network holds back

	now, offset int64 // ns since birth, as of this turn; what makes Unix time of it
	ticked      int64 // last tick that was served
	planned     int64 // when this turn should have come, 0 after a sleep without end

	sinks    map[string]*sink
	second   int64 // of the run
	pacing   pacing
	stopping bool

	events [256]unix.EpollEvent
	out    [12 + Frame]byte
	rtp    rtp.Packet
	pcm    [mostFrame]int16
	found  []voice.Detection
}

func newLoop(e *Engine) (*loop, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	l := &loop{engine: e, poller: p, inlet: newInlet(), sinks: map[string]*sink{}, pacing: newPacing()}
	if n := e.cfg.Network; n.Delay > 0 {
		l.held = make([][]departure, (n.Delay+n.Jitter)/tick+2)
	}
	return l, nil
}

// run turns until it is told to stop. The thread is locked, so that the kernel's wake-up
// finds the same one each time, and goes before others where that is permitted; it is never
// unlocked, so it ends with the loop and nobody inherits its priority.
func (l *loop) run() {
	runtime.LockOSThread()
	goFirst()
	for !l.stopping {
		l.look()
		l.serve()
		l.listen()
		l.obey()
		l.rest()
	}
	l.pacing.cpu = threadTime()
	l.finish()
	l.inlet.pin.Unpin()
}

// look reads the clock.
func (l *loop) look() {
	t := time.Now()
	l.now = int64(t.Sub(l.engine.birth))
	l.offset = t.UnixNano() - l.now
	if l.planned > 0 {
		l.pacing.stall = max(l.pacing.stall, l.now-l.planned)
	}
}

// clock is the time since birth by now.
func (l *loop) clock() int64 { return int64(time.Since(l.engine.birth)) }

// serve sends what is due.
func (l *loop) serve() {
	last := l.now / int64(tick)
	if l.open == 0 {
		l.ticked = last
	}
	last = min(last, l.ticked+mostTicks)
	for l.ticked < last {
		l.ticked++
		due := l.ticked * int64(tick)
		speakers := l.wheel[l.ticked%int64(frameTicks)]
		if l.now-due > int64(tooLate) {
			for _, s := range speakers {
				l.skip(s)
			}
		} else {
			for _, s := range speakers {
				l.speak(s, due)
			}
		}
		l.release(l.ticked)
	}
}

// listen reads what has come, and counts how late.
func (l *loop) listen() {
	if l.open == 0 {
		return
	}
	l.roll()
	for {
		n := l.poller.ready(l.events[:])
		l.now = l.clock()
		for i := range l.events[:n] {
			ev := &l.events[i]
			if ev.Fd == markWake {
				l.poller.quiet()
				continue
			}
			if s := l.slots[ev.Fd]; s != nil && s.generation == ev.Pad {
				l.receive(s)
			}
		}
		// What does not fit in is there again; but sending goes first.
		if n < len(l.events) || l.clock()/int64(tick) > l.ticked {
			return
		}
	}
}

// rest sleeps until there is something to send, or to listen to.
func (l *loop) rest() {
	switch {
	case l.stopping:
		return
	case l.open == 0 && l.todo == nil:
		l.planned = 0
		l.poller.wait(l.events[:1])
		l.poller.quiet()
		return
	}
	next := l.ticked + 1
	for last := l.ticked + int64(longestRest/tick); next < last && l.todo == nil && !l.busy(next); next++ {
	}
	l.planned = next * int64(tick)
	if wait := l.planned - l.clock(); wait > 0 {
		l.poller.sleep(wait)
	}
}

// busy says whether something is to be sent at a tick.
func (l *loop) busy(tick int64) bool {
	return len(l.wheel[tick%int64(frameTicks)]) > 0 || len(l.held) > 0 && len(l.held[tick%int64(len(l.held))]) > 0
}

// order is something that the loop is asked to do. They are handed over without a lock: who
// holds one may be kept from running by this very thread, which goes first.
type order struct {
	next *order
	do   func()
}

// post asks the loop to do f between two turns; false: the loop has ended.
func (l *loop) post(f func()) bool {
	l.posts.Add(1)
	defer l.posts.Add(-1)
	o := &order{do: f}
	for {
		newest := l.asked.Load()
		if newest == &l.ended {
			return false
		}
		o.next = newest
		if l.asked.CompareAndSwap(newest, o) {
			if newest == nil {
				l.poller.ring()
			}
			return true
		}
	}
}

// ask posts f and waits until it is done.
func (l *loop) ask(f func()) bool {
	done := make(chan struct{})
	if !l.post(func() { f(); close(done) }) {
		return false
	}
	<-done
	return true
}

// obey does what was asked, in order: a part of it, so that a thousand calls that end at
// once keep no packet waiting.
func (l *loop) obey() {
	if l.todo == nil && l.asked.Load() != nil {
		l.todo = inOrder(l.asked.Swap(nil))
	}
	for n := 0; l.todo != nil && n < mostOrders; n++ {
		o := l.todo
		l.todo = o.next
		o.do()
	}
}

// finish does all that was asked and lets nobody ask for more.
func (l *loop) finish() {
	for _, o := range []*order{l.todo, inOrder(l.asked.Swap(&l.ended))} {
		for ; o != nil; o = o.next {
			o.do()
		}
	}
}

// inOrder turns a list around, the oldest first.
func inOrder(newest *order) (oldest *order) {
	for o := newest; o != nil; {
		o, o.next, oldest = o.next, oldest, o
	}
	return oldest
}

// take begins to listen for a stream.
func (l *loop) take(s *Stream) error {
	slot := int32(len(l.slots))
	if n := len(l.vacant); n > 0 {
		slot, l.vacant = l.vacant[n-1], l.vacant[:n-1]
	} else {
		l.slots = append(l.slots, nil)
	}
	l.born++
	s.slot, s.generation = slot, l.born
	if err := l.poller.add(s.fd, slot, s.generation); err != nil {
		l.vacant = append(l.vacant, slot)
		return err
	}
	if l.open == 0 {
		l.ticked = l.clock() / int64(tick)
	}
	l.slots[slot] = s
	l.open++
	s.sink = l.sink(s.options.Label)
	return nil
}

// drop lets go of a stream. Its packets that the emulated network still holds are gone with it.
func (l *loop) drop(s *Stream) {
	l.receiveRest(s)
	l.hush(s)
	l.poller.remove(s.fd)
	l.slots[s.slot] = nil
	l.vacant = append(l.vacant, s.slot)
	l.open--
	l.pacing.overrun += dropped(s.fd)
	s.gone = true
}

// talk lets a stream speak, or changes to whom.
func (l *loop) talk(s *Stream, to *sockaddr, codec Codec, sound *tone) {
	m := &s.mouth
	s.to, m.codec, m.tone = to, codec, sound
	if m.tick != notTalking {
		return
	}
	m.tick = l.quietest()
	l.wheel[m.tick] = append(l.wheel[m.tick], s)
	// Its sample 0 is due when the wheel comes round to the tick for the first time.
	first := l.ticked + 1
	first += (int64(m.tick) - first%int64(frameTicks) + int64(frameTicks)) % int64(frameTicks)
	m.marker = voice.NewMarker(uint16(s.options.Voice), time.Duration(first*int64(tick)+l.offset))
}

// hush takes a stream off the wheel.
func (l *loop) hush(s *Stream) {
	if s.mouth.tick == notTalking {
		return
	}
	speakers := l.wheel[s.mouth.tick]
	for i, other := range speakers {
		if other == s {
			last := len(speakers) - 1
			speakers[i], speakers[last] = speakers[last], nil
			l.wheel[s.mouth.tick] = speakers[:last]
			break
		}
	}
	s.mouth.tick = notTalking
}

// quietest is the tick with the fewest speakers.
func (l *loop) quietest() int {
	best := 0
	for i := range frameTicks {
		at := (i * tickStride) % frameTicks
		if len(l.wheel[at]) < len(l.wheel[best]) {
			best = at
		}
	}
	return best
}
