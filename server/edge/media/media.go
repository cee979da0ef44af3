// Package media carries the audio: one RTP port pair for each leg, relayed between the
// legs of an interaction, or fed from a WAV file.
//
// A few loops, each on its own thread, wait with epoll on all sockets of their legs. For
// a packet there is no goroutine, no timer and no allocation: read, check, rewrite twelve
// bytes, write. Nothing is ever queued; what cannot be sent at once is dropped. Where the
// kernel allows it, plain bridges are relayed inside it (package kernel), and a loop only
// looks after their statistics.
//
// Playback needs a codec of G.711. A leg with another one hears nothing of a file, but
// PlaybackDone comes when it would have ended. Silence sends no RTP at all; the reports of
// RTCP go on, as they do while a leg is held.
package media

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/media/kernel"
)

// Config is what a Media is made with.
type Config struct {
	Addr     netip.Addr    // where RTP is received; unspecified: on every address
	From, To uint16        // UDP ports, both inclusive; even ones for RTP, odd ones for RTCP
	Rest     time.Duration // a port rests so long before it is used again; 0: 5 s
	Dir      string        // the operator's WAV files, looked up before the built-in ones; "": none
	Loops    int           // threads; 0: half of GOMAXPROCS, at least one
	Path     Path          // how plain bridges are relayed; "": PathAuto

	// Emit hands an event to the core. It may be called from any goroutine, must not
	// block, and returns false when there is no room: the event is then offered again.
	Emit func(core.Event) bool
	Log  *slog.Logger // nil: slog.Default()
}

// Media is the media edge. Do and Close belong to one goroutine; Gauges may be called
// from any.
type Media struct {
	cfg         Config
	ports       *ports
	audio       *library
	loops       []*loop
	legs        map[core.LegID]*leg
	seed        maphash.Seed
	missing     map[string]bool // names of files that were asked for in vain and logged
	pendingMost int             // events that a loop keeps for a full inbox
	kernel      *kernel.Relay   // nil on the portable path
	running     sync.WaitGroup
	closed      bool
}

// missingMost bounds the names that are remembered as missing.
const missingMost = 1000

// New binds nothing yet but makes sure that the address and the ports can be used.
func New(cfg Config) (*Media, error) {
	if cfg.Emit == nil {
		return nil, errors.New("media: Config.Emit is missing")
	}
	if !cfg.Addr.IsValid() {
		return nil, errors.New("media: Config.Addr is missing: give the address that phones reach, or 0.0.0.0")
	}
	if cfg.Rest < 0 || cfg.Loops < 0 {
		return nil, fmt.Errorf("media: Rest %v and Loops %d must not be negative", cfg.Rest, cfg.Loops)
	}
	if cfg.Rest == 0 {
		cfg.Rest = 5 * time.Second
	}
	if cfg.Loops == 0 {
		cfg.Loops = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Addr = cfg.Addr.Unmap()
	m := &Media{cfg: cfg, legs: map[core.LegID]*leg{}, seed: maphash.MakeSeed(), missing: map[string]bool{}}
	var err error
	if m.ports, err = newPorts(cfg.Addr, cfg.From, cfg.To, cfg.Rest); err != nil {
		return nil, err
	}
	m.pendingMost = 1024 + 16*m.ports.count
	if m.audio, err = newLibrary(cfg.Dir, cfg.Log); err != nil {
		return nil, err
	}
	if err = m.choosePath(); err != nil {
		return nil, err
	}
	for range cfg.Loops {
		l, err := newLoop(m)
		if err != nil {
			for _, made := range m.loops {
				made.free()
			}
			m.closeKernel()
			return nil, err
		}
		m.loops = append(m.loops, l)
	}
	for _, l := range m.loops {
		m.running.Go(l.run)
	}
	m.running.Go(m.audio.watch)
	return m, nil
}

// Do carries out OpenMedia, SetMedia and CloseMedia; other effects are not for it. It
// does not block: a port is bound at once, the rest is left to the leg's loop.
func (m *Media) Do(effect core.Effect) {
	switch e := effect.(type) {
	case core.OpenMedia:
		m.open(e.Leg)
	case core.SetMedia:
		m.set(e.Leg, e.Spec)
	case core.CloseMedia:
		m.closeLeg(e.Leg)
	}
}

// Close ends all loops and frees all ports. It sends no BYE and emits nothing more: the
// calls of a node that stops may live on elsewhere.
func (m *Media) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	for _, l := range m.loops {
		l.post(order{do: orderStop})
	}
	close(m.audio.stop)
	m.running.Wait()
	m.closeKernel()
	return nil
}

