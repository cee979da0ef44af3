package loadgen

import (
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// Caller and agent agree, in whichever process each is, on how long they talk and who hangs up.
func TestDrawsAreByArrival(t *testing.T) {
	p := profile.Default()
	p.Agents.Count = 1
	hold, err := profile.ParseSpan("exp:20s")
	if err != nil {
		t.Fatal(err)
	}
	p.Hold = hold
	other := p
	other.Seed++
	agents, differ, sum := 0, 0, time.Duration(0)
	const n = 10_000
	for i := range int64(n) {
		p.HangUp = 0.3
		if agentEnds(&p, i) {
			agents++
		}
		if holdOf(&p, i) != holdOf(&p, i) || agentEnds(&p, i) != agentEnds(&p, i) {
			t.Fatalf("arrival %d is drawn anew", i)
		}
		if holdOf(&p, i) != holdOf(&other, i) {
			differ++
		}
		sum += holdOf(&p, i)
		if p.HangUp = 1; !agentEnds(&p, i) {
			t.Fatalf("arrival %d: the agent is to hang up always", i)
		}
		if p.HangUp = 0; agentEnds(&p, i) {
			t.Fatalf("arrival %d: the agent is never to hang up", i)
		}
	}
	if agents < 2700 || agents > 3300 {
		t.Errorf("agents end %d of %d calls, 30%% were asked for", agents, n)
	}
	if mean := sum / n; mean < 19*time.Second || mean > 21*time.Second {
		t.Errorf("mean hold %v", mean)
	}
	if differ < n-10 {
		t.Errorf("another seed has %d of %d hold times in common", n-differ, n)
	}
	p.HangUp, p.Agents.Count = 1, 0
	if agentEnds(&p, 0) {
		t.Error("without agents nobody else hangs up")
	}
}

// The parts of workers differ by one at most and add up.
func TestPartsAddUp(t *testing.T) {
	for n := range 50 {
		for of := 1; of < 8; of++ {
			sum, least, most := 0, n, 0
			for k := range of {
				x := part(n, k, of)
				sum, least, most = sum+x, min(least, x), max(most, x)
			}
			if sum != n || most-least > 1 {
				t.Errorf("%d in %d parts: %d, from %d to %d", n, of, sum, least, most)
			}
		}
	}
}
