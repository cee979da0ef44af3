package media

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

func write(t testing.TB, dir, name string, wav []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), wav, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file is heard as it is, to its end, at its pace, in both laws.
func TestPlaybackByContent(t *testing.T) {
	dir := t.TempDir()
	tone := sine(997, 8000, 2500) // 312.5 ms: 16 frames, no two alike
	write(t, dir, "tone.wav", wavFile(wavPCM, 1, 8000, 16, pcm(tone)))
	r := newRig(t, func(c *Config) { c.Dir = dir })
	for i, codec := range []core.Codec{pcmu, pcma} {
		p := r.phone(legID(i), codec)
		began := time.Now()
		p.hears(core.Source{Kind: core.Playback, File: "tone", Play: 5})
		if done := await(t, r.inbox, doneLeg, p.leg); done.Play != 5 {
			t.Errorf("done %d", done.Play)
		}
		took := time.Since(began)
		got := p.flush()
		mustBeFrames(t, p, got, newSound(tone), false)
		if took < 295*time.Millisecond || !got[0].Marker {
			t.Errorf("16 frames within %v, marker %v", took, got[0].Marker)
		}
		p.set(func(*core.MediaSpec) {}) // the same once more changes nothing
		if extra := p.next(60 * time.Millisecond); extra != nil {
			t.Errorf("after the end: %v", extra.Header)
		}
		p.hears(core.Source{Kind: core.Playback, File: "tone", Play: 6})
		p.listenFor(1)
	}
}

// mustBeFrames fails unless each packet holds the frame of the sound that its timestamp
// says; behind the end there is silence, or the beginning again. On a busy machine a few frames may be left out.
func mustBeFrames(t *testing.T, p *phone, got []*rtp.Packet, s *sound, loop bool) {
	t.Helper()
	all := (len(s.ulaw) + frameSamples - 1) / frameSamples
	if !loop && (len(got) > all || len(got) < all/2) {
		t.Fatalf("%d frames, want %d", len(got), all)
	}
	is := func(packet *rtp.Packet, n int) bool {
		want := make([]byte, frameSamples)
		if n >= all && !loop {
			return false
		}
		s.frame(want, n*frameSamples%len(s.ulaw), lawOf(p.codec.Name), loop)
		return bytes.Equal(packet.Payload, want)
	}
	first := 0
	for first < 16 && !is(got[0], first) {
		first++
	}
	for i, packet := range got {
		if n := first + int(packet.Timestamp-got[0].Timestamp)/frameSamples; !is(packet, n) || packet.SequenceNumber != got[0].SequenceNumber+uint16(i) {
			t.Fatalf("packet %d is not frame %d of %d", i, n, all)
		}
	}
}

// A loop has no seam and no end, and a new number begins anew.
func TestPlaybackLoops(t *testing.T) {
	dir := t.TempDir()
	tone := sine(320, 8000, 400) // 2.5 frames, 16 periods of 25 samples
	write(t, dir, "loop.wav", wavFile(wavPCM, 1, 8000, 16, pcm(tone)))
	r := newRig(t, func(c *Config) { c.Dir = dir })
	p := r.phone(legID(1), pcmu)
	p.hears(core.Source{Kind: core.Playback, File: "loop", Loop: true, Play: 1})
	mustBeFrames(t, p, p.listenFor(20), newSound(tone), true)
	if n := r.inbox.count(func(ev core.Event) bool { _, done := ev.(core.PlaybackDone); return done }); n != 0 {
		t.Errorf("a loop has ended")
	}
}

// The frames of a playback are due at fixed instants: no drift, whatever one tick's lag.
// Whoever reads late sees a packet late and never early, so the earliest of many tells.
func TestPlaybackKeepsTime(t *testing.T) {
	r := newRig(t, nil)
	p := r.phone(legID(1), pcmu)
	p.hears(core.Source{Kind: core.Playback, File: "music", Loop: true, Play: 1})
	began := time.Now()
	var first uint32
	var lag [3]time.Duration // the least of each third, against the timestamps
	for i := range 75 {
		packet := p.listenFor(1)[0]
		if i == 0 {
			first = packet.Timestamp
		}
		if d := packet.Timestamp - first; d%160 != 0 || d < uint32(i)*160 {
			t.Fatalf("packet %d: timestamp went on by %d", i, d)
		}
		late := time.Since(began) - time.Duration(packet.Timestamp-first)*time.Second/8000
		if least := &lag[i/25]; i%25 == 0 || late < *least {
			*least = late
		}
	}
	if d := lag[2] - lag[0]; d < -25*time.Millisecond || d > 25*time.Millisecond {
		t.Errorf("drifted by %v in a second", d)
	}
}

// The first leg after a quiet time, opened and set in one burst, hears its file whole.
func TestPlaybackAtOnce(t *testing.T) {
	r := newRig(t, nil)
	began := time.Now()
	until(t, "a quiet time", func() bool { return time.Since(began) > 200*time.Millisecond })
	began = time.Now()
	r.Do(core.OpenMedia{Leg: legID(1)})
	r.Do(core.SetMedia{Leg: legID(1), Spec: core.MediaSpec{Hear: core.Source{Kind: core.Playback, File: "beep", Play: 1}}})
	await(t, r.inbox, doneLeg, legID(1))
	if d := time.Since(began); d < 395*time.Millisecond {
		t.Errorf("400 ms are over after %v", d)
	}
}

