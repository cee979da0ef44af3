package media

import (
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Who is heard: 440 Hz one way, 880 Hz the other, in every pair of laws.
func TestBridgeByContent(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b core.Codec
	}{{"PCMU-PCMU", pcmu, pcmu}, {"PCMA-PCMA", pcma, pcma}, {"PCMU-PCMA", pcmu, pcma}} {
		t.Run(c.name, func(t *testing.T) {
			eachPath(t, func(t *testing.T, path Path) {
				r := newRigOn(t, path, nil)
				a, b := r.phone(legID(1), c.a), r.phone(legID(2), c.b)
				r.talk(a, b)
				for range 10 { // in turns, so that no socket holds more than its bound
					a.say(440, 5)
					b.say(880, 5)
					atB, atA := b.listenFor(5), a.listenFor(5)
					b.mustHear(atB, 440, 880)
					a.mustHear(atA, 880, 440)
					mustFlow(t, atB, 0)
					mustFlow(t, atA, 0)
					if atA[0].PayloadType != c.a.Payload || atB[0].PayloadType != c.b.Payload {
						t.Fatalf("payload types %d and %d", atA[0].PayloadType, atB[0].PayloadType)
					}
				}
				transcoded, byKernel := uint64(0), uint64(0)
				if c.a != c.b {
					transcoded = 104
				} else if path == PathKernel {
					byKernel = 80 // or more: one comes up now and then, while the numbers are looked at
				}
				until(t, "counters", func() bool {
					g := r.Gauges()
					return g.Relayed == 104 && g.Transcoded == transcoded && g.ByKernel >= byKernel && (byKernel > 0) == (g.ByKernel > 0)
				})
			})
		})
	}
}

// G722 and OPUS pass between legs that share them, whatever their payload types, and only
// telephone events pass to a leg with another codec.
func TestBridgePassesOtherCodecs(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		ninetySix := core.Codec{Name: "OPUS", Payload: 96, Clock: 48000}
		a, b, c := r.phone(legID(1), opus), r.phone(legID(2), ninetySix), r.phone(legID(3), pcmu)
		b.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
		c.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
		for range 5 {
			a.packet(111, []byte("opus"))
			a.ts += 960
		}
		a.packet(101, []byte{5, 0x0a, 0, 160})
		atB := b.listenFor(6)
		for i, p := range atB[:5] {
			if p.PayloadType != 96 || string(p.Payload) != "opus" {
				t.Fatalf("packet %d: payload type %d, %q", i, p.PayloadType, p.Payload)
			}
			if i > 0 && p.Timestamp-atB[i-1].Timestamp != 960 {
				t.Fatalf("packet %d: timestamp goes on by %d", i, p.Timestamp-atB[i-1].Timestamp)
			}
		}
		if p := c.listenFor(1)[0]; p.PayloadType != 101 || p.Payload[0] != 5 {
			t.Fatalf("leg with PCMU got %v instead of the digit alone", p)
		}
	})
}

// RFC 4733 s.2.3, 2.5: the digit's packets share a timestamp, and its payload is not touched.
func TestTelephoneEventPasses(t *testing.T) {
	for _, codec := range []core.Codec{pcma, pcmu} {
		eachPath(t, func(t *testing.T, path Path) {
			r := newRigOn(t, path, nil)
			a, b := r.phone(legID(1), pcmu), r.phone(legID(2), codec)
			b.set(func(s *core.MediaSpec) { s.Telephone = 96 })
			r.talk(a, b)
			a.say(440, 3)
			for i := range 5 {
				h := rtp.Header{Version: 2, Marker: i == 0, PayloadType: 101, SequenceNumber: uint16(a.seq), Timestamp: a.ts, SSRC: a.ssrc}
				a.raw(&rtp.Packet{Header: h, Payload: []byte{7, 10, 0, byte(i * 32)}})
				a.seq++
			}
			a.ts += 800
			a.say(440, 3)
			got := b.listenFor(11)
			for i, p := range got[3:8] {
				if p.PayloadType != 96 || p.Payload[0] != 7 || p.Payload[3] != byte(i*32) || p.Marker != (i == 0) {
					t.Fatalf("event packet %d: %v % x", i, p.Header, p.Payload)
				}
				if p.Timestamp != got[3].Timestamp {
					t.Fatalf("event packet %d: timestamp %d, the digit began at %d", i, p.Timestamp, got[3].Timestamp)
				}
			}
			for i := 1; i < len(got); i++ {
				if got[i].SequenceNumber != got[i-1].SequenceNumber+1 {
					t.Fatalf("packet %d: sequence %d after %d", i, got[i].SequenceNumber, got[i-1].SequenceNumber)
				}
			}
			if d := got[8].Timestamp - got[3].Timestamp; d != 800 {
				t.Fatalf("voice after the digit %d ticks after its beginning, want 800", d)
			}
		})
	}
}

