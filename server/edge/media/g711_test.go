package media

import (
	"hash/fnv"
	"math"
	"testing"
)

// ITU-T G.711 tables 1a, 2a: output values, left-justified to 16 bits as in G.191.
func TestG711KnownValues(t *testing.T) {
	for _, c := range []struct {
		code   byte
		sample int16
	}{{0x00, -32124}, {0x80, 32124}, {0xff, 0}, {0x7f, 0}, {0xfe, 8}, {0x7e, -8}, {0xef, 132}, {0x8f, 16764}, {0x0f, -16764}, {0xf0, 120}} {
		if got := ulawSample[c.code]; got != c.sample {
			t.Errorf("mu-law %#02x: %d, want %d", c.code, got, c.sample)
		}
	}
	for _, c := range []struct {
		code   byte
		sample int16
	}{{0x2a, -32256}, {0xaa, 32256}, {0xd5, 8}, {0x55, -8}, {0xd4, 24}, {0xc5, 264}, {0xff, 848}, {0x7f, -848}, {0x80, 5504}} {
		if got := alawSample[c.code]; got != c.sample {
			t.Errorf("A-law %#02x: %d, want %d", c.code, got, c.sample)
		}
	}
}

// Hashes (FNV-1a) over all codes and all 65536 samples, made with an independent
// implementation (Sun's g711.c as CPython carries it). Its mu-law encoder treats negative
// decision values in the other of the two usual ways, so that one is checked by
// TestG711HalfStep.
func TestG711WholeTables(t *testing.T) {
	u, a, enc := fnv.New64a(), fnv.New64a(), fnv.New64a()
	for i := range 256 {
		_, _ = u.Write([]byte{byte(ulawSample[i]), byte(uint16(ulawSample[i]) >> 8)})
		_, _ = a.Write([]byte{byte(alawSample[i]), byte(uint16(alawSample[i]) >> 8)})
	}
	for s := math.MinInt16; s <= math.MaxInt16; s++ {
		_, _ = enc.Write([]byte{alawEncode(int16(s))})
	}
	for name, pair := range map[string][2]uint64{
		"mu-law decode": {u.Sum64(), 0xb91e65d68481a1a8},
		"A-law decode":  {a.Sum64(), 0x693a40ca62a3d2a5},
		"A-law encode":  {enc.Sum64(), 0xf030666eb780cf25},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: table hash %#x, want %#x", name, pair[0], pair[1])
		}
	}
}

// G.711 tables 1 and 2: every sample is at most half a step from its code's value (plus
// the 4 or 16 units that 14 or 13 bits cannot tell apart), the code does not fall while
// the sample rises, and every code survives a round trip.
func TestG711HalfStep(t *testing.T) {
	for _, c := range []struct {
		name   string
		encode func(int16) byte
		values *[256]int16
		blind  int
		least  int // half a step of the first segment
	}{{"mu-law", ulawEncode, ulawSample, 4, 4}, {"A-law", alawEncode, alawSample, 16, 8}} {
		last := int16(math.MinInt16)
		for s := -32000; s <= 32000; s++ {
			v := c.values[c.encode(int16(s))]
			half := max(c.least, (max(int(v), -int(v))+132)/32) // steps grow with the value
			if distance(s, v) > half+c.blind {
				t.Fatalf("%s of %d: code of %d, half a step is %d", c.name, s, v, half)
			}
			if v < last {
				t.Fatalf("%s of %d: code of %d after one of %d", c.name, s, v, last)
			}
			last = v
		}
		for code, v := range c.values {
			if back := c.values[c.encode(v)]; back != v {
				t.Errorf("%s code %#02x: %d comes back as %d", c.name, code, v, back)
			}
		}
	}
}

func distance(s int, v int16) int {
	if d := s - int(v); d >= 0 {
		return d
	}
	return int(v) - s
}

// Recoding to the other law and back changes a sample by less than a step of either.
func TestG711Recode(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	a, u := make([]byte, 256), make([]byte, 256)
	recode(a, all, ulaw)
	recode(u, a, alaw)
	for i := range all {
		v, w := int(ulawSample[all[i]]), ulawSample[u[i]]
		if d := distance(v, w); d > 16+max(v, -v)/16 {
			t.Errorf("mu-law %#02x (%d) comes back as %d", i, v, w)
		}
	}
	if ulawToAlaw[ulawSilence]&0x7f != alawSilence&0x7f || alawToUlaw[alawSilence]&0x7f < 0x7e {
		t.Errorf("silence is not kept: %#02x %#02x", ulawToAlaw[ulawSilence], alawToUlaw[alawSilence])
	}
}

func BenchmarkRecode(b *testing.B) {
	src, dst := make([]byte, frameSamples), make([]byte, frameSamples)
	for b.Loop() {
		recode(dst, src, ulaw)
	}
}

func BenchmarkPlaybackFrame(b *testing.B) {
	s, dst := newSound(make([]int16, 8000)), make([]byte, frameSamples)
	at := 0
	for b.Loop() {
		s.frame(dst, at, alaw, true)
		at = (at + frameSamples) % 8000
	}
}