// The wheel in virtual time: frame n is due at tick begin+10n for ever.
func TestWheelWithoutDrift(t *testing.T) {
	r := newRig(t, nil)
	r.Close() // its loop's thread is gone; the loop is ours
	l := r.loops[0]
	g := newLeg("int_x/1", 0, -1, -1)
	g.spec.Codec, g.law = g722, foreign // counted, not sent
	l.ticked = 100
	l.startPlayback(g, core.Source{Play: 3}, newSound(make([]int16, 160*10)))
	if g.play.begin != 101 {
		t.Fatalf("begins at tick %d, the next one is 101", g.play.begin)
	}
	for n := range int64(10) {
		l.now = (101 + 10*n) * int64(tick)
		if n != 4 && n != 5 { // late, but not too late
			l.beat()
		}
		if g.play.sound == nil {
			t.Fatalf("over at frame %d", n)
		}
	}
	l.now = 201*int64(tick) - 1
	l.beat()
	if g.play.sound == nil {
		t.Fatal("over a tick early")
	}
	l.now++
	l.beat()
	if g.play.sound != nil {
		t.Fatal("not over in time")
	}
	// Many that begin together spread over the wheel.
	s := newSound(make([]int16, 8000))
	for range 100 {
		l.startPlayback(newLeg("int_x/2", 0, -1, -1), core.Source{}, s)
	}
	for slot, legs := range l.wheel {
		if len(legs) != 10 {
			t.Errorf("slot %d plays %d of 100", slot, len(legs))
		}
	}
}

// A leg with a codec that we do not speak hears nothing, and the end comes in time.
func TestPlaybackWithoutG711(t *testing.T) {
	r := newRig(t, nil)
	p := r.phone(legID(1), g722)
	began := time.Now()
	p.hears(core.Source{Kind: core.Playback, File: "beep", Play: 9}) // 400 ms
	await(t, r.inbox, doneLeg, p.leg)
	if d := time.Since(began); d < 390*time.Millisecond || d > 5*time.Second {
		t.Errorf("done after %v", d)
	}
	if got := p.next(30 * time.Millisecond); got != nil {
		t.Errorf("sent %v", got.Header)
	}
}

// A file that is not there is over at once; looped, it is silence.
func TestPlaybackMissing(t *testing.T) {
	r := newRig(t, nil)
	p := r.phone(legID(1), pcmu)
	for i, name := range []string{"no-such", "../media/audio/beep", "beep.wav", ""} {
		p.hears(core.Source{Kind: core.Playback, File: name, Play: uint32(i)})
		if done := await(t, r.inbox, doneLeg, p.leg); done.Play != uint32(i) {
			t.Errorf("%q: done %d", name, done.Play)
		}
	}
	p.hears(core.Source{Kind: core.Playback, File: "no-such", Loop: true, Play: 99})
	if got := p.next(50 * time.Millisecond); got != nil {
		t.Errorf("sent %v", got.Header)
	}
	if n := r.inbox.count(func(ev core.Event) bool { _, done := ev.(core.PlaybackDone); return done }); n != 0 {
		t.Errorf("a missing loop has ended")
	}
}

// The operator's files go before the built-in ones, are seen when they change, and a
// broken one leaves the built-in sound in place.
func TestLibrary(t *testing.T) {
	dir := t.TempDir()
	b, err := newLibrary(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	own := b.find("beep")
	if own == nil || b.find("mine") != nil {
		t.Fatal("built-in sounds")
	}
	write(t, dir, "beep.wav", wavFile(wavPCM, 1, 8000, 16, pcm(make([]int16, 500))))
	write(t, dir, "mine.wav", wavFile(wavUlaw, 1, 8000, 8, make([]byte, 300)))
	write(t, dir, "broken.wav", []byte("RIFF"))
	write(t, dir, "music.wav", []byte("not a sound"))
	write(t, dir, "README", []byte("text"))
	b.look()
	if s := b.find("beep"); s == nil || len(s.ulaw) != 500 {
		t.Error("the operator's file does not go first")
	}
	if s := b.find("mine"); s == nil || len(s.alaw) != 300 {
		t.Error("the operator's file is not found")
	}
	if b.find("broken") != nil || b.find("README") != nil || b.find("music") == nil {
		t.Error("broken files")
	}
	same := b.find("mine")
	b.look()
	if b.find("mine") != same {
		t.Error("an unchanged file was read again")
	}
	if err := os.Remove(filepath.Join(dir, "beep.wav")); err != nil {
		t.Fatal(err)
	}
	b.look()
	if b.find("beep") != own {
		t.Error("the built-in sound does not come back")
	}
}

// The built-in sounds are there, audible, small and as long as they should be.
func TestBuiltInSounds(t *testing.T) {
	want := []string{"all-busy", "beep", "music", "nobody", "welcome"}
	if got := Sounds(); !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	total := 0
	for _, name := range want {
		raw, err := builtIn.ReadFile("audio/" + name + ".wav")
		if err != nil {
			t.Fatal(err)
		}
		total += len(raw)
		samples, err := decodeWAV(raw)
		if err != nil {
			t.Fatal(err)
		}
		var power float64
		for _, v := range samples {
			power += float64(v) * float64(v)
		}
		if power /= float64(len(samples)); power < 1e5 {
			t.Errorf("%s is nearly silent", name)
		}
		if name == "music" && len(samples) != 20*8000 {
			t.Errorf("music of %d samples", len(samples))
		}
	}
	if total > 600_000 {
		t.Errorf("%d bytes in all", total)
	}
}
