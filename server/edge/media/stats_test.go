package media

import (
	"math"
	"testing"
	"time"

	"github.com/pion/rtp"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// feed runs packets through an inflow as accept does.
func (f *inflow) feed(h *header, now int64, streams *uint64) {
	_, restart, ok := f.take(h)
	if restart {
		*streams++
		f.begin(h, *streams)
	}
	if ok {
		f.arrive(now, true)
		f.vary(now, h.ts, 8000)
	}
}

// RFC 3550 A.1, A.3: loss is what the extended sequence numbers expect, less what came.
func TestLossBySequence(t *testing.T) {
	for _, c := range []struct {
		name     string
		seqs     []uint16
		lost     int64
		received uint64
	}{
		{"none", []uint16{5, 6, 7}, 0, 3},
		{"one", []uint16{5, 7}, 1, 2},
		{"across the wrap", []uint16{65534, 65535, 1, 2}, 1, 4},
		{"reordered across the wrap", []uint16{65534, 0, 65535, 1}, 0, 4},
		{"late before the first", []uint16{0, 65535, 1}, -1, 3},
		{"a duplicate hides a loss, as A.3 says", []uint16{1, 2, 2, 4}, 0, 4},
		{"a jump alone is not believed", []uint16{1, 2, 30000, 3}, 0, 3},
		{"a jump confirmed is a new stream", []uint16{1, 3, 30000, 30001, 30003}, 2, 4},
	} {
		var f inflow
		var streams uint64
		for i, seq := range c.seqs {
			f.feed(&header{seq: seq, ssrc: 1}, int64(i)*20e6, &streams)
		}
		if lost := f.lostBefore + f.lost(); lost != c.lost || f.totalReceived != c.received {
			t.Errorf("%s: lost %d of %d received, want %d of %d", c.name, lost, f.totalReceived, c.lost, c.received)
		}
	}
}

// Whatever is dropped from a stream of several cycles is counted, neither more nor less.
func TestLossIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f inflow
		var streams uint64
		first := rapid.Uint16().Draw(t, "first")
		var lost, sent int64
		total := rapid.IntRange(1, 3000).Draw(t, "groups")
		step := rapid.IntRange(1, 40).Draw(t, "step")
		for i := range total {
			f.feed(&header{seq: first + uint16(i*step), ssrc: 1}, int64(i), &streams)
			sent++
		}
		lost = int64((total - 1) * (step - 1))
		if f.lost() != lost || streams != 1 || f.totalReceived != uint64(sent) {
			t.Fatalf("lost %d, want %d; %d streams", f.lost(), lost, streams)
		}
	})
}

// RFC 3550 A.8: J += (|D| - J) / 16, in RTP ticks, against the formula on known delays.
func TestJitter(t *testing.T) {
	var f inflow
	var streams uint64
	delays := []float64{0, 5, -3, 10, 0, 0, 20, 1, 1, 7} // ms
	want, last := 0.0, 0.0
	for i, d := range delays {
		f.feed(&header{seq: uint16(i), ts: uint32(0xffffff00) + uint32(i*160), ssrc: 1}, int64(1e9)+int64(i)*20e6+int64(d*1e6), &streams)
		if i > 0 {
			want += (math.Abs(d-last)*8 - want) / 16
		}
		last = d
	}
	if math.Abs(f.jitter-want) > 0.1 {
		t.Errorf("jitter %.3f ticks, want %.3f", f.jitter, want)
	}
	g := &leg{in: f}
	if ms := g.stats().JitterMs; math.Abs(ms-want/8) > 0.02 {
		t.Errorf("JitterMs %.3f, want %.3f", ms, want/8)
	}
}

// A second SSRC is a jump of the clock and no jitter.
func TestJitterOfANewStream(t *testing.T) {
	var f inflow
	var streams uint64
	for i := range 100 {
		f.feed(&header{seq: uint16(i), ts: uint32(i * 160), ssrc: 1 + uint32(i/50)*7, payload: 0}, int64(i)*20e6+int64(i/50)*1e9, &streams)
	}
	if f.jitter > 0.001 || streams != 2 {
		t.Errorf("jitter %.3f, %d streams", f.jitter, streams)
	}
}

// The longest gap counts only while receiving was wanted.
func TestLongestGap(t *testing.T) {
	var f inflow
	ms := int64(time.Millisecond)
	f.arrive(0+1, true)
	f.arrive(30*ms, true)
	f.pause() // hold
	f.arrive(4000*ms, false)
	f.arrive(9000*ms, true)
	f.arrive(9025*ms, true)
	if f.longestGap/ms != 29 {
		t.Errorf("longest gap %d ms, want 29", f.longestGap/ms)
	}
}

// The statistics of a closed leg, from real packets.
func TestStatsOfALeg(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		for _, seq := range []uint16{0, 1, 3, 2, 10} { // 4 to 9 are lost
			a.raw(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(a.seq) + seq, Timestamp: a.ts + uint32(seq)*160, SSRC: a.ssrc}, Payload: make([]byte, 160)})
		}
		a.bytes([]byte("not RTP at all"))
		a.bytes([]byte{0x80})
		b.listenFor(5)
		b.say(880, 4)
		a.listenFor(4)
		until(t, "refused", func() bool { return r.Gauges().Refused == 2 })
		r.Do(core.CloseMedia{Leg: a.leg})
		s := await(t, r.inbox, closedLeg, a.leg).Stats
		if s.PacketsReceived != 7 || s.PacketsLost != 6 || s.PacketsSent != 6 || s.Refused != 2 {
			t.Fatalf("%+v", s)
		}
	})
}

// livekit/sip#812: a muted party is reported once, and again as heard; the leg lives on.
func TestIdleAndResumed(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		bridge(a, b)
		a.set(func(s *core.MediaSpec) { s.IdleAfter = 300 })
		await(t, r.inbox, idleLeg, a.leg) // none ever came
		a.set(func(s *core.MediaSpec) { s.Hear.Peer = b.leg })
		a.say(440, 1)
		await(t, r.inbox, resumedLeg, a.leg)
		b.listenFor(1)
		r.talkOn(a, b)
		for range 20 { // longer than what would be silence
			a.say(440, 1)
			b.listenFor(1)
			time.Sleep(frame)
		}
		began := time.Now()
		await(t, r.inbox, idleLeg, a.leg)
		if d := time.Since(began); d < 280*time.Millisecond || d > 3*time.Second {
			t.Fatalf("idle after %v, want 300 to 500 ms", d)
		}
		b.say(880, 2) // muted, not gone: it still hears
		a.listenFor(2)
		a.say(440, 2)
		await(t, r.inbox, resumedLeg, a.leg)
		b.listenFor(2)
		a.set(func(s *core.MediaSpec) { s.IdleAfter = 0 })
		r.Do(core.CloseMedia{Leg: a.leg})
		await(t, r.inbox, closedLeg, a.leg)
		if n := r.inbox.count(func(ev core.Event) bool {
			_, idle := ev.(core.MediaIdle)
			_, resumed := ev.(core.MediaResumed)
			return idle || resumed
		}); n != 0 {
			t.Fatalf("%d more events of silence: %v", n, r.inbox.events)
		}
	})
}
