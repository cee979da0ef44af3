package media

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/media/kernel"
)

// Path is how plain bridges are relayed.
type Path string

// The paths. Kernel fails where the kernel does not allow it; Auto then goes by Portable.
const (
	PathAuto     Path = "auto"
	PathPortable Path = "portable"
	PathKernel   Path = "kernel"
)

// Path returns the path that is used, PathPortable or PathKernel.
func (m *Media) Path() Path {
	if m.kernel != nil {
		return PathKernel
	}
	return PathPortable
}

// choosePath opens the kernel's path if it is wanted and works, and says so.
func (m *Media) choosePath() error {
	switch m.cfg.Path {
	case PathPortable:
		m.cfg.Log.Info("media path", slog.String("path", string(PathPortable)), slog.String("why", "configured"))
		return nil
	case "", PathAuto, PathKernel:
	default:
		return fmt.Errorf("media: path %q: allowed is auto, portable or kernel", m.cfg.Path)
	}
	why := "a probe relayed a packet"
	err := kernel.Probe()
	if err == nil {
		first := m.cfg.From + m.cfg.From&1
		m.kernel, err = kernel.Open(m.cfg.Addr, first, m.cfg.To)
	}
	if err != nil {
		if m.cfg.Path == PathKernel {
			return fmt.Errorf("media: the kernel cannot relay; use path auto or portable: %w", err)
		}
		why = err.Error()
	}
	m.cfg.Log.Info("media path", slog.String("path", string(m.Path())), slog.String("why", why))
	return nil
}

func (m *Media) closeKernel() {
	if m.kernel != nil {
		_ = m.kernel.Close()
	}
}

// way is where a locked leg's packets go.
type way struct {
	asked bool
	ok    bool   // the program can take it
	seen  bool   // the peer's packets come by the program, too
	via   uint32 // interface; 0: to this machine
}

// bothClocks reads the time as time.Since counts it and as the kernel's program does.
func bothClocks() (birth time.Time, monotonic int64) {
	var ts unix.Timespec
	best := time.Hour
	for range 5 { // whoever is interrupted between the two tries again
		now := time.Now()
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
			continue
		}
		if took := time.Since(now); took < best {
			best, birth, monotonic = took, now, ts.Nano()
		}
	}
	return birth, monotonic
}

func (l *loop) watchRoutes() error {
	if l.media.kernel == nil {
		return nil
	}
	var err error
	if l.routes, err = kernel.OpenRoutes(); err == nil {
		err = l.poller.add(l.routes.Changes(), markRoute, 0)
	}
	if err != nil {
		return errors.Join(errors.New("media: cannot hear of changed routes"), err)
	}
	return nil
}

// reroute takes everything back after a change of routes, addresses or interfaces. Who
// still is plain is entrusted anew when it is tended.
func (l *loop) reroute() {
	l.rerouted = false
	for _, g := range l.slots {
		if g != nil {
			l.recall(g)
			g.way = way{}
		}
	}
	if err := l.media.kernel.Attach(); err != nil {
		l.media.cfg.Log.Warn("an interface is served by the portable media path", slog.Any("error", err))
	}
}

// wayOf finds where a locked leg's packets go, once for each lock, and watches for those
// of its peer.
func (l *loop) wayOf(g *leg) *way {
	w := &g.way
	if !w.asked {
		w.asked = true
		if g.local.Addr().Is4() && g.latch.peer.Addr().Is4() {
			w.via, w.ok = l.routes.Find(g.local.Addr(), g.latch.peer.Addr())
		}
		if w.ok {
			g.flow.Watch(g.latch.peer, g.local)
		}
	} else if w.ok && !w.seen {
		w.seen = g.flow.Seen()
	}
	return w
}

// speakerOf returns the leg that a leg hears.
func (l *loop) speakerOf(g *leg) *leg {
	if g.spec.Hear.Kind != core.Bridge {
		return nil
	}
	return l.byID[g.spec.Hear.Peer]
}

