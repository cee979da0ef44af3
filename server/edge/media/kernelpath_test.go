package media

import (
	"net"
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// What the kernel relays it relays while the loop stands still, so that nothing of this
// process, a garbage collection or a slow store, is heard.
func TestKernelRelaysByItself(t *testing.T) {
	needKernel(t)
	r := newRigOn(t, PathKernel, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	r.talk(a, b)
	stopLoop(r)
	for range 20 {
		a.say(440, 5)
		b.mustHear(b.listenFor(5), 440, 880)
		b.say(880, 5)
		a.mustHear(a.listenFor(5), 880, 440)
	}
}

// Whatever the kernel may not judge comes to the loop, in its place in the flow, and the
// kernel has the leg again afterwards.
func TestUnusualPacketsComeUp(t *testing.T) {
	needKernel(t)
	for name, change := range map[string]func(a *phone, p *rtp.Packet){
		"extension":     func(_ *phone, p *rtp.Packet) { _ = p.SetExtension(3, []byte{1, 2, 3}) },
		"CSRC":          func(_ *phone, p *rtp.Packet) { p.CSRC = []uint32{1, 2} },
		"padding":       func(_ *phone, p *rtp.Packet) { p.Padding, p.PaddingSize = true, 8 },
		"a digit":       func(_ *phone, p *rtp.Packet) { p.PayloadType, p.Payload = 101, []byte{7, 10, 0, 160} },
		"comfort noise": func(_ *phone, p *rtp.Packet) { p.PayloadType, p.Payload = 13, []byte{40} },
		"another SSRC":  func(a *phone, p *rtp.Packet) { a.ssrc++; p.SSRC = a.ssrc },
		"empty":         func(_ *phone, p *rtp.Packet) { p.Payload = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigOn(t, PathKernel, nil)
			a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
			r.talk(a, b)
			a.say(440, 5)
			got := b.listenFor(5)
			p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(a.seq), Timestamp: a.ts, SSRC: a.ssrc}, Payload: a.tone(440)}
			change(a, p)
			a.raw(p)
			a.seq, a.ts = a.seq+1, a.ts+160
			a.say(440, 5)
			if name == "comfort noise" { // not negotiated: withheld, and no loss
				a.say(440, 1)
			}
			got = append(got, b.listenFor(6)...)
			if special := got[5]; special.Extension || special.Padding || len(special.CSRC) != 0 || (special.Marker != (name == "another SSRC")) {
				t.Errorf("%+v", special.Header)
			}
			mustFlow(t, got, 8000*uint32(patience/time.Second))
			r.entrusted(a, b)
			a.say(440, 5)
			mustFlow(t, append(got, b.listenFor(5)...), 8000*uint32(patience/time.Second))
		})
	}
}

// RFC 3550 A.1, A.3, A.8: the numbers of a leg are the same whoever relays, over a stream
// with losses, late packets and a digit, across the wrap of the sequence.
func TestKernelCountsAsWeDo(t *testing.T) {
	needKernel(t)
	var stats [2]core.AudioStats
	for i, path := range []Path{PathPortable, PathKernel} {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		a.seq = 65500
		r.talk(a, b)
		first := uint16(a.seq)
		for n, step := range []uint16{0, 1, 2, 4, 3, 9, 9, 30, 40, 41, 50} {
			payload := uint8(0)
			if n == 5 {
				payload = 101
			}
			a.raw(&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: payload, SequenceNumber: first + step, Timestamp: a.ts + uint32(step)*160, SSRC: a.ssrc}, Payload: a.tone(440)})
			b.listenFor(1)
		}
		b.say(880, 7)
		a.listenFor(7)
		r.Do(core.CloseMedia{Leg: a.leg})
		stats[i] = await(t, r.inbox, closedLeg, a.leg).Stats
		if path == PathKernel && r.Gauges().ByKernel < 10 {
			t.Errorf("the kernel relayed %d packets only", r.Gauges().ByKernel)
		}
	}
	for i := range stats {
		stats[i].JitterMs, stats[i].LongestGapMs = 0, 0 // of time, see below
	}
	if stats[0] != stats[1] || stats[0].PacketsReceived != 13 || stats[0].PacketsLost != 40 || stats[0].PacketsSent != 9 {
		t.Errorf("portable %+v\nkernel   %+v", stats[0], stats[1])
	}
}

