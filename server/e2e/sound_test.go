package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// samples is sound: linear, at rate samples a second.
type samples struct {
	rate int
	at   []float64
}

func (s samples) seconds() float64 { return float64(len(s.at)) / float64(s.rate) }

// from returns the sound from a second on.
func (s samples) from(second float64) samples {
	return samples{s.rate, s.at[min(len(s.at), max(0, int(second*float64(s.rate)))):]}
}

// share is how much of the energy is at hz, 0 to 1 (Goertzel).
func share(at []float64, hz float64, rate int) float64 {
	c := 2 * math.Cos(2*math.Pi*hz/float64(rate))
	var s1, s2, energy float64
	for _, x := range at {
		energy += x * x
		s1, s2 = x+c*s1-s2, s1
	}
	if energy < 1000*float64(len(at)) { // silence: less than 32 of 32767
		return 0
	}
	return min(1, 2*(s1*s1+s2*s2-c*s1*s2)/(energy*float64(len(at))))
}

// tone is for how many seconds a tone was heard: windows of 100 ms with a share of it that
// noise and music do not have (0.15). Our own phone reaches 0.22: its stamp is the louder part.
func (s samples) tone(hz float64) float64 { return s.above(hz, 0.15) }

// clear is for how many seconds a tone was heard with next to nothing beside it, as it is
// after G.711 and is not when one law is taken for the other.
func (s samples) clear(hz float64) float64 { return s.above(hz, 0.95) }

func (s samples) above(hz, least float64) float64 {
	window := s.rate / 10
	heard := 0
	for from := 0; from+window <= len(s.at); from += window {
		if share(s.at[from:from+window], hz, s.rate) > least {
			heard++
		}
	}
	return float64(heard) / 10
}

// loud is for how many seconds there was anything but silence.
func (s samples) loud() float64 {
	window := s.rate / 10
	heard := 0
	for from := 0; from+window <= len(s.at); from += window {
		var energy float64
		for _, x := range s.at[from : from+window] {
			energy += x * x
		}
		if energy > 10000*float64(window) {
			heard++
		}
	}
	return float64(heard) / 10
}

// music is the hold music as the server has it.
var music = sync.OnceValues(func() (samples, error) { return readWav("../edge/media/audio/music.wav") })

// cutFrom says how many of the half seconds of a sound are cut from another: the best
// normalised correlation of a tenth of a second, over all places, is above 0.9.
func (s samples) cutFrom(whole samples) (cut, of int) {
	window := s.rate / 10
	ring := append(append([]float64(nil), whole.at...), whole.at[:window]...) // the music loops
	for from := 0; from+window <= len(s.at); from += s.rate / 2 {
		of++
		if correlation(s.at[from:from+window], ring) > 0.9 {
			cut++
		}
	}
	return cut, of
}

func correlation(piece, in []float64) (best float64) {
	var own float64
	for _, x := range piece {
		own += x * x
	}
	if own < 1000*float64(len(piece)) {
		return 0
	}
	var energy float64
	for i, x := range in {
		energy += x * x
		if i < len(piece) {
			continue
		}
		energy -= in[i-len(piece)] * in[i-len(piece)]
		var sum float64
		for j, y := range in[i-len(piece)+1 : i+1] {
			sum += piece[j] * y
		}
		if energy > 1 {
			best = max(best, sum/math.Sqrt(own*energy))
		}
	}
	return best
}

// hearsMusic fails the test unless a second at least of the hold music is in a sound.
func hearsMusic(t testing.TB, who string, s samples) {
	t.Helper()
	whole, err := music()
	if err != nil {
		t.Fatal(err)
	}
	if cut, of := s.cutFrom(whole); cut < 2 {
		t.Fatalf("%s heard music in %d of %d half seconds (%.1f s heard)", who, cut, of, s.seconds())
	}
}

// hearsTone fails the test unless a tone is in a sound for that many seconds.
func hearsTone(t testing.TB, who string, s samples, hz, seconds float64) {
	t.Helper()
	if heard := s.tone(hz); heard < seconds {
		t.Errorf("%s heard %.0f Hz for %.1f s of %.1f s, expected %.1f s", who, hz, heard, s.seconds(), seconds)
	}
}

// hearsClearly is hearsTone for phones that speak a pure tone.
func hearsClearly(t testing.TB, who string, s samples, hz, seconds float64) {
	t.Helper()
	if heard := s.clear(hz); heard < seconds {
		t.Errorf("%s heard %.0f Hz clearly for %.1f s, and at all for %.1f s of %.1f s, expected %.1f s", who, hz, heard, s.tone(hz), s.seconds(), seconds)
	}
}

// readWav reads a file of 16 bit samples, also one that is still being written: its
// header is believed for the rate only.
func readWav(name string) (samples, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return samples{}, err
	}
	if len(content) < 44 || string(content[:4]) != "RIFF" || binary.LittleEndian.Uint16(content[34:]) != 16 {
		return samples{rate: 8000}, nil // nothing written yet
	}
	s := samples{rate: int(binary.LittleEndian.Uint32(content[24:]))}
	step := 2 * int(binary.LittleEndian.Uint16(content[22:])) // the first of the tracks
	for i := 44; i+2 <= len(content); i += step {
		s.at = append(s.at, float64(int16(binary.LittleEndian.Uint16(content[i:]))))
	}
	return s, nil
}

