package stream

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

// datagram is a stamped packet of another voice.
func datagram(clock uint64, sequence uint16, timestamp uint32, st stamp) []byte {
	b := make([]byte, 12+Frame)
	b[0] = 0x80
	binary.BigEndian.PutUint16(b[2:], sequence)
	binary.BigEndian.PutUint32(b[4:], timestamp)
	binary.BigEndian.PutUint32(b[8:], 77)
	st.clock = clock
	st.put(b[12:])
	return b
}

// feed lets a stream hear packets 0 to n-1 that arrive delay(i) after they were sent.
func feed(k *still, s *Stream, n int, delay func(i int) time.Duration) {
	begin := k.now + k.offset
	for i := range n {
		sent := begin + int64(i)*int64(voice.FrameTime)
		k.hear(s, datagram(k.engine.clock, uint16(i), uint32(i*Frame), stamp{voice: 5, index: uint32(i), position: uint32(i), sent: sent}), sent+int64(delay(i)))
	}
}

// RFC 3550 s.6.4.1 and A.8, computed by hand: transit 10, 14, 10, 10 ms.
func TestJitterGapAndLatencyByHand(t *testing.T) {
	k := stillEngine(t, Config{Start: time.Now().Add(-time.Hour)})
	s := k.stream(Options{Voice: 1})
	transit := []time.Duration{10, 14, 10, 10}
	feed(k, s, 4, func(i int) time.Duration { return transit[i] * time.Millisecond })
	a := s.summary(s.account()).Audio
	j := 4000.0 / 16
	j += (4000 - j) / 16
	peak := j
	j += (0 - j) / 16
	if a.Jitter != measure.Micros(j) || a.JitterMax != measure.Micros(peak) {
		t.Errorf("jitter %d, at most %d us; by hand %.0f and %.0f", a.Jitter, a.JitterMax, j, peak)
	}
	if a.LongestGap != 24_000 || a.LatencyMax != 14_000 || a.LatencyN != 4 || a.Late != 0 {
		t.Errorf("%+v", a)
	}
	if want := measure.Micros((k.now + k.engine.since + 10e6) / 1000); a.First != want || want < 3600e6 {
		t.Errorf("first at %d us of the run, want %d", a.First, want)
	}
	// 20 ms packetisation, 10 network, 20 jitter buffer: MOS of 50 ms without loss.
	if a.MouthToEar < 49_200 || a.MouthToEar > 50_800 {
		t.Errorf("mouth to ear %d us, should be 50 ms", a.MouthToEar)
	}
	if want := voice.MOS(voice.R(time.Duration(a.MouthToEar)*time.Microsecond, 0, 1, voice.G711PLC)); a.MOS != want || want < 4.3 {
		t.Errorf("MOS %v, want %v", a.MOS, want)
	}
}

func TestLatePacketsAreLossToTheEar(t *testing.T) {
	k := stillEngine(t, Config{Buffer: 30 * time.Millisecond})
	s := k.stream(Options{Voice: 1})
	feed(k, s, 100, func(i int) time.Duration {
		if i%10 == 9 {
			return 45 * time.Millisecond
		}
		return 10 * time.Millisecond
	})
	a := s.summary(s.account()).Audio
	want := voice.MOS(voice.R(time.Duration(a.MouthToEar)*time.Microsecond, 0.1, 1, voice.G711PLC))
	if a.Late != 10 || a.Lost != 0 || a.MOS != want {
		t.Errorf("10 of 100 come 5 ms after their time: %+v, want MOS %v", a, want)
	}
}

// A pause of the speaker is no gap of the network; what is lost is.
func TestPausesAreNoGaps(t *testing.T) {
	for _, c := range []struct {
		index    uint32
		gap      measure.Micros
		expected uint64
	}{{10, 20_000, 11}, {20, 220_000, 21}} { // 3 s later: a pause; a pause in which 10 packets were lost
		k := stillEngine(t, Config{})
		s := k.stream(Options{Voice: 1})
		feed(k, s, 10, func(int) time.Duration { return 0 })
		sent := k.now + k.offset + int64(159*voice.FrameTime)
		k.hear(s, datagram(k.engine.clock, 10, 159*Frame, stamp{voice: 5, index: c.index, position: 159, sent: sent}), sent)
		a := s.summary(s.account()).Audio
		if a.LongestGap != c.gap || a.Expected != c.expected || a.Jitter != 0 {
			t.Errorf("index %d after a pause: gap %d us, want %d; %+v", c.index, a.LongestGap, c.gap, a)
		}
	}
}

func TestVoicesAreBounded(t *testing.T) {
	k := stillEngine(t, Config{})
	s := k.stream(Options{Voice: 1})
	for i := range 100 {
		k.hear(s, datagram(0, 0, 0, stamp{voice: uint64(i + 2)}), k.now+k.offset)
		s.ear.mark(uint16(i))
		s.ear.event(uint32(i+1), []byte{1, 0, 0, 0})
	}
	h := s.summary(s.account())
	if len(h.Voices) > 2*mostVoices || h.Audio.Received != 100 || h.Audio.Voice != mostVoices || len(s.ear.markers) != mostVoices || len(h.Digits) != mostDigits {
		t.Errorf("%d voices, %d digits: %+v", len(h.Voices), len(h.Digits), h.Audio)
	}
}

