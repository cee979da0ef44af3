package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// seeds of packets: plain, with CSRCs, extensions, padding, and lengths that lie.
func packetSeeds() [][]byte {
	plain := []byte{0x80, 0x80, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 'a', 'b'}
	seeds := [][]byte{nil, {0x80}, plain, plain[:12], plain[:11]}
	for _, first := range []byte{0x00, 0x40, 0xc0, 0x82, 0x8f, 0x90, 0x9f, 0xa0, 0xb1, 0xbf} {
		b := append([]byte{first}, plain[1:]...)
		seeds = append(seeds, b, append(append([]byte{}, b...), 0xbe, 0xde, 0, 1, 0x10, 9, 0, 0, 'v', 2))
	}
	return append(seeds, append(append([]byte{0x90}, plain[1:12]...), 0xbe, 0xde, 0xff, 0xff, 1, 2, 3))
}

// FuzzPacket holds the header parser against pion/rtp, which knows the elements of header
// extensions too and refuses broken ones; those are never passed on here, so they do no harm.
func FuzzPacket(f *testing.F) {
	for _, b := range packetSeeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		ok := h.parse(b)
		var p rtp.Packet
		err := p.Unmarshal(b)
		switch {
		case err == nil && p.Version == 2 && !ok && len(b) >= fixedHeader:
			t.Fatalf("refused, pion/rtp reads %v", p.Header)
		case err != nil && ok && !(b[0]&0x10 != 0):
			t.Fatalf("taken as %+v, pion/rtp: %v", h, err)
		case err != nil || !ok:
			return
		}
		if h.marker != p.Marker || h.payload != p.PayloadType || h.seq != p.SequenceNumber || h.ts != p.Timestamp || h.ssrc != p.SSRC {
			t.Fatalf("%+v, pion/rtp: %+v", h, p.Header)
		}
		if !bytes.Equal(b[h.body:h.end], p.Payload) {
			t.Fatalf("payload % x, pion/rtp: % x", b[h.body:h.end], p.Payload)
		}
		var out [fixedHeader]byte
		h.put(out[:])
		var again rtp.Packet
		if err := again.Unmarshal(out[:]); err != nil || again.SequenceNumber != p.SequenceNumber || again.Marker != p.Marker ||
			again.PayloadType != p.PayloadType || again.Timestamp != p.Timestamp || again.SSRC != p.SSRC {
			t.Fatalf("written as %+v: %v", again.Header, err)
		}
	})
}

// FuzzControl: any bytes on the RTCP port leave a report that can be made.
func FuzzControl(f *testing.F) {
	sr := []byte{0x80, typeSR, 0, 6, 0, 0, 0, 9}
	sr = append(sr, make([]byte, 20)...)
	f.Add(sr)
	f.Add(append(sr, 0x81, typeBYE, 0, 1, 0, 0, 0, 9))
	f.Add([]byte{0x80, typeRR, 0xff, 0xff, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c control
		if !c.hear(b, 9, 1) && c.lastSRAt != 0 {
			t.Fatal("something of a malformed packet was believed")
		}
	})
}

// A storm of garbage on RTP and RTCP, from the peer and from strangers: the call goes on,
// and everything is given back.
func TestGarbageStorm(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		r := newRigOn(t, path, nil)
		files, free := openFiles(t), r.Gauges().PortsFree
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcma)
		bridge(a, b)
		a.say(440, 3)
		b.say(880, 3)
		b.listenFor(3)
		a.listenFor(3)
		stranger := listen(t, "127.0.0.3")
		control := a.local
		control = portAbove(control)
		for i := range 3000 {
			junk := make([]byte, random.IntN(1400))
			for j := range junk {
				junk[j] = byte(random.Uint32())
			}
			if len(junk) > 2 && i%3 == 0 {
				junk[0] = junk[0]&0x3f | 0x80 // looks like RTP, with all flags
				junk[1] &= 0x7f
			}
			if i%40 == 0 {
				junk = make([]byte, 9000)
			}
			var err error
			switch i % 4 {
			case 0:
				_, err = a.conn.WriteToUDPAddrPort(junk, a.local)
			case 1:
				_, err = a.conn.WriteToUDPAddrPort(junk, control)
			case 2:
				_, err = stranger.WriteToUDPAddrPort(junk, a.local)
			default:
				_, err = stranger.WriteToUDPAddrPort(junk, control)
			}
			if err != nil && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatal(err)
			}
		}
		// The storm is over when the sockets' queues are empty: a packet passes, and then nothing
		// is left to come.
		a.seq, a.ssrc = 20000, 76
		until(t, "the storm is over", func() bool {
			a.say(440, 1)
			return b.next(50*time.Millisecond) != nil
		})
		for b.next(50*time.Millisecond) != nil {
		}
		a.seq, a.ssrc = 30000, 77
		a.say(440, 10)
		b.mustHear(b.listenFor(10), 440, 880)
		for _, p := range []*phone{a, b} {
			r.Do(core.CloseMedia{Leg: p.leg})
			await(t, r.inbox, closedLeg, p.leg)
			p.conn.Close()
		}
		stranger.Close()
		until(t, "ports back", func() bool { return r.Gauges().PortsFree == free })
		if n := openFiles(t); n > files {
			t.Errorf("%d files open, %d before", n, files)
		}
	})
}

// An odd payload: RTP without any, and one that fills the buffer to the last byte.
func TestPacketSizes(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcma)
	bridge(a, b)
	a.packet(0, nil)
	a.packet(0, make([]byte, packetSize-fixedHeader-1))
	got := b.listenFor(2)
	if len(got[0].Payload) != 0 || len(got[1].Payload) != packetSize-fixedHeader-1 {
		t.Fatalf("payloads of %d and %d", len(got[0].Payload), len(got[1].Payload))
	}
	a.packet(0, make([]byte, packetSize))
	until(t, "refused", func() bool { return r.Gauges().Refused == 1 })
}

// sr builds a sender report with an NTP stamp.
func sr(ssrc, seconds, fraction uint32) []byte {
	b := []byte{0x80, typeSR, 0, 6}
	for _, w := range []uint32{ssrc, seconds, fraction, 0, 0, 0} {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}
