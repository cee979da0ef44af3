package peers

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A sight against what it should hold, computed from the whole history at each step.
func TestSight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const beat = 20 * time.Millisecond
		w := windowOf(beat, 5)
		if w.heard != 110*time.Millisecond {
			t.Fatalf("window %v", w.heard)
		}
		s := named(0)
		var now, lastHeard, lastAnew time.Duration
		ever, want, ended := false, unheard, false
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 60).Draw(t, "pass")) * time.Millisecond
			if rapid.IntRange(0, 50).Draw(t, "long") == 0 {
				now += 2 * firstWords
			}
			switch rapid.SampledFrom([]string{"hear", "hear late", "deaf hear", "anew", "judge", "judge", "judge", "end"}).Draw(t, "what") {
			case "hear", "hear late", "deaf hear":
				at, connected := now, rapid.Bool().Draw(t, "connected")
				if rapid.Bool().Draw(t, "late") {
					at -= min(at, 10*time.Millisecond)
				}
				changed := s.hear(at, connected)
				ever, lastHeard = true, max(lastHeard, at)
				wants := connected && (want == unheard || want == silent)
				if wants {
					want = up
				}
				if changed != wants {
					t.Fatalf("heard at %v: changed %v", at, changed)
				}
			case "anew":
				s.anew(now)
				lastAnew = now
			case "judge":
				limit := w.unheard
				if ever {
					limit = w.heard
				}
				falls := (want == up || want == unheard) && now-lastHeard > limit && now-lastAnew > limit
				if got := s.judge(now, w); got != falls {
					t.Fatalf("judged at %v: %v, last heard %v, awake since %v", now, got, lastHeard, lastAnew)
				}
				if falls {
					want = silent
					if s.quiet != now-lastHeard {
						t.Fatalf("silent for %v, not %v", now-lastHeard, s.quiet)
					}
				}
			case "end":
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					if s.end() == ended {
						t.Fatal("a death is noticed once")
					}
					ended, want = true, dead
				}
			}
			if s.verdict != want {
				t.Fatalf("%q, want %q", s.verdict, want)
			}
		}
	})
}

// Which outcome of an attempt proves that incarnation 7 has ended.
func TestProof(t *testing.T) {
	for _, c := range []struct {
		name string
		o    outcome
		met  bool
		want bool
	}{
		{"refused after it was met", outcome{kind: refused}, true, true},
		{"refused at an address that may be wrong", outcome{kind: refused}, false, false},
		{"a newer one answers", outcome{kind: another, who: process{"b", 8}}, false, true},
		{"a newer one answers after it was met", outcome{kind: another, who: process{"b", 8}}, true, true},
		{"one that does not know who it is yet", outcome{kind: another, who: process{"b", 0}}, false, false},
		{"an older one answers", outcome{kind: another, who: process{"b", 6}}, false, false},
		{"restarted, and does not know who it is yet", outcome{kind: another, who: process{"b", 0}}, true, true},
		{"connection lost", outcome{kind: lost}, true, false},
		{"no answer", outcome{kind: failed}, true, false},
	} {
		if got := proves(c.o, c.met, 7); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestPauses(t *testing.T) {
	if pauseBefore(0) != 0 || pauseBefore(1) != firstPause {
		t.Error("the question whether a process lives waits")
	}
	for try := 1; try < 100; try++ {
		if p := pauseBefore(try); p <= 0 || p > longestPause || p < pauseBefore(try-1) {
			t.Fatalf("try %d waits %v", try, p)
		}
	}
}