func TestSoundIsTheLastSecondAsULaw(t *testing.T) {
	k := stillEngine(t, Config{})
	s := k.stream(Options{Voice: 1, Sound: true})
	var want []byte
	for i := range 70 {
		b := make([]byte, 12+Frame)
		b[0], b[1] = 0x80, byte(PCMA)
		for n := range Frame {
			b[12+n] = byte(i + n)
		}
		codes := slices.Clone(b[12:])
		voice.ALaw.Recode(codes)
		want = append(want, codes...)
		k.hear(s, b, k.now+k.offset)
	}
	if h := s.summary(s.account()); !slices.Equal(h.Sound, want[len(want)-voice.Rate:]) || h.Audio.Received != 70 || h.Audio.Voice != 0 {
		t.Errorf("%d bytes of sound, %+v", len(h.Sound), h.Audio)
	}
}

// A track against sets, over loss, copies and disorder.
func TestTrackIsLikeSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1<<33).Draw(t, "start")
		track := newTrack(1, time.Millisecond)
		var came, played []int64
		var copies, behind uint64
		at := start + window
		for range rapid.IntRange(1, 300).Draw(t, "packets") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				at += rapid.Int64Range(0, 3*window).Draw(t, "jump")
			case 1:
				at = max(start, at-rapid.Int64Range(0, 40).Draw(t, "back"))
			default:
				at++
			}
			highest := int64(-1)
			if len(came) > 0 {
				highest = slices.Max(came)
			}
			known := slices.Contains(came, at) || at <= highest-window
			fresh, newest := track.add(at)
			if fresh == known || newest != (at > highest) {
				t.Fatalf("%d after %v: fresh %v, newest %v", at, came, fresh, newest)
			}
			if known {
				copies++
				continue
			}
			if at < highest {
				behind++
			}
			came = append(came, at)
			if rapid.IntRange(0, 9).Draw(t, "late") > 0 {
				track.play(at)
				played = append(played, at)
			}
		}
		first, last := slices.Min(came), slices.Max(came)
		if track.expected() != uint64(last-first+1) || track.distinct != uint64(len(came)) || track.duplicate != copies || track.reordered != behind {
			t.Fatalf("%+v; expected %d, came %d, copies %d, out of order %d", track, last-first+1, len(came), copies, behind)
		}
		// The pattern of loss is in the order of sending. What is older than the window when
		// the first packets come out of order is not waited for.
		got := track.pattern()
		if got.Lost != got.Expected-uint64(len(played)) || got.Expected > track.expected() {
			t.Fatalf("%+v, played %d of %d", got, len(played), track.expected())
		}
		var want voice.Losses
		if len(came) < window && last-first < window {
			slices.Sort(played)
			for i := first; i <= last; i++ {
				_, found := slices.BinarySearch(played, i)
				want.Add(!found, 1)
			}
			if got != want {
				t.Fatalf("pattern %+v, want %+v", got, want)
			}
		}
	})
}

func TestSequenceNumbersUnwrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		track := newTrack(1, time.Millisecond)
		true0 := rapid.Int64Range(1<<16, 1<<17-1).Draw(t, "first")
		at := true0
		i, _ := track.unwrap(uint16(at))
		shift := at - i
		track.add(i)
		for range 200 {
			at += rapid.Int64Range(-20, 2000).Draw(t, "step")
			at = max(at, true0)
			i, ok := track.unwrap(uint16(at))
			if !ok && at-shift-track.last > -window || ok && i+shift != at {
				t.Fatalf("sequence %d: index %d, want %d", uint16(at), i, at-shift)
			}
			if ok {
				track.add(i)
			} else {
				return
			}
		}
	})
	track := newTrack(1, time.Millisecond)
	for i := range 10 {
		n, _ := track.unwrap(uint16(i))
		track.add(n)
	}
	if _, ok := track.unwrap(30_000); ok {
		t.Error("another source's number is taken for a loss of 30,000 packets")
	}
	track.restart()
	n, ok := track.unwrap(30_000)
	track.add(n)
	if !ok || track.expected() != 11 || track.distinct != 11 {
		t.Errorf("after the source has changed: %+v", track)
	}
}

func FuzzHear(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add(datagram(1, 2, 3, stamp{voice: 4, index: 5, position: 6, sent: 7}), false)
	f.Add(datagram(1, 65535, 1<<32-1, stamp{voice: 4, index: 1<<32 - 1, position: 1, sent: -1}), true)
	f.Add(append([]byte{0x90, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xbe, 0xde, 0, 1, 0x10, 7, 0, 0}, make([]byte, Frame)...), true)
	f.Add([]byte{0xa0, 8, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4}, true)
	f.Add([]byte{0x80, 101, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 5, 0x8a, 3, 32}, false)
	k := stillEngine(f, Config{})
	f.Fuzz(func(t *testing.T, b []byte, marker bool) {
		if len(b) > packetSize {
			return
		}
		s := newStream(k.engine, k.loop, Options{Voice: 1, Tone: 440, Events: 101, Sound: true, Marker: marker}, -1, netip.AddrPort{})
		s.sink = k.sink("")
		for i := range 3 {
			k.hear(s, append([]byte(nil), b...), k.now+k.offset+int64(i)*int64(voice.FrameTime))
		}
		a := s.summary(account{s.ear.clone(), s.mouth, 0}).Audio
		if a.Voice > a.Received || a.Received+s.ear.foreign != 3 || a.Lost > a.Expected || a.Duplicate > a.Voice || a.First < 0 && a.Voice > 0 {
			t.Fatalf("%+v", a)
		}
	})
}
