package media

import (
	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// readable takes one packet of a socket. One, not all: the poller reports what is left
// at the next turn, so a flooded port gets no more than its share.
func (l *loop) readable(g *leg, kind int32) {
	switch {
	case kind == rtcpReadable:
		l.controlReadable(g)
	case kind == catcherReadable:
		l.stranger(g)
	case !g.drained:
		l.learn(g)
	case l.late:
		l.drain(g)
	default:
		if n, errno := receive(g.rtp, l.buf[0][:]); errno == 0 {
			l.fromPeer(g, l.buf[0][:n], false)
		}
	}
}

// learn takes packets of a socket in which anybody's may be. After a lock it goes on
// until the socket is empty: what came before the connect is still in there.
func (l *loop) learn(g *leg) {
	for range drainMost {
		var sa sockaddr
		n, errno := receiveFrom(g.rtp, l.buf[0][:], &sa)
		if errno != 0 {
			g.drained = errno == unix.EAGAIN && g.latch.peer.IsValid()
			return
		}
		l.fromAnybody(g, l.buf[0][:n], &sa)
		if !g.latch.peer.IsValid() {
			return
		}
	}
}

// stranger takes a packet that was not sent by the locked peer. The SDP's own address
// may still take the lock over (latch, rule 1).
func (l *loop) stranger(g *leg) {
	if g.catcher < 0 {
		return
	}
	var sa sockaddr
	if n, errno := receiveFrom(g.catcher, l.buf[0][:], &sa); errno == 0 {
		l.fromAnybody(g, l.buf[0][:n], &sa)
	}
}

// fromAnybody lets the latch judge a packet.
func (l *loop) fromAnybody(g *leg, b []byte, sa *sockaddr) {
	from := sa.get()
	if from == g.latch.peer {
		l.fromPeer(g, b, false)
		return
	}
	if g.spec.Codec.Name == "" {
		l.count.Dropped++ // before the answer is known there is nothing to judge by
		return
	}
	var h header
	if len(b) == packetSize || muxedRTCP(b) || !h.parse(b) || contentOf(h.payload, &g.spec) == unnegotiated {
		l.refuse(g)
		return
	}
	switch g.latch.judge(from, &h, l.now) {
	case hear:
	case lock:
		if !l.lock(g, from) {
			l.refuse(g)
			return
		}
	default:
		l.refuse(g)
		return
	}
	l.accept(g, b, &h, false)
}

func (l *loop) refuse(g *leg) {
	g.refused++
	l.count.Refused++
}

// drain empties a socket after the loop was held up. All packets are counted, but of the
// audio only the newest packet goes on: the rest would be heard late, and every packet
// after it too (jambonz/jambonz-feature-server#1027, asterisk/asterisk#2115).
func (l *loop) drain(g *leg) {
	newest, size := 0, -1
	for range drainMost {
		n, errno := receive(g.rtp, l.buf[1-newest][:])
		if errno != 0 {
			break
		}
		if size >= 0 {
			l.fromPeer(g, l.buf[newest][:size], true)
		}
		newest, size = 1-newest, n
	}
	if size >= 0 {
		l.fromPeer(g, l.buf[newest][:size], false)
	}
}

// fromPeer takes a packet of the locked peer.
func (l *loop) fromPeer(g *leg, b []byte, old bool) {
	if muxedRTCP(b) {
		g.control.hear(b, g.in.ssrc, l.now)
		return
	}
	var h header
	if len(b) == packetSize || !h.parse(b) {
		l.refuse(g)
		return
	}
	l.accept(g, b, &h, old)
}

// accept measures a packet and relays it.
func (l *loop) accept(g *leg, b []byte, h *header, old bool) {
	if g.entrusted {
		l.recall(g) // what the kernel leaves to us is out of the ordinary, and so may be what follows
	}
	g.heardAt = l.now
	if g.idle {
		g.idle = false
		l.emit(core.MediaResumed{Leg: g.id})
	}
	extended, restart, ok := g.in.take(h)
	if restart {
		l.streams++
		g.in.begin(h, l.streams)
		extended = g.in.highest
	}
	if !ok {
		l.count.Dropped++
		return
	}
	g.in.arrive(l.now, g.spec.Receive)
	what := contentOf(h.payload, &g.spec)
	if what == audio {
		g.in.vary(l.now, h.ts, g.spec.Codec.Clock)
	}
	if !g.spec.Receive || (old && what != event) {
		l.count.Dropped++
		return
	}
	l.relay(g, b, h, extended)
}
