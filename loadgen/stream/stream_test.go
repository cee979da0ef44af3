package stream

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

const (
	callerVoice = 11
	agentVoice  = 12
)

func TestTwoHearEachOther(t *testing.T) {
	for _, c := range []struct {
		codec Codec
		addr  string
	}{{PCMU, "127.0.0.1"}, {PCMA, "127.0.0.1"}, {PCMU, "::1"}} {
		codec := c.codec
		t.Run(fmt.Sprintf("payload type %d on %s", codec, c.addr), func(t *testing.T) {
			if probe, err := net.ListenPacket("udp", net.JoinHostPort(c.addr, "0")); err != nil {
				t.Skip("no such address here: ", err)
			} else {
				probe.Close()
			}
			e := engine(t, Config{Addr: netip.MustParseAddr(c.addr)})
			caller := open(t, e, Options{Voice: callerVoice, Tone: 440, Label: "agent_hears", Sound: true})
			agent := open(t, e, Options{Voice: agentVoice, Tone: 880, Label: "caller_hears", Sound: true})
			if caller.Addr().Port()%2 != 0 || agent.Addr().Port()%2 != 0 {
				t.Errorf("ports %v and %v: RTP takes even ones (RFC 3550 s.11)", caller.Addr(), agent.Addr())
			}
			if h := caller.Heard(); h.Audio.First != measure.Never || h.FirstSent != measure.Never || h.Audio.MOS != 0 || h.Audio.Way != "" {
				t.Errorf("before anything was said: %+v", h)
			}
			talk(t, caller, agent.Addr(), codec)
			talk(t, agent, caller.Addr(), codec)
			for _, s := range []*Stream{caller, agent} {
				until(t, s, "a second of the other's voice", func(h Heard) bool { return h.Audio.Voice >= 52 })
			}
			said := map[*Stream]uint64{caller: hush(agent), agent: hush(caller)}
			for _, c := range []struct {
				s           *Stream
				other       uint64
				own, theirs float64
			}{{caller, agentVoice, 440, 880}, {agent, callerVoice, 880, 440}} {
				h := until(t, c.s, "all that was said", func(h Heard) bool { return h.Audio.Voice == said[c.s] })
				a := h.Audio
				if a.Received != a.Voice || a.Expected != a.Voice || a.Lost+a.Duplicate+a.Reordered != 0 || a.Way != "stamp" || a.LatencyN != a.Voice {
					t.Errorf("all came, once and in order, but: %+v", a)
				}
				if !reflect.DeepEqual(h.Voices, map[uint64]uint64{c.other: a.Voice}) || h.Foreign+h.OtherClock+h.Overrun != 0 {
					t.Errorf("%+v", h)
				}
				if a.First < 0 || h.FirstSent < 0 || a.LatencyMax < a.LatencyP99 || a.LatencyP99 < a.LatencyP50 || a.MouthToEar < 39_000 || a.MOS < 1 {
					t.Errorf("%+v", a)
				}
				if len(h.Sound) != voice.Rate || voice.Power(h.Sound, c.theirs) < 0.6 || voice.Power(h.Sound, c.own) > 0.1 {
					t.Errorf("%d bytes of sound, %.2f of it %v Hz", len(h.Sound), voice.Power(h.Sound, c.theirs), c.theirs)
				}
			}
			checkLatency(t, e.Latency("caller_hears"), said[agent], "agent's label")
			checkLatency(t, e.Latency("agent_hears"), said[caller], "caller's label")
			if l := e.Latency("nobody"); l.OneWay.TotalCount() != 0 || len(l.Seconds) != 0 {
				t.Errorf("a label that nobody has: %+v", l.Seconds)
			}
			p := e.Pacing()
			if n := said[caller] + said[agent]; p.Sent != n || p.Received != n || uint64(p.Lateness.TotalCount()) != n || uint64(p.ReadLag.TotalCount()) != n || p.CPU <= 0 {
				t.Errorf("%d packets, pacing %+v", n, p)
			}
		})
	}
}

// checkLatency compares the label of the streams that listen with what was said to them.
func checkLatency(t *testing.T, l Latency, n uint64, what string) {
	t.Helper()
	var inSeconds uint64
	for i, s := range l.Seconds {
		inSeconds += s.Count
		if i > 0 && s.At <= l.Seconds[i-1].At || s.P50 > s.P99 || s.P99 > s.Max {
			t.Errorf("%s: second %+v", what, s)
		}
	}
	if uint64(l.OneWay.TotalCount()) != n || inSeconds != n || len(l.Seconds) < 1 {
		t.Errorf("%s: %d packets, in the histogram %d, in the seconds %d", what, n, l.OneWay.TotalCount(), inSeconds)
	}
}