// A leg without telephone-event gets no digit, and no gap that looks like a loss.
func TestEventWithheldIsNoLoss(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		b.set(func(s *core.MediaSpec) { s.Telephone = 0 })
		r.talk(a, b)
		a.say(440, 2)
		a.packet(101, []byte{7, 10, 0, 160})
		a.packet(13, []byte{40}) // comfort noise, not negotiated either
		a.say(440, 2)
		mustFlow(t, b.listenFor(4), 0)
	})
}

// Loss and reordering of the source stay visible to the hearer.
func TestLossStaysVisible(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		send := []uint16{0, 1, 4, 3, 5, 5, 10}
		for _, seq := range send {
			a.raw(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(a.seq) + seq, Timestamp: uint32(seq) * 160, SSRC: a.ssrc}, Payload: make([]byte, 160)})
		}
		got := b.listenFor(len(send))
		for i, p := range got {
			if d := p.SequenceNumber - got[0].SequenceNumber; d != send[i] {
				t.Errorf("packet %d (sent %d): %d after the first", i, send[i], d)
			}
			if d := p.Timestamp - got[0].Timestamp; d != uint32(send[i])*160 {
				t.Errorf("packet %d (sent %d): timestamp %d after the first", i, send[i], d)
			}
		}
	})
}

// Extensions, CSRCs and padding are not passed on: they were agreed on for one leg.
func TestHeaderIsRebuilt(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		bridge(a, b)
		p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: 7, Timestamp: 1, SSRC: 9, CSRC: []uint32{1, 2}, Padding: true}, Payload: []byte("voice"), PaddingSize: 8}
		if err := p.SetExtension(3, []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		a.raw(p)
		got := b.listenFor(1)[0]
		if got.Extension || got.Padding || len(got.CSRC) != 0 || string(got.Payload) != "voice" || !got.Marker {
			t.Fatalf("%+v %q", got.Header, got.Payload)
		}
	})
}

// Music, voice, music, voice of another SSRC: one flow, with a marker at each change.
func TestSourceSwitchIsOneFlow(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcma)
		bridge(a, b)
		music := core.Source{Kind: core.Playback, File: "music", Loop: true, Play: 1}
		voice := core.Source{Kind: core.Bridge, Peer: a.leg}

		var got []*rtp.Packet
		marks := 0
		hear := func(n int) {
			t.Helper()
			part := b.listenFor(n)
			if !part[0].Marker {
				t.Fatalf("no marker at change %d", marks)
			}
			for _, p := range part[1:] {
				if p.Marker {
					t.Fatalf("a marker within source %d", marks)
				}
			}
			marks++
			got = append(got, part...)
		}
		b.hears(music)
		hear(3)
		b.hears(voice)
		got = append(got, b.flush()...)
		a.say(440, 3)
		hear(3)
		b.mustHear(got[len(got)-3:], 440, 880)
		a.ssrc, a.seq, a.ts = 0xbeef, 60000, 7 // a phone that starts its stream anew
		a.say(880, 3)
		hear(3)
		music.Play = 2
		b.hears(music)
		hear(3)
		b.hears(voice)
		got = append(got, b.flush()...)
		a.say(440, 3)
		hear(3)
		mustFlow(t, got, 8000*uint32(patience/time.Second))
	})
}

// flush returns what has arrived and was not read yet. The loop sends before it obeys an
// order, so after settled all is there.
func (p *phone) flush() []*rtp.Packet {
	p.t.Helper()
	raw, err := p.conn.SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	var got []*rtp.Packet
	// Without a deadline: one that passes before the read is tried hides what is there.
	if err := raw.Control(func(fd uintptr) {
		for {
			b := make([]byte, 2048)
			n, errno := receive(int(fd), b)
			if errno != 0 {
				return
			}
			packet := &rtp.Packet{}
			if err := packet.Unmarshal(b[:n]); err != nil {
				p.t.Errorf("leg %s sent what is not RTP: %v", p.leg, err)
			}
			got = append(got, packet)
		}
	}); err != nil {
		p.t.Fatal(err)
	}
	return got
}

