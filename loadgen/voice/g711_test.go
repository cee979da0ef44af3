package voice

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// ITU-T G.711 tables 1a to 2b: the decoder's output values, left-justified to 16 bits
// (A-law has 13 bits there, mu-law 14).
func TestCodesAreThoseOfG711(t *testing.T) {
	for _, c := range []struct {
		law    Law
		code   byte
		sample int16
	}{
		{ALaw, 0xd5, 1 << 3}, {ALaw, 0x55, -1 << 3}, {ALaw, 0xaa, 4032 << 3}, {ALaw, 0x2a, -4032 << 3},
		{ALaw, 0xd4, 3 << 3}, {ALaw, 0xc5, 33 << 3}, {ALaw, 0xf5, 66 << 3}, {ALaw, 0xe5, 132 << 3},
		{ULaw, 0xff, 0}, {ULaw, 0x80, 8031 << 2}, {ULaw, 0x00, -8031 << 2}, {ULaw, 0xfe, 2 << 2}, {ULaw, 0xef, 33 << 2}, {ULaw, 0xdf, 99 << 2}, {ULaw, 0xcf, 231 << 2},
	} {
		var got [1]int16
		if c.law.Decode(got[:], []byte{c.code}); got[0] != c.sample {
			t.Errorf("law %d code %#02x is %d, want %d", c.law, c.code, got[0], c.sample)
		}
	}
}

func TestEachCodeComesBack(t *testing.T) {
	for _, law := range []Law{ULaw, ALaw} {
		for c := range 256 {
			var s [1]int16
			var back [1]byte
			law.Decode(s[:], []byte{byte(c)})
			law.Encode(back[:], s[:])
			if back[0] != byte(c) && (law != ULaw || c != 0x7f) { // mu-law has two zeros
				t.Errorf("law %d: code %#02x decodes to %d, which encodes to %#02x", law, c, s[0], back[0])
			}
		}
	}
}

// No code of the law lies nearer to a sample than the chosen one, but for A-law's and
// mu-law's rule at the border between two steps.
func TestTheNearestCodeIsChosen(t *testing.T) {
	for _, law := range []Law{ULaw, ALaw} {
		var all [256]int16
		for c := range all {
			law.Decode(all[c:c+1], []byte{byte(c)})
		}
		for s := math.MinInt16; s <= math.MaxInt16; s += 7 {
			var code [1]byte
			law.Encode(code[:], []int16{int16(s)})
			got, best := math.Abs(float64(all[code[0]])-float64(s)), math.Inf(1)
			for _, v := range all {
				best = min(best, math.Abs(float64(v)-float64(s)))
			}
			// Where two segments meet the border is the lower segment's: half of its step.
			if got > best+4+math.Abs(float64(s))/64 {
				t.Fatalf("law %d: sample %d becomes %d, %v away; another code is %v away", law, s, all[code[0]], got, best)
			}
		}
	}
}

func TestRecodeIsDecodeAndEncode(t *testing.T) {
	for _, law := range []Law{ULaw, ALaw} {
		other := ULaw + ALaw - law
		codes, want, pcm := make([]byte, 256), make([]byte, 256), make([]int16, 256)
		for c := range codes {
			codes[c] = byte(c)
		}
		law.Decode(pcm, codes)
		other.Encode(want, pcm)
		if law.Recode(codes); string(codes) != string(want) {
			t.Errorf("law %d: % x, want % x", law, codes, want)
		}
	}
}

func TestPowerFindsTheTone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hz := float64(rapid.IntRange(15, 180).Draw(t, "hz/20")) * 20
		pcm, codes := make([]int16, 4000), make([]byte, 4000)
		Tone(pcm, hz, int16(rapid.IntRange(500, 30000).Draw(t, "amplitude")), rapid.Uint64Range(0, 1<<40).Draw(t, "position"))
		ULaw.Encode(codes, pcm)
		if p := Power(codes, hz); p < 0.95 {
			t.Fatalf("%v of the energy is at %v Hz", p, hz)
		}
		if p := Power(codes, hz+100); p > 0.05 {
			t.Fatalf("%v of the energy is at %v Hz, the tone is 100 Hz below", p, hz+100)
		}
	})
	if p := Power(make([]byte, 0), 440); p != 0 {
		t.Errorf("of nothing: %v", p)
	}
}

// A tone cut into frames is the tone.
func TestToneContinues(t *testing.T) {
	whole, cut := make([]int16, 8000), make([]int16, 0, 8000)
	Tone(whole, 437, 8000, 1<<33)
	for f := range 50 {
		frame := make([]int16, Frame)
		Tone(frame, 437, 8000, 1<<33+uint64(f*Frame))
		cut = append(cut, frame...)
	}
	for i := range whole {
		if whole[i] != cut[i] {
			t.Fatalf("sample %d is %d in a frame, %d in the whole", i, cut[i], whole[i])
		}
	}
}

func BenchmarkG711Encode(b *testing.B) {
	pcm, codes := make([]int16, Frame), make([]byte, Frame)
	Tone(pcm, 440, 8000, 0)
	b.ReportAllocs()
	for b.Loop() {
		ULaw.Encode(codes, pcm)
	}
}

func BenchmarkG711Decode(b *testing.B) {
	pcm, codes := make([]int16, Frame), make([]byte, Frame)
	b.ReportAllocs()
	for b.Loop() {
		ULaw.Decode(pcm, codes)
	}
}