// What the path does is known packet by packet, so what is reported must equal it.
func TestLossCopiesAndOrderAreCountedExactly(t *testing.T) {
	e := engine(t, Config{})
	speaker, listener := open(t, e, Options{Voice: callerVoice}), open(t, e, Options{Voice: agentVoice})
	const last = 60
	var late, later []byte
	over := make(chan struct{})
	p := newPath(t, listener.Addr(), func(i uint32, b []byte) (out [][]byte) {
		switch {
		case i > last:
			return nil
		case i == 5, i == 6, i == 20: // lost
			return nil
		case i == 8: // twice
			return [][]byte{b, b}
		case i == 9: // three times, the last after its successor
			late = b
			return [][]byte{b, b}
		case i == 12, i == 30: // held up
			late, later = b, late
			if i == 12 {
				return [][]byte{later}
			}
			return nil
		case i == 14, i == 31:
			return [][]byte{b, late}
		case i == last:
			close(over)
		}
		return [][]byte{b}
	})
	talk(t, listener, p.at, PCMU)
	listener.Mute(true)
	talk(t, speaker, p.at, PCMU)
	<-over
	h := until(t, listener, "the last", func(h Heard) bool { return h.Audio.Expected == last+1 })
	a := h.Audio
	if a.Lost != 3 || a.Duplicate != 3 || a.Reordered != 2 || a.Voice != last+1-3+3 || a.Received != a.Voice {
		t.Errorf("3 lost, 3 copies, 2 out of order, but: %+v", a)
	}
	if want := voice.MOS(voice.R(time.Duration(a.MouthToEar)*time.Microsecond, float64(3+a.Late)/(last+1), 1, voice.G711PLC)); a.Late == 0 && a.MOS > want+1e-9 {
		t.Errorf("MOS %v, with 3 of 61 lost at random %v", a.MOS, want)
	}
}

// The stamps are moved, so that each packet seems to have been under way for so long.
func TestLatencyIsWhatThePathAdds(t *testing.T) {
	e := engine(t, Config{})
	speaker, listener := open(t, e, Options{Voice: callerVoice}), open(t, e, Options{Voice: agentVoice, Label: "x"})
	const step = 10 * time.Second // nothing that really happens here takes so long
	p := newPath(t, listener.Addr(), func(i uint32, b []byte) [][]byte {
		sent := int64(binary.BigEndian.Uint64(b[12+24:]) ^ ^uint64(0))
		binary.BigEndian.PutUint64(b[12+24:], uint64(sent-int64(step)*int64(1+i%3))^^uint64(0))
		return [][]byte{b}
	})
	talk(t, listener, p.at, PCMU)
	listener.Mute(true)
	talk(t, speaker, p.at, PCMU)
	a := until(t, listener, "30 packets", func(h Heard) bool { return h.Audio.Voice >= 30 }).Audio
	for what, got := range map[string][2]measure.Micros{"p50": {a.LatencyP50, 20e6}, "p99": {a.LatencyP99, 30e6}, "max": {a.LatencyMax, 30e6}} {
		if got[0] < got[1]*98/100 || got[0] > got[1]+5e6 {
			t.Errorf("%s is %d us, the path adds %d", what, got[0], got[1])
		}
	}
	if l := e.Latency("x").OneWay; l.ValueAtQuantile(50) < 20e6 || l.Min() < 9.9e6 {
		t.Errorf("shared histogram: p50 %d us, least %d", l.ValueAtQuantile(50), l.Min())
	}
}

func TestStampOfAnotherClockIsCountedAndNotUsed(t *testing.T) {
	e := engine(t, Config{})
	speaker, listener := open(t, e, Options{Voice: callerVoice}), open(t, e, Options{Voice: agentVoice})
	p := newPath(t, listener.Addr(), func(i uint32, b []byte) [][]byte {
		switch i % 3 {
		case 0:
			b[12+32]++ // the clock's id
		case 1:
			b[12+24] ^= 0x40 // sent in the far future: this clock was set back
		}
		return [][]byte{b}
	})
	talk(t, listener, p.at, PCMU)
	listener.Mute(true)
	talk(t, speaker, p.at, PCMU)
	h := until(t, listener, "30 packets", func(h Heard) bool { return h.Audio.Voice >= 30 })
	if n := h.Audio.LatencyN; h.OtherClock+n != h.Audio.Voice || n < 9 || n > h.Audio.Voice/3+1 || h.Audio.LatencyMax > 20e6 {
		t.Errorf("every third stamp is usable, but: %+v", h)
	}
}

