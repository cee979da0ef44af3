package media

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// controlPhone gives a phone an RTCP socket one port above its RTP.
func (p *phone) controlPhone() *net.UDPConn {
	p.t.Helper()
	for range 50 {
		rtp := listen(p.t, "127.0.0.1")
		if addrOf(rtp).Port()%2 != 0 {
			continue
		}
		rtcp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(portAbove(addrOf(rtp))))
		if err != nil {
			continue
		}
		p.t.Cleanup(func() { rtcp.Close() })
		p.conn = rtp
		p.set(func(s *core.MediaSpec) { s.Remote = addrOf(rtp) })
		return rtcp
	}
	p.t.Fatal("no pair of ports")
	return nil
}

func compound(t *testing.T, c *net.UDPConn) [][]byte {
	t.Helper()
	b := make([]byte, 2048)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, _, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("no report: %v", err)
	}
	var parts [][]byte
	for b = b[:n]; len(b) > 0; {
		size := 4 + 4*int(binary.BigEndian.Uint16(b[2:]))
		if b[0]>>6 != 2 || size > len(b) {
			t.Fatalf("broken compound % x", b)
		}
		parts, b = append(parts, b[:size]), b[size:]
	}
	return parts
}

// RFC 3550 s.6.1, 6.4: SR or RR first, then SDES with CNAME, BYE last; the block says what
// was received, and answers the peer's SR by LSR and DLSR. RTCP flows on hold too.
func TestReports(t *testing.T) {
	t.Parallel()
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		rtcp := a.controlPhone()
		r.talk(a, b)
		for i := range 10 {
			if i == 4 {
				a.seq++ // one is lost
			}
			a.say(440, 1)
		}
		b.listenFor(10)
		b.say(880, 7)
		heard := a.listenFor(7)
		if _, err := rtcp.WriteToUDPAddrPort(sr(a.ssrc, 0xaaaa1234, 0x5678bbbb), portAbove(a.local)); err != nil {
			t.Fatal(err)
		}
		a.set(func(s *core.MediaSpec) { s.Send = false })

		parts := compound(t, rtcp)
		if len(parts) != 2 || parts[0][1] != typeSR || parts[1][1] != typeSDES {
			t.Fatalf("compound % x", parts)
		}
		word := func(i int) uint32 { return binary.BigEndian.Uint32(parts[0][4*i:]) }
		if word(1) != heard[0].SSRC || word(5) != 9 || word(6) != 9*160 {
			t.Errorf("SR: SSRC %#x, %d packets, %d octets", word(1), word(5), word(6))
		}
		if d := int32(word(4) - heard[6].Timestamp); d < 0 || d > 8000*int32(patience/time.Second) {
			t.Errorf("SR: RTP time %d after the last packet", d)
		}
		if word(7) != a.ssrc || word(8)&0xffffff != 1 || word(8)>>24 != 256/13 || uint16(word(9)) != uint16(a.seq-1) {
			t.Errorf("block: SSRC %#x, loss %#x, highest %d", word(7), word(8), word(9))
		}
		if word(11) != 0x12345678 || word(12) == 0 || word(12) > 65536*uint32(patience/time.Second) {
			t.Errorf("LSR %#x, DLSR %d", word(11), word(12))
		}
		if parts[1][8] != 1 || parts[1][9] != cnameSize {
			t.Errorf("SDES % x", parts[1])
		}
		r.Do(core.CloseMedia{Leg: a.leg})
		for {
			if parts = compound(t, rtcp); parts[len(parts)-1][1] == typeBYE {
				break
			}
		}
	})
}

// RFC 3550 s.6.3.1: half to one and a half of the interval over e-3/2, the first halved.
func TestReportDelay(t *testing.T) {
	for range 1000 {
		for first, base := range map[bool]float64{true: 2.5e9, false: 5e9} {
			if d := float64(reportDelay(first)); d < base*0.5/1.22 || d > base*1.5/1.21 {
				t.Fatalf("first %v: %v", first, time.Duration(d))
			}
		}
	}
}

// RFC 3550 s.6.3.7: who has said nothing must not say BYE.
func TestNoByeFromTheSilent(t *testing.T) {
	r := newRig(t, nil)
	a := r.phone(legID(1), pcmu)
	rtcp := a.controlPhone()
	r.Do(core.CloseMedia{Leg: a.leg})
	await(t, r.inbox, closedLeg, a.leg)
	_ = rtcp.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if n, _, err := rtcp.ReadFromUDPAddrPort(make([]byte, 99)); err == nil {
		t.Fatalf("%d bytes", n)
	}
}