// Only the held party hears the music; the other's voice does not reach it, and comes back
// at resume without a gap that looks like a loss.
func TestHold(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		a.say(440, 2)
		before := b.listenFor(2)

		b.hears(core.Source{Kind: core.Playback, File: "beep", Loop: true, Play: 1}) // a continuous 880 Hz
		a.set(func(s *core.MediaSpec) { s.Receive = false; s.Hear = core.Source{} })
		a.say(440, 10)
		b.say(1200, 10)
		during := b.listenFor(15)
		b.mustHear(during[3:15], 880, 440)
		if p := a.next(50 * time.Millisecond); p != nil {
			t.Fatalf("the holding party hears %v", p.Header)
		}
		a.set(func(s *core.MediaSpec) { s.Receive = true })
		bridge(a, b)
		during = append(during, b.flush()...)
		a.say(440, 5)
		after := b.listenFor(5)
		b.mustHear(after, 440, 880)
		mustFlow(t, append(append(before, during...), after...), 8000*uint32(patience/time.Second))
	})
}

// RFC 3264 s.5.1: with Send off nothing goes to the peer, from no source.
func TestSendOff(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		b.set(func(s *core.MediaSpec) { s.Send = false })
		a.say(440, 5)
		b.set(func(s *core.MediaSpec) { s.Hear = core.Source{Kind: core.Playback, File: "beep", Play: 3} })
		if done := await(t, r.inbox, doneLeg, b.leg); done.Play != 3 {
			t.Fatalf("done %d", done.Play)
		}
		if p := b.next(50 * time.Millisecond); p != nil {
			t.Fatalf("sent although Send is off: %v", p.Header)
		}
		b.set(func(s *core.MediaSpec) { s.Send = true })
		bridge(a, b)
		a.say(440, 5)
		got := b.listenFor(5)
		mustFlow(t, got, 0)
		b.mustHear(got, 440, 880)
	})
}

// A leg may be told to hear one that opens later, and that closes before.
func TestBridgeToLaterLeg(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		b := r.phone(legID(2), pcmu)
		b.hears(core.Source{Kind: core.Bridge, Peer: legID(1)})
		for range 2 {
			a := r.phone(legID(1), pcmu)
			a.say(440, 5)
			b.mustHear(b.listenFor(5), 440, 880)
			r.Do(core.CloseMedia{Leg: a.leg})
			await(t, r.inbox, closedLeg, a.leg)
		}
	})
}

// Two who listen to one party (one of them in the other law) both hear it whole.
func TestTwoHearers(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b, c := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu), r.phone(legID(3), pcma)
		r.talk(a, b)
		c.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
		a.say(440, 10)
		b.mustHear(b.listenFor(10), 440, 880)
		c.mustHear(c.listenFor(10), 440, 880)
	})
}

// The marker at a change of source is the voice's; one who joins within a digit is not
// told that the digit begins (RFC 4733 s.2.3).
func TestNoMarkerWithinADigit(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		bridge(a, b)
		a.packet(101, []byte{7, 10, 0, 160})
		if p := b.listenFor(1)[0]; p.Marker {
			t.Fatal("a marker on a packet that had none")
		}
	})
}

// What a party says while it is not to be received is no loss to the other.
func TestReceiveOff(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		a.say(440, 3)
		got := b.listenFor(3)
		a.set(func(s *core.MediaSpec) { s.Receive = false })
		a.say(1700, 10)
		until(t, "dropped", func() bool { return r.Gauges().Dropped == 10 })
		a.set(func(s *core.MediaSpec) { s.Receive = true })
		a.say(440, 5)
		after := b.listenFor(5)
		b.mustHear(after, 440, 1700)
		mustFlow(t, append(got, after...), 8000*uint32(patience/time.Second))
		if !after[0].Marker {
			t.Error("no marker after the pause")
		}
	})
}

// A packet that is older than the first of its source would bear a number that the source
// before has used.
func TestLateAcrossASwitch(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b, c := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu), r.phone(legID(3), pcmu)
		b.hears(core.Source{Kind: core.Bridge, Peer: c.leg})
		c.say(880, 5)
		got := b.listenFor(5)
		a.say(1700, 1) // so that the stream's beginning is not the mapping's
		until(t, "dropped or unheard", func() bool { return r.Gauges().Relayed == 5 })
		b.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
		for _, seq := range []uint16{1010, 1008, 1009, 1011} {
			a.raw(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: uint32(seq) * 160, SSRC: a.ssrc}, Payload: a.tone(440)})
		}
		mustFlow(t, append(got, b.listenFor(2)...), 8000*uint32(patience/time.Second))
		if p := b.next(30 * time.Millisecond); p != nil {
			t.Fatalf("one more: %v", p.Header)
		}
	})
}