func TestStrangersAndGarbageChangeNothing(t *testing.T) {
	e := engine(t, Config{})
	speaker, listener := open(t, e, Options{Voice: callerVoice, Sound: true}), open(t, e, Options{Voice: agentVoice})
	stranger, _ := plain(t)
	garbage := [][]byte{{}, {0x80}, make([]byte, 12), []byte("OPTIONS sip:x SIP/2.0\r\n"), {0x81, 0xc8, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8}, // RTCP SR
		append([]byte{0x80, 0xc8, 0, 6}, make([]byte, 24)...), // RTCP SR that could be RTP
		append([]byte{0xbf, 0, 0, 1}, make([]byte, 20)...),    // 15 CSRC that are not there
	}
	p := newPath(t, listener.Addr(), func(i uint32, b []byte) [][]byte {
		_, _ = stranger.WriteToUDPAddrPort(b, listener.Addr()) // the same from another address
		out := [][]byte{b}
		if i < uint32(len(garbage)) {
			out = append(out, garbage[i])
		}
		if i == 10 { // audio without a stamp: music
			out = append(out, append(append([]byte(nil), b[:12]...), make([]byte, Frame)...))
		}
		if i == 11 { // the listener's own voice comes back: an echo
			echo := append([]byte(nil), b...)
			st, _ := readStamp(echo[12:])
			st.voice = agentVoice
			st.put(echo[12:])
			out = append(out, echo)
		}
		return out
	})
	talk(t, listener, p.at, PCMU)
	listener.Mute(true)
	talk(t, speaker, p.at, PCMU)
	until(t, listener, "30 packets", func(h Heard) bool { return h.Audio.Voice >= 30 })
	said := hush(speaker)
	h := until(t, listener, "all", func(h Heard) bool { return h.Audio.Voice == said })
	a := h.Audio
	if h.Foreign != uint64(len(garbage)) || a.Received != said+2 || a.Lost+a.Duplicate+a.Reordered != 0 || len(h.Voices) != 1 {
		t.Errorf("%d said; %+v", said, h)
	}
}

// Before Talk anybody may speak: early media. AnySource keeps it so.
func TestWhoIsHeardBeforeAndAfterTalk(t *testing.T) {
	e := engine(t, Config{})
	for _, anySource := range []bool{false, true} {
		listener := open(t, e, Options{Voice: agentVoice, AnySource: anySource})
		early := open(t, e, Options{Voice: 21})
		talk(t, early, listener.Addr(), PCMU)
		until(t, listener, "early media", func(h Heard) bool { return h.Voices[21] >= 3 })
		remote := open(t, e, Options{Voice: 22})
		talk(t, listener, remote.Addr(), PCMU)
		talk(t, remote, listener.Addr(), PCMU)
		listener.Forget()
		until(t, remote, "the listener", func(h Heard) bool { return h.Voices[agentVoice] >= 3 })
		h := until(t, listener, "the remote", func(h Heard) bool { return h.Voices[22] >= 20 })
		if anySource != (h.Voices[21] >= 10) || !anySource && h.Voices[21] > 2 { // what had come before is still read
			t.Errorf("any source %v: heard %v", anySource, h.Voices)
		}
		// To another remote: the voice runs on.
		next := open(t, e, Options{Voice: 23})
		talk(t, listener, next.Addr(), PCMA)
		if h := until(t, next, "the listener", func(h Heard) bool { return h.Audio.Voice >= 3 }); h.Audio.Lost+h.Audio.Duplicate != 0 {
			t.Errorf("after a change of the remote: %+v", h.Audio)
		}
	}
}

