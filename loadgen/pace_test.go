package loadgen

import (
	"testing"
	"time"
)

// Both readings of an anchored instant are of the same moment: the wall clock's is exact, and
// the monotonic one is off by no more than it takes to read two clocks.
func TestAnchored(t *testing.T) {
	at := time.Now().Add(3 * time.Second).Round(0)
	it := anchored(at)
	if !it.Round(0).Equal(at) {
		t.Errorf("%v became %v", at, it)
	}
	// Whoever reads late finds more time left, never less; the least of many is the truth.
	least := time.Hour
	for range 1000 {
		now := time.Now()
		least = min(least, at.Sub(now.Round(0))-it.Sub(now))
	}
	if least < -time.Millisecond || least > time.Millisecond {
		t.Errorf("the monotonic reading is off by %v", least)
	}
}

// A due time is waited for, never come before; how late is the machine's affair.
func TestPaceIsNeverEarly(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		start := time.Now()
		p := newPace(start)
		for _, due := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 30 * time.Millisecond, 10 * time.Millisecond} {
			if !p.until(t.Context(), due) {
				t.Error("not waited")
			}
			if since := time.Since(start); since < due {
				t.Errorf("due after %v, back after %v", due, since)
			}
		}
	}()
	<-done
}