// makeTone writes a tone of a minute to a file, for phones that speak from one.
func makeTone(t testing.TB, dir string, hz float64, rate int) string {
	t.Helper()
	name := filepath.Join(dir, fmt.Sprintf("tone-%.0f.wav", hz))
	content := make([]byte, 44, 44+2*60*rate)
	for i := range 60 * rate {
		content = binary.LittleEndian.AppendUint16(content, uint16(int16(9000*math.Sin(2*math.Pi*hz*float64(i)/float64(rate)))))
	}
	copy(content, "RIFF....WAVEfmt ")
	binary.LittleEndian.PutUint32(content[4:], uint32(len(content)-8))
	binary.LittleEndian.PutUint32(content[16:], 16)
	binary.LittleEndian.PutUint16(content[20:], 1)
	binary.LittleEndian.PutUint16(content[22:], 1)
	binary.LittleEndian.PutUint32(content[24:], uint32(rate))
	binary.LittleEndian.PutUint32(content[28:], uint32(2*rate))
	binary.LittleEndian.PutUint16(content[32:], 2)
	binary.LittleEndian.PutUint16(content[34:], 16)
	copy(content[36:], "data")
	binary.LittleEndian.PutUint32(content[40:], uint32(len(content)-44))
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The two laws of G.711, from the standard's formulas and not from the server's tables.

func expandULaw(u byte) float64 {
	u = ^u
	v := float64((int(u&0x0f)<<3+0x84)<<(u>>4&7) - 0x84)
	if u&0x80 != 0 {
		return -v
	}
	return v
}

func expandALaw(a byte) float64 {
	a ^= 0x55
	v := int(a&0x0f)<<4 + 8
	if e := a >> 4 & 7; e > 0 {
		v = (v + 0x100) << (e - 1)
	}
	if a&0x80 == 0 {
		return float64(-v)
	}
	return float64(v)
}

// compress finds the code whose value is nearest: slow, and right by definition.
func compress(v float64, expand func(byte) float64) (best byte) {
	least := math.Inf(1)
	for c := range 256 {
		if d := math.Abs(expand(byte(c)) - v); d < least {
			least, best = d, byte(c)
		}
	}
	return best
}

// The judge itself is judged by sox, which knows nothing of it.
func TestTheJudgeOfSound(t *testing.T) {
	sox := tool(t, "sox", "sox")
	dir := workdir(t, "sound")
	cook := func(name string, args ...string) samples {
		file := filepath.Join(dir, name+".wav")
		if out, err := exec.Command(sox, append([]string{"-R", "-n", "-r", "8000", "-c", "1", "-b", "16", file}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("sox: %v %s", err, out)
		}
		s, err := readWav(file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := cook("tone", "synth", "2", "sine", "700", "gain", "-12"); s.tone(700) < 1.9 || s.tone(1000) > 0 || s.loud() < 1.9 {
		t.Errorf("700 Hz: heard %.1f s of it, %.1f s of 1000 Hz", s.tone(700), s.tone(1000))
	}
	tone, confused := cook("tone", "synth", "2", "sine", "700", "gain", "-12"), samples{rate: 8000}
	for _, v := range tone.at {
		confused.at = append(confused.at, expandULaw(compress(v, expandALaw)))
	}
	if tone.clear(700) < 1.9 || confused.clear(700) > 0 {
		t.Errorf("700 Hz is clear for %.1f s, and for %.1f s when one law is taken for the other", tone.clear(700), confused.clear(700))
	}
	if s := cook("noise", "synth", "2", "whitenoise", "gain", "-12"); s.tone(700) > 0 || s.loud() < 1.9 {
		t.Errorf("noise is heard as 700 Hz for %.1f s", s.tone(700))
	}
	if s := cook("silence", "trim", "0", "2"); s.tone(700) > 0 || s.loud() > 0 {
		t.Error("silence is heard as sound")
	}
	whole, err := music()
	if err != nil {
		t.Fatal(err)
	}
	if whole.tone(callerTone)+whole.tone(agentTone) > 0.2 {
		t.Errorf("the music is heard as a phone: %.1f s and %.1f s", whole.tone(callerTone), whole.tone(agentTone))
	}
	part := samples{8000, nil}
	for _, v := range whole.from(7.123).at[:16000] {
		part.at = append(part.at, expandALaw(compress(v, expandALaw)))
	}
	if cut, of := part.cutFrom(whole); cut != of {
		t.Errorf("the music itself: %d of %d", cut, of)
	}
	if cut, _ := cook("other", "synth", "2", "pluck", "E3", "gain", "-6").cutFrom(whole); cut > 0 {
		t.Errorf("another sound is heard as the music: %d", cut)
	}
	if !strings.HasSuffix(makeTone(t, dir, 440, 8000), "tone-440.wav") {
		t.Error("name")
	}
	if s, err := readWav(filepath.Join(dir, "tone-440.wav")); err != nil || s.tone(440) < 59 {
		t.Errorf("%v: own tone", err)
	}
}

// listenFor returns what a phone has heard, as soon as a condition holds for it; after the
// deadline whatever there is, for the caller to judge.
func listenFor(heard func() samples, enough func(samples) bool) samples {
	s := heard()
	for end := time.Now().Add(patience); !enough(s) && time.Now().Before(end); s = heard() {
		time.Sleep(200 * time.Millisecond)
	}
	return s
}

// musicPlays waits until a party who remembers a second only hears nothing but the music.
func musicPlays(t testing.TB, who string, heard func() samples) {
	t.Helper()
	whole, err := music()
	if err != nil {
		t.Fatal(err)
	}
	s := listenFor(heard, func(s samples) bool { cut, of := s.cutFrom(whole); return of > 1 && cut == of })
	if cut, of := s.cutFrom(whole); of < 2 || cut < of {
		t.Fatalf("%s hears music in %d of %d half seconds", who, cut, of)
	}
}
