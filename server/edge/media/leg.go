package media

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/media/kernel"
)

// leg is one party's media. It is made by the goroutine of Do and belongs to its loop
// from then on.
type leg struct {
	id   core.LegID
	port uint16 // of RTP; RTCP is one above
	loop *loop

	// The sockets. rtp is connected to the peer while the latch is locked; catcher then
	// shares its port and gets what strangers send; -1: none.
	rtp, rtcp, catcher int
	local              netip.AddrPort // of rtp while it is connected
	drained            bool           // nothing that came before the connect is left in rtp

	slot       int32 // in loop.slots
	generation int32

	spec   core.MediaSpec
	law    law
	target sockaddr // spec.Remote, for the time before the lock; length 0: unknown
	latch  latch

	flow      *kernel.Flow // what the kernel may relay of this leg's peer; nil on the portable path
	entrusted bool         // it does at the moment
	way       way

	in      inflow
	out     outflow
	control control
	play    playback
	hearers []*leg

	heardAt    int64 // ns: the last RTP
	quietSince int64 // ns: silence counts from here at the earliest
	idle       bool  // MediaIdle was said and not yet MediaResumed
	refused    uint64
}

func newLeg(id core.LegID, port uint16, rtp, rtcp int) *leg {
	g := &leg{id: id, port: port, rtp: rtp, rtcp: rtcp, catcher: -1, slot: -1}
	var chance [4 + 2 + 4 + cnameSize]byte
	_, _ = rand.Read(chance[:]) // never fails (crypto/rand)
	g.out.ssrc = binary.BigEndian.Uint32(chance[:])
	g.out.seq = binary.BigEndian.Uint16(chance[4:]) >> 1 // RFC 3711 s.3.3.1 asks for the lower half
	g.out.ts = binary.BigEndian.Uint32(chance[6:])
	for i, c := range chance[10:] {
		g.control.cname[i] = "abcdefghijklmnopqrstuvwxyz234567"[c&31]
	}
	return g
}

// apply makes a leg what its specification says. Applying the same again changes nothing.
func (l *loop) apply(g *leg, spec core.MediaSpec, s *sound) {
	l.recallAround(g)
	old := g.spec
	g.spec, g.law = spec, lawOf(spec.Codec.Name)
	if g.latch.expect(spec.Remote, l.now) {
		l.unlock(g)
		g.quietSince = l.now
	}
	g.target.length = 0
	if usable(g.latch.remote) && !g.target.set(g.latch.remote, l.family) {
		g.target.length = 0
	}
	if spec.IdleAfter != old.IdleAfter {
		g.quietSince, g.idle = l.now, false
	}
	if spec.Receive != old.Receive || spec.Codec != old.Codec {
		g.in.pause()
		for _, to := range g.hearers {
			to.out.source = 0
		}
	}
	if spec.Codec != old.Codec || !spec.Send {
		g.out.source = 0
	}
	if _, known := g.latch.target(); known && g.control.due == 0 {
		g.control.due = l.now + reportDelay(true)
	}
	l.applyHear(g, old.Hear, spec.Hear, s)
}

func (l *loop) applyHear(g *leg, old, now core.Source, s *sound) {
	same := old == now
	if now.Kind == core.Playback && old.Kind == core.Playback {
		same = old.File == now.File && old.Play == now.Play
		g.play.loop = now.Loop
	}
	if same {
		return
	}
	g.out.source = 0
	if old.Kind == core.Bridge {
		l.unhear(old.Peer, g)
	}
	l.stopPlayback(g)
	switch now.Kind {
	case core.Bridge:
		l.hear(now.Peer, g)
	case core.Playback:
		l.startPlayback(g, now, s)
	}
}

// hear makes g a hearer of a leg, which need not be open yet.
func (l *loop) hear(speaker core.LegID, g *leg) { l.setHearers(speaker, append(l.heard[speaker], g)) }

func (l *loop) unhear(speaker core.LegID, g *leg) {
	var rest []*leg
	for _, other := range l.heard[speaker] {
		if other != g {
			rest = append(rest, other)
		}
	}
	l.setHearers(speaker, rest)
}

func (l *loop) setHearers(speaker core.LegID, hearers []*leg) {
	if len(hearers) == 0 {
		delete(l.heard, speaker)
	} else {
		l.heard[speaker] = hearers
	}
	if g := l.byID[speaker]; g != nil {
		l.recall(g)
		g.hearers = hearers
	}
}

// lock connects the leg's socket to a peer, and reports whether the kernel can reach it.
func (l *loop) lock(g *leg, peer netip.AddrPort) bool {
	var sa sockaddr
	if !sa.set(peer, l.family) {
		return false
	}
	if g.latch.peer.IsValid() {
		l.unlock(g)
	}
	if connectUDP(g.rtp, &sa) != nil {
		return false
	}
	g.latch.settle(peer)
	g.local = localOf(g.rtp)
	if g.flow != nil {
		l.wayOf(g)
	}
	g.drained = false
	g.control.peer = netip.AddrPort{}
	// From here on the kernel hands strangers' packets to a second socket of the port, if
	// one is there; it only serves to see and count them, so a call does without.
	share(g.rtp, 1)
	fd, err := bindUDP(netip.AddrPortFrom(l.media.cfg.Addr, g.port), true)
	share(g.rtp, 0)
	if err != nil {
		return true
	}
	share(fd, 0)
	g.catcher = fd
	_ = l.poller.add(fd, mark(g.slot, catcherReadable), g.generation)
	return true
}

// unlock lets the leg's socket hear everybody again.
func (l *loop) unlock(g *leg) {
	l.recallAround(g)
	g.way = way{}
	l.closeCatcher(g)
	disconnectUDP(g.rtp)
	g.drained = false
	g.control.peer = netip.AddrPort{}
}

func (l *loop) closeCatcher(g *leg) {
	if g.catcher >= 0 {
		closeFD(g.catcher)
		g.catcher = -1
	}
}

// tend does what is due without a packet: silence noticed, reports. What the kernel relays
// is taken back meanwhile, to bring the leg's numbers up to date: that is a moment shorter
// than the time between two packets, and one that falls into it comes to us.
func (l *loop) tend(g *leg) {
	undisturbed := l.recall(g)
	if after := time.Duration(g.spec.IdleAfter) * time.Millisecond; after > 0 && !g.idle &&
		l.now-max(g.heardAt, g.quietSince) >= int64(after) {
		g.idle = true
		l.emit(core.MediaIdle{Leg: g.id})
	}
	if g.control.due != 0 && l.now >= g.control.due {
		if speaker := l.speakerOf(g); speaker != nil && l.recall(speaker) {
			defer l.entrust(speaker)
		}
		l.report(g, false)
		g.control.due = l.now + reportDelay(false)
	}
	if undisturbed || (g.flow != nil && !waiting(g.rtp)) {
		l.entrust(g)
	}
}