// open answers at once. A leg that is open already is told its port again.
func (m *Media) open(id core.LegID) {
	if m.closed {
		return
	}
	l := m.loopOf(id)
	g := m.legs[id]
	if g == nil {
		port, rtp, rtcp, err := m.ports.take(time.Now())
		if err != nil {
			m.cfg.Log.Warn("no media port", slog.String("leg", string(id)), slog.Any("error", err))
			m.emit(l, core.MediaRefused{Leg: id, Cause: err.Error()})
			return
		}
		g = newLeg(id, port, rtp, rtcp)
		g.loop = l
		if m.kernel != nil {
			g.flow = m.kernel.Flow(port)
		}
		m.legs[id] = g
		l.post(order{do: orderOpen, leg: g})
	}
	m.emit(l, core.MediaOpened{Leg: id, Local: netip.AddrPortFrom(m.cfg.Addr, g.port)})
}

func (m *Media) set(id core.LegID, spec core.MediaSpec) {
	g := m.legs[id]
	if g == nil || m.closed {
		return
	}
	o := order{do: orderSet, leg: g, spec: spec}
	switch hear := spec.Hear; hear.Kind {
	case core.Playback:
		if o.sound = m.audio.find(hear.File); o.sound == nil && !m.missing[hear.File] && len(m.missing) < missingMost {
			m.missing[hear.File] = true
			m.cfg.Log.Error("no such sound; put it into the sounds directory as a WAV file, or use a built-in one",
				slog.String("name", hear.File), slog.Any("built_in", Sounds()))
		}
	case core.Bridge:
		if m.loopOf(hear.Peer) != g.loop {
			m.cfg.Log.Error("legs of two interactions cannot be bridged: they live on two threads",
				slog.String("leg", string(id)), slog.String("peer", string(hear.Peer)))
		}
	}
	g.loop.post(o)
}

// closeLeg answers with empty statistics for a leg that was never opened.
func (m *Media) closeLeg(id core.LegID) {
	if m.closed {
		return
	}
	g := m.legs[id]
	if g == nil {
		m.emit(m.loopOf(id), core.MediaClosed{Leg: id})
		return
	}
	delete(m.legs, id)
	g.loop.post(order{do: orderClose, leg: g})
}

// loopOf puts all legs of an interaction on one loop, so that a bridge needs no lock.
func (m *Media) loopOf(id core.LegID) *loop {
	if len(m.loops) == 1 {
		return m.loops[0]
	}
	return m.loops[maphash.String(m.seed, string(id.Interaction()))%uint64(len(m.loops))]
}

// emit tells the core from within Do; when there is no room the leg's loop tries again.
func (m *Media) emit(l *loop, ev core.Event) {
	if !m.cfg.Emit(ev) {
		l.post(order{do: orderEmit, event: ev})
	}
}

// Gauges is the state of a Media in numbers. The totals count packets since the start.
type Gauges struct {
	Legs         int    // open
	PortsFree    int    // pairs
	PortsResting int    // pairs
	Entrusted    int    // legs whose peer's packets the kernel relays at the moment
	Relayed      uint64 // from one leg to another
	ByKernel     uint64 // of those, by the kernel
	Transcoded   uint64 // of those, between the laws of G.711
	Played       uint64 // made from a file
	Dropped      uint64 // valid, but with nobody to hear them, or not sendable at once
	Refused      uint64 // from strangers, or not RTP or RTCP
}

// Gauges returns the present numbers; they lag by a few milliseconds.
func (m *Media) Gauges() Gauges {
	var g Gauges
	g.PortsFree, g.PortsResting = m.ports.gauges(time.Now())
	for _, l := range m.loops {
		p := &l.published
		g.Legs += int(p.legs.Load())
		g.Entrusted += int(p.entrusted.Load())
		g.Relayed += p.relayed.Load()
		g.ByKernel += p.byKernel.Load()
		g.Transcoded += p.transcoded.Load()
		g.Played += p.played.Load()
		g.Dropped += p.dropped.Load()
		g.Refused += p.refused.Load()
	}
	return g
}

// Sounds returns the names of the built-in sounds, sorted.
func Sounds() []string {
	entries, err := builtIn.ReadDir("audio")
	if err != nil {
		return nil // cannot be: the directory is part of the program
	}
	var names []string
	for _, e := range entries {
		if name, ok := soundName(e.Name()); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