// RFC 3550 s.5.1, RFC 3551 s.4.1: what is on the wire, across both wrap-arounds and a pause.
func TestPacketsOnTheWire(t *testing.T) {
	e := engine(t, Config{})
	conn, at := plain(t)
	s := open(t, e, Options{Voice: callerVoice, Tone: 1000})
	s.loop.ask(func() { s.mouth.sequence, s.mouth.timestamp = 65530, 1<<32-10*Frame })
	talk(t, s, at, PCMU)
	before := capture(t, conn, func(got []rtp.Packet) bool { return len(got) == 15 })
	s.loop.ask(func() { // two seconds of silence
		s.mouth.muted = true
		if _, speaks := s.mouth.frame(); speaks {
			t.Error("speaks while it is muted")
		}
		s.mouth.muted = false
		s.mouth.position += 99
	})
	after := capture(t, conn, func(got []rtp.Packet) bool { return len(got) > 0 && got[len(got)-1].Marker })
	all := append(before, after...)
	first := all[0].Header
	for i, p := range all {
		st, ok := readStamp(p.Payload)
		if p.Version != 2 || p.PayloadType != 0 || p.SSRC != first.SSRC || len(p.Payload) != Frame || !ok || st.voice != callerVoice {
			t.Fatalf("packet %d: %+v", i, p.Header)
		}
		if p.SequenceNumber != uint16(65530+i) || st.index != uint32(i) {
			t.Errorf("packet %d: sequence %d, index %d", i, p.SequenceNumber, st.index)
		}
		if p.Timestamp != first.Timestamp+st.position*Frame {
			t.Errorf("packet %d at position %d: timestamp %d", i, st.position, p.Timestamp)
		}
		if begins := i == 0 || i == len(all)-1; p.Marker != begins || !begins && st.position != uint32(i) {
			t.Errorf("packet %d: marker %v, position %d", i, p.Marker, st.position)
		}
	}
	if st, _ := readStamp(all[len(all)-1].Payload); st.position < uint32(len(all)-1+100) {
		t.Errorf("after the pause at position %d", st.position)
	}
}

