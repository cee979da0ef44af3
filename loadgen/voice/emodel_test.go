package voice

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// ITU-T G.107 annex B, table B.1 (which has 4.03 where its formula gives 4.024), and the
// default rating of G.107 with its score.
func TestScoreIsThatOfTableB1(t *testing.T) {
	for _, c := range []struct{ r, mos float64 }{
		{93.2, 4.41}, {90, 4.34}, {80, 4.03}, {70, 3.60}, {60, 3.10}, {50, 2.58},
		{100, 4.5}, {120, 4.5}, {0, 1}, {-30, 1},
	} {
		if got := MOS(c.r); math.Abs(got-c.mos) > 0.007 {
			t.Errorf("MOS(%v) = %.4f, table B.1 says %v", c.r, got, c.mos)
		}
	}
}

// ITU-T G.113 (1999) table I.3: Ie of G.711 with concealment under random loss, from
// listening tests; the formula with Bpl 25.1 was fitted to them later.
func TestLossImpairmentIsNearTheListeningTests(t *testing.T) {
	for _, c := range []struct{ percent, ie float64 }{
		{0, 0}, {1, 5}, {2, 7}, {3, 10}, {5, 15}, {7, 20}, {10, 25}, {15, 35}, {20, 45},
	} {
		if got := 93.2 - R(0, c.percent/100, 1, G711PLC); math.Abs(got-c.ie) > 3 {
			t.Errorf("Ie,eff at %v%% loss = %.2f, G.113 has %v", c.percent, got, c.ie)
		}
	}
}

func TestRatingByHand(t *testing.T) {
	for _, c := range []struct {
		delay       time.Duration
		loss, burst float64
		codec       Codec
		want        float64
	}{
		{0, 0, 1, G711PLC, 93.2},
		{60 * time.Millisecond, 0, 1, G711PLC, 93.2 - 1.44},
		{150 * time.Millisecond, 0, 1, G711, 93.2 - 3.6},
		{177300 * time.Microsecond, 0, 1, G711PLC, 93.2 - 4.2552},
		{400 * time.Millisecond, 0, 1, G711PLC, 93.2 - 9.6 - 24.497},
		{0, 0.02, 1, G711PLC, 93.2 - 95*2/27.1},
		{0, 0.02, 1, G711, 93.2 - 95*2/6.3},
		{0, 0.02, 2, G711PLC, 93.2 - 95*2/26.1},
		{0, 1, 1, G711PLC, 93.2 - 95*100/125.1},
		{0, 0.02, 0.5, G711PLC, 93.2 - 95*2/27.1}, // BurstR below 1 counts as 1
		{-time.Second, -1, 1, G711PLC, 93.2},
	} {
		if got := R(c.delay, c.loss, c.burst, c.codec); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("R(%v, %v, %v, %v) = %v, want %v", c.delay, c.loss, c.burst, c.codec, got, c.want)
		}
	}
	for _, constant := range []string{"93.2", "0.024 d", "0.11 (d - 177.3)", "25.1", "4.3", "7e-6"} {
		if !strings.Contains(Formula, constant) {
			t.Errorf("the printed formula lacks %q", constant)
		}
	}
}

func TestMoreImpairmentIsNeverBetter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		delay := time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "delay"))
		loss := rapid.Float64Range(0, 1).Draw(t, "loss")
		burst := rapid.Float64Range(1, 20).Draw(t, "burst")
		codec := rapid.SampledFrom([]Codec{G711, G711PLC}).Draw(t, "codec")
		r := R(delay, loss, burst, codec)
		if mos := MOS(r); mos < 1 || mos > 4.5 {
			t.Fatalf("MOS(%v) = %v", r, mos)
		}
		worse := map[string]float64{
			"more delay":     R(delay+time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "more delay")), loss, burst, codec),
			"more loss":      R(delay, min(1, loss+rapid.Float64Range(0, 1).Draw(t, "more loss")), burst, codec),
			"longer bursts":  R(delay, loss, burst+rapid.Float64Range(0, 20).Draw(t, "more burst"), codec),
			"no concealment": R(delay, loss, burst, G711),
		}
		for what, w := range worse {
			if w > r+1e-9 || MOS(w) > MOS(r)+1e-9 {
				t.Fatalf("%s: R %v -> %v, MOS %v -> %v", what, r, w, MOS(r), MOS(w))
			}
		}
	})
}

func TestBurstRatio(t *testing.T) {
	pattern := func(s string) (l Losses) {
		for _, c := range s {
			l.Add(c == 'x', 1)
		}
		return l
	}
	for _, c := range []struct {
		pattern string
		lost    uint64
		burst   float64
	}{
		{"", 0, 1},
		{"..........", 0, 1},
		{"x.x.x.x.x.", 5, 1},             // more even than random
		{"xxxx................", 4, 3.2}, // mean 4, under random loss of 20% 1.25
		{"xx...x....", 3, 1.05},          // mean 1.5, times 0.7
		{"xxxxx", 5, 1},
	} {
		l := pattern(c.pattern)
		if l.Lost != c.lost || l.Expected != uint64(len(c.pattern)) || math.Abs(l.Burst()-c.burst) > 1e-9 {
			t.Errorf("%q: %+v, BurstR %v; want %v lost, BurstR %v", c.pattern, l, l.Burst(), c.lost, c.burst)
		}
	}
}

// A run is the same however it is cut into Adds.
func TestLossesDoNotDependOnTheCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var whole, single Losses
		for range rapid.IntRange(0, 40).Draw(t, "runs") {
			lost, n := rapid.Bool().Draw(t, "lost"), rapid.Uint64Range(0, 9).Draw(t, "n")
			whole.Add(lost, n)
			for range n {
				single.Add(lost, 1)
			}
		}
		if whole != single {
			t.Fatalf("%+v, one by one %+v", whole, single)
		}
	})
}
