package media

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"
)

// RTCP packet types (RFC 3550 s.12.1).
const (
	typeSR   = 200
	typeRR   = 201
	typeSDES = 202
	typeBYE  = 203
)

const (
	reportEvery = 5 * time.Second // Tmin of RFC 3550 s.6.2; two members never need more
	ntpEpoch    = 2208988800      // s from 1900 to 1970
	cnameSize   = 16
)

// control is a leg's RTCP: what was heard, and when the next report is due.
type control struct {
	cname [cnameSize]byte // random for each leg, so that calls cannot be linked (RFC 7022)
	due   int64           // ns; 0: no report planned yet
	said  bool            // a report went out
	peer  netip.AddrPort  // where the peer's RTCP comes from; invalid: one port above its RTP

	lastSR   uint32 // middle 32 bits of the NTP time of the peer's last SR
	lastSRAt int64

	// out.packets at the last two reports: a sender reports as such for two intervals (s.6.4).
	sentAtLast, sentBefore uint64
}

// reportDelay draws the time to the next report (RFC 3550 s.6.3.1): half to one and a
// half of the interval, divided by e-3/2; the first interval is halved.
func reportDelay(first bool) int64 {
	d := float64(reportEvery)
	if first {
		d /= 2
	}
	return int64(d * (0.5 + rand.Float64()) / 1.21828)
}

// report sends the SR or RR that is due, with the CNAME that each compound must hold.
func (l *loop) report(g *leg, bye bool) {
	b := l.reportBlock(g, l.out[:0])
	b = append(b, 0x81, typeSDES, 0, 6)
	b = binary.BigEndian.AppendUint32(b, g.out.ssrc)
	b = append(b, 1, cnameSize)
	b = append(b, g.control.cname[:]...)
	b = append(b, 0, 0) // end of items, to a multiple of four
	if bye {
		b = append(b, 0x81, typeBYE, 0, 1)
		b = binary.BigEndian.AppendUint32(b, g.out.ssrc)
	}
	var to sockaddr
	if at, ok := g.controlTarget(); ok && to.set(at, l.family) {
		g.control.said = send(g.rtcp, b, &to) == 0 || g.control.said
	}
}

// reportBlock appends the SR or RR.
func (l *loop) reportBlock(g *leg, b []byte) []byte {
	c := &g.control
	sender := g.out.packets > c.sentBefore
	c.sentBefore, c.sentAtLast = c.sentAtLast, g.out.packets
	blocks, words := byte(0), uint16(1)
	if g.in.stream != 0 {
		blocks, words = 1, 7
	}
	if !sender {
		b = append(b, 0x80|blocks, typeRR)
		b = binary.BigEndian.AppendUint16(b, words)
		b = binary.BigEndian.AppendUint32(b, g.out.ssrc)
	} else {
		b = append(b, 0x80|blocks, typeSR)
		b = binary.BigEndian.AppendUint16(b, words+5)
		b = binary.BigEndian.AppendUint32(b, g.out.ssrc)
		wall := time.Now()
		b = binary.BigEndian.AppendUint32(b, uint32(wall.Unix()+ntpEpoch))
		b = binary.BigEndian.AppendUint32(b, uint32(uint64(wall.Nanosecond())<<32/uint64(time.Second)))
		b = binary.BigEndian.AppendUint32(b, g.out.ts+ticks(l.now-g.out.at, g.spec.Codec.Clock))
		b = binary.BigEndian.AppendUint32(b, uint32(g.out.packets))
		b = binary.BigEndian.AppendUint32(b, uint32(g.out.octets))
	}
	if blocks == 0 {
		return b
	}
	fraction := g.in.interval()
	lost := min(max(g.in.lost(), -0x800000), 0x7fffff)
	b = binary.BigEndian.AppendUint32(b, g.in.ssrc)
	b = binary.BigEndian.AppendUint32(b, uint32(fraction)<<24|uint32(lost)&0xffffff)
	b = binary.BigEndian.AppendUint32(b, uint32(g.in.highest-seqMod))
	b = binary.BigEndian.AppendUint32(b, uint32(g.in.jitter))
	b = binary.BigEndian.AppendUint32(b, c.lastSR)
	delay := uint32(0) // in 65536ths of a second
	if c.lastSR != 0 {
		delay = uint32((l.now - c.lastSRAt) / 1000 * 65536 / 1000000)
	}
	return binary.BigEndian.AppendUint32(b, delay)
}

// controlTarget is where a leg's RTCP goes.
func (g *leg) controlTarget() (netip.AddrPort, bool) {
	if g.control.peer.IsValid() {
		return g.control.peer, true
	}
	at, ok := g.latch.target()
	if !ok || at.Port() == 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(at.Addr(), at.Port()+1), true
}

// controlReadable takes one packet of the RTCP port. Only the host that the leg talks to
// is listened to; its port is learnt, for NATs change that one as well.
func (l *loop) controlReadable(g *leg) {
	var sa sockaddr
	n, errno := receiveFrom(g.rtcp, l.buf[0][:], &sa)
	if errno != 0 {
		return
	}
	from := sa.get()
	at, ok := g.latch.target()
	if !ok || at.Addr() != from.Addr() || !g.control.hear(l.buf[0][:n], g.in.ssrc, l.now) {
		l.count.Refused++
		return
	}
	g.control.peer = from
}

// hear takes a compound packet and reports whether it is one (RFC 3550 A.2). Nothing of
// a malformed one is believed.
func (c *control) hear(b []byte, ssrc uint32, now int64) bool {
	if len(b) < 8 || b[0]&0xe0 != 0x80 || (b[1] != typeSR && b[1] != typeRR) {
		return false
	}
	stamp, found := uint32(0), false
	for rest := b; len(rest) > 0; {
		if len(rest) < 4 || rest[0]>>6 != 2 {
			return false
		}
		size := 4 + 4*int(binary.BigEndian.Uint16(rest[2:]))
		if size > len(rest) {
			return false
		}
		if rest[1] == typeSR && size >= 28 && binary.BigEndian.Uint32(rest[4:]) == ssrc {
			stamp, found = binary.BigEndian.Uint32(rest[10:]), true
		}
		rest = rest[size:]
	}
	if found {
		c.lastSR, c.lastSRAt = stamp, now
	}
	return true
}
