package measure

import (
	"strings"
	"testing"
)

func TestEveryLimitMakesARunInvalid(t *testing.T) {
	spoil := func(metric string, change func(*Distribution)) func(*Result) {
		return func(r *Result) { d := r.Metrics[metric]; change(&d); r.Metrics[metric] = d }
	}
	for name, story := range map[string]struct {
		break_ func(*Result)
		words  string
	}{
		"send jitter p99.9": {spoil(SendJitter, func(d *Distribution) { d.P999 = 5_001 }), "send jitter p99.9 is 5.001ms, the limit is 5ms"},
		"send jitter p99": {func(r *Result) {
			r.Limits = r.Limits.Tightened("p99", 100)
			spoil(SendJitter, func(d *Distribution) { d.P99 = 51 })(r)
		}, "send jitter p99 is 51µs, the limit is 50µs"},
		"send jitter p50": {func(r *Result) {
			r.Limits = r.Limits.Tightened("p50", 100)
			spoil(SendJitter, func(d *Distribution) { d.P50 = 51 })(r)
		}, "send jitter p50"},
		"arrivals late":       {spoil(ArrivalLateness, func(d *Distribution) { d.P99 = 10_001 }), "the load was not the stated one"},
		"CPU":                 {func(r *Result) { r.Pacing.CPUCores, r.Pacing.Cores = 1.81, 2 }, "1.81 of its 2.00 cores"},
		"packets never sent":  {func(r *Result) { r.Pacing.Packets, r.Pacing.MissedTicks = 100_000, 101 }, "101 of 100101 packets were never sent"},
		"clocks":              {func(r *Result) { r.Pacing.Clock = SeparateClocks }, "clocks that are not shared"},
		"no pacing":           {spoil(SendJitter, func(d *Distribution) { *d = Distribution{} }), "did not measure its own send jitter"},
		"no calls":            {func(r *Result) { r.Counts = Counts{} }, "nothing has been measured"},
		"a call has vanished": {func(r *Result) { r.Counts.Offered++ }, "calls have vanished"},
	} {
		r, err := recorded(someCalls(5, 60))
		if err != nil {
			t.Fatal(err)
		}
		r.Limits = DefaultLimits()
		d := r.Metrics[ArrivalLateness]
		d.P99 = 9_000
		r.Metrics[ArrivalLateness] = d
		if r.Validate(r.Limits); !r.Valid {
			t.Fatalf("%s: invalid before it was broken: %v", name, r.Invalid)
		}
		story.break_(r)
		r.Validate(r.Limits)
		if r.Valid || r.ExitCode() != 3 || !strings.Contains(strings.Join(r.Invalid, "\n"), story.words) {
			t.Errorf("%s: valid %v, exit code %d, %q; want %q", name, r.Valid, r.ExitCode(), r.Invalid, story.words)
		}
	}
}

// Dropped arrivals are the open model's answer to too few lines: counted, not invalid.
func TestDroppedArrivalsAreNotInvalid(t *testing.T) {
	c := never()
	c.Outcome, c.Due, c.Ended = Dropped, 0, 0
	r, err := recorded([]Call{c})
	if err != nil || !r.Valid || r.Counts.Dropped != 1 || r.Counts.Attempted != 0 {
		t.Errorf("valid %v %v, %+v (%v)", r.Valid, r.Invalid, r.Counts, err)
	}
}

func TestLimitsAreTightenedByMediaObjectives(t *testing.T) {
	l := DefaultLimits().Tightened("p999", 2_000) // p99.9 <= 2 ms needs 1 ms
	if l.SendJitterP999 != 1_000 {
		t.Errorf("p99.9: %d us, want 1000", l.SendJitterP999)
	}
	if l = l.Tightened("p999", 60_000); l.SendJitterP999 != 1_000 {
		t.Errorf("a loose objective loosened the limit to %d us", l.SendJitterP999)
	}
	if l = l.Tightened("p99", 500); l.SendJitterP99 != 250 {
		t.Errorf("p99: %d us, want 250", l.SendJitterP99)
	}
	if before := l; before.Tightened("min", 1) != before {
		t.Error("the lowest latency asks nothing of the generator")
	}
}

func TestExitCodes(t *testing.T) {
	missed, met := Verdict{}, Verdict{Passed: true}
	for _, c := range []struct {
		r    Result
		want int
	}{
		{Result{Valid: true}, 0}, {Result{Valid: true, Verdicts: []Verdict{met}}, 0}, {Result{Valid: true, Verdicts: []Verdict{met, missed}}, 1},
		{Result{}, 3}, {Result{Verdicts: []Verdict{met}}, 3}, {Result{Verdicts: []Verdict{missed}}, 3},
	} {
		if got := c.r.ExitCode(); got != c.want || c.r.Passed() != (c.want == 0) {
			t.Errorf("valid %v, %v: exit code %d, want %d", c.r.Valid, c.r.Verdicts, got, c.want)
		}
	}
}

func TestBudgetTakesAnEmulatedDelayOffTheServersPart(t *testing.T) {
	oneWay, total := Distribution{P50: 20_050, P99: 25_400, Count: 10}, Distribution{P50: 58_000, P99: 59_000, Count: 2}
	stated := Stated{Packetisation: 20_000, Network: 20_000, NetworkJitter: 5_000, JitterBuffer: 15_000, OnWire: true, Emulation: "netem"}
	b := budget(stated, map[string]Distribution{MediaOneWay: oneWay, MouthToEarTypical: total})
	if b.Server.P50 != 50 || b.Server.P99 != 5_400 || b.Server.How != HowMeasured || b.Network.P99 != 25_000 || b.Network.How != HowStated || b.Total.P99 != 59_000 {
		t.Errorf("%+v", b)
	}
	stated.OnWire = false
	if b = budget(stated, map[string]Distribution{MediaOneWay: {P50: 50, P99: 90}, MouthToEarTypical: total, MouthToEar: {P99: 61_000, Count: 9}}); b.Total.P99 != 61_000 || b.Total.Samples != 9 || b.Server.P50 != 50 || b.Server.P99 != 90 {
		t.Errorf("emulated behind the stamps, every packet known: %+v", b)
	}
}
