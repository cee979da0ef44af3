// Package stream is the audio of a load generator: thousands of two-way RTP streams, paced
// by one absolute schedule and measured packet by packet.
//
// An engine runs a few operating system threads. Each owns its streams: it sends their
// frames, reads what they receive and keeps account of it. There is no goroutine, timer or
// allocation per packet; a stream that is asked something from outside answers between two
// ticks of its thread.
//
// Sending. Time is cut into ticks of 125 us, 160 to a frame of 20 ms. A stream gets the
// tick with the fewest others when it begins to talk, and from then on each of its frames
// is due at a fixed instant. A frame that goes out late does not move the next one. How
// late frames were is in Pacing: a result is worth as much as its pacing.
//
// Time of departure. The stamp holds the instant at which the packet was really handed to
// the kernel, so the latency that is measured is that of network and server alone, and the
// generator's own lateness is not held against them. There is no coordinated omission in
// that: the schedule goes on whatever comes back, so a slow server is measured as often as a
// quick one; and lateness, which would thin out the load, is accounted for by itself.
//
// Time of arrival. The kernel stamps a packet when it reaches this machine
// (SO_TIMESTAMPNS), before it waits in the socket. A clock read after recv would add the
// time until the engine comes round to it, up to a tick on an idle machine and without
// bound on a busy one. Because of the kernel's stamp the engine may read in batches, once
// per tick, which saves a wake-up per packet. How long packets waited is in Pacing.
//
// Both are Unix time, since the kernel stamps with nothing else. A clock that is set while
// a packet is under way spoils that packet's latency; below zero it is not used.
package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Config is how an engine works.
type Config struct {
	Addr    netip.Addr    // where the streams listen; 127.0.0.1 when not valid
	Threads int           // operating system threads, 1 when 0
	Network Network       // emulated; none when zero
	Buffer  time.Duration // depth of the jitter buffer that is modelled; 20 ms when 0
	Start   time.Time     // of the run, from which measure.Micros count; now when zero
	Log     *slog.Logger
}

// Engine sends and receives the audio of many streams.
type Engine struct {
	cfg     Config
	birth   time.Time
	since   int64 // ns from Config.Start to birth
	clock   uint64
	loops   []*loop
	running sync.WaitGroup

	mu      sync.Mutex
	tones   map[toneKey]*tone
	streams map[*Stream]bool
	closed  bool
}

var errClosed = errors.New("the audio engine is closed")

// New starts an engine.
//
// Its threads never give back their processor of the Go scheduler, not even to sleep:
// whoever does has to wait for one when goroutines keep all of them busy. So New adds as
// many to GOMAXPROCS as it starts threads, and Close takes them away again.
func New(cfg Config) (*Engine, error) {
	e, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	addProcessors(len(e.loops))
	for _, l := range e.loops {
		e.running.Go(l.run)
	}
	return e, nil
}

// prepare makes an engine whose threads do not run yet.
func prepare(cfg Config) (*Engine, error) {
	if !cfg.Addr.IsValid() {
		cfg.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if cfg.Threads == 0 {
		cfg.Threads = 1
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = 20 * time.Millisecond
	}
	if cfg.Start.IsZero() {
		cfg.Start = time.Now()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, birth: time.Now(), clock: clockID(), tones: map[toneKey]*tone{}, streams: map[*Stream]bool{}}
	e.since = int64(e.birth.Sub(cfg.Start))
	for range cfg.Threads {
		l, err := newLoop(e)
		if err != nil {
			for _, l := range e.loops {
				l.poller.close()
			}
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	return e, nil
}

func (c Config) check() error {
	switch {
	case c.Threads < 1 || c.Threads > 256:
		return fmt.Errorf("audio threads: %d, must be 1 to 256", c.Threads)
	case c.Buffer < 0 || c.Buffer > 2*time.Second:
		return fmt.Errorf("jitter buffer of %v: must be 0 to 2s", c.Buffer)
	}
	return c.Network.check()
}

// tone is the audio of a voice, shared by all streams that sound alike.
func (e *Engine) tone(hz int, codec Codec) *tone {
	key := toneKey{hz, codec}
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tones[key]
	if t == nil {
		t = newTone(hz, codec.law())
		e.tones[key] = t
	}
	return t
}

// micros is a time of the engine's clock as the run counts it.
func (e *Engine) micros(at int64) measure.Micros { return measure.Micros((at + e.since) / 1000) }

// Open binds a port for a new stream, which listens at once and says nothing before Talk.
func (e *Engine) Open(o Options) (*Stream, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	fd, at, err := bindEven(e.cfg.Addr)
	if err != nil {
		return nil, err
	}
	s, err := e.enrol(o, fd, at)
	if err != nil {
		closeFD(fd)
		return nil, err
	}
	defer s.mu.Unlock()
	err = errClosed
	s.loop.ask(func() { err = s.loop.take(s) })
	if err != nil {
		s.closed = true
		closeFD(fd)
		e.forget(s)
		return nil, err
	}
	return s, nil
}

// enrol makes a stream of the thread that has the fewest. It comes back locked, so that
// whoever closes the engine now waits until the thread has it.
func (e *Engine) enrol(o Options, fd int, at netip.AddrPort) (*Stream, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	l := e.loops[0]
	for _, other := range e.loops {
		if other.load < l.load {
			l = other
		}
	}
	s := newStream(e, l, o, fd, at)
	s.mu.Lock()
	l.load++
	e.streams[s] = true
	return s, nil
}

// forget takes a stream that is closed off the books.
func (e *Engine) forget(s *Stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, s)
	s.loop.load--
}

// Close closes all streams and ends the threads. What the streams have heard stays to be
// asked for.
func (e *Engine) Close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.running.Wait()
		return
	}
	e.closed = true
	left := make([]*Stream, 0, len(e.streams))
	for s := range e.streams {
		left = append(left, s)
	}
	e.mu.Unlock()
	for _, s := range left {
		s.Close()
	}
	for _, l := range e.loops {
		l.post(func() { l.stopping = true })
	}
	e.running.Wait()
	for _, l := range e.loops {
		for l.posts.Load() > 0 {
			runtime.Gosched()
		}
		l.poller.close()
	}
	addProcessors(-len(e.loops))
}

// processors guards GOMAXPROCS, which is the process's own and can be set but not added to.
var processors sync.Mutex

func addProcessors(n int) {
	processors.Lock()
	defer processors.Unlock()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}