// plain returns the one who hears a leg when its packets need nothing but new numbers: the
// same codec, both sides locked, the mapping made by a first packet.
func (l *loop) plain(g *leg) *leg {
	if g.flow == nil || len(g.hearers) != 1 || g.idle || !g.drained || !g.latch.peer.IsValid() || g.in.stream == 0 {
		return nil
	}
	to := g.hearers[0]
	switch {
	case to.out.source != g.in.stream || !to.latch.peer.IsValid():
		return nil
	case !g.spec.Receive || !to.spec.Send || g.spec.Codec.Clock == 0:
		return nil
	case g.spec.Codec.Name != to.spec.Codec.Name || g.spec.Codec.Clock != to.spec.Codec.Clock:
		return nil
	}
	from, on := l.wayOf(g), l.wayOf(to)
	// A packet from elsewhere that is given one of our own addresses as its source would
	// not pass the kernel's check of sources on its way to a socket of this machine.
	if !from.seen || !on.seen || (on.via == 0 && from.via != 0) {
		return nil
	}
	return to
}

// entrust lets the kernel relay what a leg's peer sends from now on, if it is plain. It is
// tried when a leg is tended and not after each packet: then hardly ever is something on
// its way to the socket, which packets that the kernel relays would overtake.
func (l *loop) entrust(g *leg) {
	to := l.plain(g)
	if to == nil {
		return
	}
	out := &to.out
	shiftSeq := out.outSeq - uint16(out.inSeq) - out.withheld
	shiftTime := out.outTs - out.inTs
	g.flow.Give(&kernel.Plan{
		From: g.latch.peer, At: g.local, By: to.local, To: to.latch.peer, Interface: to.way.via,
		InSSRC: g.in.ssrc, OutSSRC: out.ssrc, InPayload: g.spec.Codec.Payload, OutPayload: to.spec.Codec.Payload,
		ShiftSequence: shiftSeq, ShiftTime: shiftTime, Clock: g.spec.Codec.Clock, Birth: l.birthAt, First: out.inSeq,
	}, &kernel.Count{
		Highest: g.in.highest, NewestTime: out.ts - shiftTime, LastAt: g.in.lastAt, LongestGap: g.in.longestGap,
		Transit: uint32(g.in.transit), HasTransit: g.in.hasTransit, Jitter: g.in.jitter,
	})
	g.entrusted = true
	l.count.Entrusted++
}

// recall ends what entrust began; when it returns the kernel relays nothing of this leg.
// undisturbed says that it did until now, so that no packet of the peer is on its way to us.
func (l *loop) recall(g *leg) (undisturbed bool) {
	if !g.entrusted {
		return false
	}
	g.entrusted = false
	l.count.Entrusted--
	c, undisturbed := g.flow.Take()
	if c.Packets == 0 {
		return undisturbed
	}
	in := &g.in
	in.highest, in.badSeq = c.Highest, -1
	in.count += c.Packets
	in.totalReceived += c.Packets
	in.lastAt, in.longestGap = c.LastAt, c.LongestGap
	in.transit, in.hasTransit, in.jitter, in.clock = int32(c.Transit), c.HasTransit, c.Jitter, g.spec.Codec.Clock
	g.heardAt = c.LastAt

	out := &g.hearers[0].out
	out.seq = out.outSeq + uint16(c.Highest-out.inSeq) - out.withheld
	out.ts = out.outTs + c.NewestTime - out.inTs
	out.at = c.LastAt
	out.packets += c.Packets
	out.octets += c.Octets
	l.count.Relayed += c.Packets
	l.count.ByKernel += c.Packets
	return undisturbed
}

// recallAround takes back what the kernel relays from a leg and to it.
func (l *loop) recallAround(g *leg) {
	l.recall(g)
	if speaker := l.speakerOf(g); speaker != nil {
		l.recall(speaker)
	}
}