// Jitter and the longest gap of packets that the kernel relays, against the test's own clock.
func TestKernelMeasuresTime(t *testing.T) {
	needKernel(t)
	r := newRigOn(t, PathKernel, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	r.talk(a, b)
	var sum, most float64 // ms, with the formula of A.8
	last := time.Now()
	a.say(440, 1)
	b.listenFor(1)
	for i := range 60 {
		time.Sleep(time.Duration(2+i%3*7) * time.Millisecond)
		now := time.Now()
		a.say(440, 1)
		gap := float64(now.Sub(last)) / 1e6
		last = now
		sum += (abs(gap-20) - sum) / 16
		most = max(most, gap)
		b.listenFor(1)
	}
	r.Do(core.CloseMedia{Leg: a.leg})
	s := await(t, r.inbox, closedLeg, a.leg).Stats
	if s.JitterMs < sum/2-1 || s.JitterMs > sum*2+1 {
		t.Errorf("jitter %.2f ms, the test's own %.2f", s.JitterMs, sum)
	}
	if s.LongestGapMs < most*0.9-1 && s.LongestGapMs < most-5 {
		t.Errorf("longest gap %.2f ms, the test's own %.2f", s.LongestGapMs, most)
	}
}

func abs(x float64) float64 { return max(x, -x) }

// After a leg's specification is carried out, nothing is relayed that it forbids, however
// fast the packets come.
func TestNothingAfterUnbridge(t *testing.T) {
	needKernel(t)
	r := newRigOn(t, PathKernel, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	stop, stopped := make(chan struct{}), make(chan struct{})
	r.talk(a, b)
	speaker := *a // its own numbers
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				speaker.say(440, 1)
			}
		}
	}()
	for range 20 {
		b.listenFor(3)
		b.hears(core.Source{})
		b.flush()
		// One may be between the kernel's relay and the socket: see Flow.Take.
		if p := b.next(5 * time.Millisecond); p != nil {
			if p = b.next(5 * time.Millisecond); p != nil {
				t.Fatalf("packet %d after the bridge has ended", p.SequenceNumber)
			}
		}
		b.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
	}
	close(stop)
	<-stopped
	if r.Gauges().ByKernel == 0 {
		t.Error("the kernel relayed nothing")
	}
}

// A stranger's packets to a port that the kernel relays are refused and counted as ever,
// and the peer's go on.
func TestStrangersDoNotStopTheKernel(t *testing.T) {
	needKernel(t)
	r := newRigOn(t, PathKernel, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	r.talk(a, b)
	thief, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(a.local))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	before := r.Gauges()
	for range 200 {
		p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(a.seq), Timestamp: a.ts, SSRC: a.ssrc}, Payload: a.tone(1700)}
		raw, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := thief.Write(raw); err != nil {
			t.Fatal(err)
		}
		a.say(440, 1)
		b.listenFor(1)
	}
	// Not all: the kernel relays without the loop, whose socket holds some fifty packets.
	until(t, "refused", func() bool { return r.Gauges().Refused >= 20 })
	r.Do(core.CloseMedia{Leg: a.leg})
	if s := await(t, r.inbox, closedLeg, a.leg).Stats; s.PacketsReceived != 202 || s.PacketsLost != 0 {
		t.Errorf("%+v", s)
	}
	if n := r.Gauges().ByKernel - before.ByKernel; n < 150 {
		t.Errorf("of 200 packets the kernel relayed %d", n)
	}
}