// RFC 4733 s.2.5: one timestamp, growing duration, marker on the first, three ends.
func TestDigits(t *testing.T) {
	e := engine(t, Config{})
	conn, at := plain(t)
	s := open(t, e, Options{Voice: callerVoice, Events: 97})
	for _, bad := range []error{s.SendDigit('x', 100*time.Millisecond), s.SendDigit('1', time.Millisecond), s.SendDigit('1', time.Hour)} {
		if bad == nil {
			t.Error("a digit that is none was taken")
		}
	}
	if err := s.SendDigit('#', 90*time.Millisecond); err != nil { // 5 frames
		t.Fatal(err)
	}
	talk(t, s, at, PCMU)
	got := capture(t, conn, func(got []rtp.Packet) bool { return len(got) == 8 })
	durations := []uint16{160, 320, 480, 640, 800, 800, 800}
	for i, p := range got[:7] {
		end := i >= 4
		if p.PayloadType != 97 || p.Timestamp != got[0].Timestamp || p.Marker != (i == 0) || p.SequenceNumber != got[0].SequenceNumber+uint16(i) || len(p.Payload) != 4 {
			t.Fatalf("packet %d: %+v", i, p.Header)
		}
		if p.Payload[0] != 11 || p.Payload[1] != byte(keyVolume)|map[bool]byte{true: 0x80}[end] || binary.BigEndian.Uint16(p.Payload[2:]) != durations[i] {
			t.Errorf("packet %d: % x", i, p.Payload)
		}
	}
	if p := got[7]; p.PayloadType != 0 || !p.Marker || p.Timestamp != got[0].Timestamp+7*Frame {
		t.Errorf("the voice after the digit: %+v", p.Header)
	}
	listener := open(t, e, Options{Voice: agentVoice, Events: 97})
	talk(t, s, listener.Addr(), PCMU)
	for _, digit := range []byte("1100*D") {
		if err := s.SendDigit(digit, 40*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	h := until(t, listener, "six digits", func(h Heard) bool { return len(h.Digits) == 6 })
	if h.Digits != "1100*D" || h.Audio.Lost != 0 {
		t.Errorf("heard digits %q, %+v", h.Digits, h.Audio)
	}
	s.loop.ask(func() {
		for range len(s.mouth.keys) - s.mouth.count {
			if err := s.mouth.press(1, 2); err != nil {
				t.Error(err)
			}
		}
		if s.mouth.press(1, 2) == nil {
			t.Error("a 33rd digit was taken")
		}
	})
}

// A path that changes the bytes: A-law becomes u-law on the way, so the stamp is gone.
func TestMarkersTellThroughTranscoding(t *testing.T) {
	e := engine(t, Config{})
	speaker := open(t, e, Options{Voice: 0x10000 + callerVoice, Marker: true, Tone: 300})
	listener := open(t, e, Options{Voice: 0x20000 + agentVoice, Marker: true, Label: "x"})
	s := speaker
	s.loop.ask(func() { s.mouth.sequence, s.mouth.timestamp = 65500, 1<<32-20*Frame }) // both wrap soon
	var n uint32
	p := newPath(t, listener.Addr(), func(_ uint32, b []byte) [][]byte {
		n++
		voice.ALaw.Recode(b[12:])
		b[1] = b[1]&0x80 | byte(PCMU)
		if n == 150 { // after the wrap-around, one that is lost
			return nil
		}
		return [][]byte{b}
	})
	talk(t, listener, p.at, PCMU)
	listener.Mute(true)
	talk(t, speaker, p.at, PCMA)
	h := until(t, listener, "three markers", func(h Heard) bool { return h.Audio.LatencyN >= 3 && h.Audio.Expected > 150 })
	a := h.Audio
	if a.Way != "marker" || a.Lost != 1 || a.Duplicate+a.Reordered != 0 || h.Voices[callerVoice] < 3 || len(h.Voices) != 1 {
		t.Errorf("%+v", h)
	}
	p99 := measure.Micros(e.Pacing().Lateness.ValueAtQuantile(100))
	if a.LatencyP50 > p99+200_000 || a.MouthToEar < a.LatencyP50+20_000 { // by its schedule, so lateness is in it
		t.Errorf("marker latency p50 %d us, mouth to ear %d; packets left up to %d us late", a.LatencyP50, a.MouthToEar, p99)
	}
}

func TestCloseFreesEverything(t *testing.T) {
	files, processors := openFiles(t), runtime.GOMAXPROCS(0)
	e, err := New(Config{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	idle := openFiles(t)
	var streams []*Stream
	for i := range 40 {
		streams = append(streams, open(t, e, Options{Voice: uint64(i + 1)}))
	}
	for i, s := range streams {
		talk(t, s, streams[i^1].Addr(), PCMU)
	}
	until(t, streams[39], "the other", func(h Heard) bool { return h.Audio.Voice > 0 })
	var all sync.WaitGroup
	for _, s := range streams[:20] {
		for range 2 { // at once
			all.Go(func() { s.Close() })
		}
		all.Go(func() { s.Heard(); s.Forget(); s.Mute(true) })
	}
	all.Wait()
	if n := openFiles(t); n != idle+20 {
		t.Errorf("%d files are open after 20 of 40 streams were closed, %d with none", n, idle)
	}
	h := streams[20].Heard().Audio
	e.Close()
	e.Close()
	if n := openFiles(t); n != files {
		t.Errorf("%d files are open, %d before", n, files)
	}
	if n := runtime.GOMAXPROCS(0); n != processors {
		t.Errorf("GOMAXPROCS is %d, was %d", n, processors)
	}
	s := streams[20]
	if after := s.Heard().Audio; after.Voice < h.Voice || !reflect.DeepEqual(s.Close(), s.Heard()) {
		t.Errorf("after the engine's end: %+v, before %+v", after, h)
	}
	if e.Pacing().Sent == 0 || e.Latency("").OneWay.TotalCount() == 0 {
		t.Error("what the engine has measured is gone with it")
	}
	s.Mute(true)
	s.Forget()
	if _, err := e.Open(Options{Voice: 1}); err == nil {
		t.Error("a closed engine opens streams")
	}
	if s.Talk(netip.MustParseAddrPort("127.0.0.1:4000"), PCMU) == nil || s.SendDigit('1', time.Second) == nil {
		t.Error("a closed stream talks")
	}
}

func TestWhatIsRefused(t *testing.T) {
	for _, cfg := range []Config{
		{Threads: -1}, {Threads: 1000}, {Buffer: -1}, {Buffer: time.Hour}, {Addr: netip.MustParseAddr("192.0.2.1")},
		{Network: Network{Delay: -1}}, {Network: Network{Delay: time.Hour}}, {Network: Network{Jitter: 1}}, {Network: Network{Loss: 1.1}}, {Network: Network{Loss: -0.1}},
	} {
		e, err := New(cfg)
		if err == nil {
			_, err = e.Open(Options{})
			e.Close()
		}
		if err == nil {
			t.Errorf("taken: %+v", cfg)
		}
	}
	e := engine(t, Config{})
	for _, o := range []Options{{Tone: -1}, {Tone: 4000}, {Events: 8}, {Events: 200}} {
		if _, err := e.Open(o); err == nil {
			t.Errorf("taken: %+v", o)
		}
	}
	s := open(t, e, Options{})
	for _, to := range []string{"[::1]:4000", "127.0.0.1:0"} {
		if s.Talk(netip.MustParseAddrPort(to), PCMU) == nil {
			t.Errorf("talks to %s", to)
		}
	}
	if s.Talk(netip.AddrPort{}, PCMU) == nil || s.Talk(netip.MustParseAddrPort("127.0.0.1:4000"), 3) == nil {
		t.Error("talks to nobody, or GSM")
	}
}
