package measure

import (
	"fmt"
	"time"
)

// Limits are what the generator must have kept, or the run says nothing about the server.
// A value of 0 switches that limit off.
type Limits struct {
	// A packet that the generator sends late makes jitter, gaps and late packets at the other
	// end that are not the server's, and a stalled sender sends in bursts, which queue in the
	// server. 5 ms is a quarter of a packet's 20 ms, and the jitter that the mouth-to-ear
	// budget assumes for the network.
	SendJitterP999 Micros `json:"send_jitter_p99_9_us"`
	SendJitterP99  Micros `json:"send_jitter_p99_us"`
	SendJitterP50  Micros `json:"send_jitter_p50_us"`
	// Arrivals that come late come in bunches: the load is not the one that the profile
	// states. 10 ms is one interval at 100 calls/s.
	ArrivalLatenessP99 Micros `json:"arrival_lateness_p99_us"`
	// Above nine tenths of its cores the generator waits for itself.
	CPUShare float64 `json:"cpu_share"`
	// A packet that was never sent is a gap that the server did not make: at most one in a
	// thousand, a tenth of the 1% of loss at which MOS begins to suffer.
	MissedTicks float64 `json:"missed_ticks_ratio"`
}

// DefaultLimits are the limits without any objective. Objectives tighten them.
func DefaultLimits() Limits {
	return Limits{SendJitterP999: 5_000, ArrivalLatenessP99: 10_000, CPUShare: 0.9, MissedTicks: 0.001}
}

// Tightened are the limits for a run that is to show that a media latency stays below most
// at a stat (p50 to max): the generator's own error at that stat must be no more than half
// of it, or it cannot tell. (p99.9 <= 2 ms needs send jitter p99.9 <= 1 ms.)
func (l Limits) Tightened(stat string, most Micros) Limits {
	limit := &l.SendJitterP999
	switch stat {
	case "p1", "min":
		return l
	case "p50", "mean":
		limit = &l.SendJitterP50
	case "p90", "p95", "p99":
		limit = &l.SendJitterP99
	}
	if half := max(most/2, 1); *limit == 0 || half < *limit {
		*limit = half
	}
	return l
}

// Invalidate makes a run invalid for a reason that only the caller knows, such as that it
// was interrupted.
func (r *Result) Invalidate(reason string) {
	r.Valid = false
	r.Invalid = append(r.Invalid, reason)
}

// Validate adds every broken limit to the reasons why the run is invalid. Arrivals without a
// free line (dropped) do not make it invalid: they are counted, and an objective can forbid
// them.
func (r *Result) Validate(limits Limits) {
	r.Limits = limits
	check := func(broken bool, format string, args ...any) {
		if broken {
			r.Invalidate(fmt.Sprintf(format, args...))
		}
	}
	jitter, lateness := r.Metrics[SendJitter], r.Metrics[ArrivalLateness]
	late := func(name string, got float64, limit Micros) {
		check(limit > 0 && got > float64(limit), "send jitter %s is %v, the limit is %v: the generator's packets left too late", name, inWords(got), inWords(float64(limit)))
	}
	check(r.Counts.Offered == 0, "no call was due: nothing has been measured")
	check(r.Counts.Offered != r.Counts.outcomes(), "%d arrivals, but %d outcomes: calls have vanished in the generator", r.Counts.Offered, r.Counts.outcomes())
	check(r.Media.Expected > 0 && jitter.Count == 0, "calls had audio, but the generator did not measure its own send jitter")
	late("p99.9", jitter.P999, limits.SendJitterP999)
	late("p99", jitter.P99, limits.SendJitterP99)
	late("p50", jitter.P50, limits.SendJitterP50)
	check(limits.ArrivalLatenessP99 > 0 && lateness.P99 > float64(limits.ArrivalLatenessP99), "INVITEs left %v after they were due (p99), the limit is %v: the load was not the stated one",
		inWords(lateness.P99), inWords(float64(limits.ArrivalLatenessP99)))
	p := r.Pacing
	check(limits.CPUShare > 0 && p.CPUCores > limits.CPUShare*p.Cores, "the generator used %.2f of its %.2f cores, the limit is %.0f%%: it may have waited for itself", p.CPUCores, p.Cores, 100*limits.CPUShare)
	due := float64(p.Packets) + float64(p.MissedTicks)
	check(limits.MissedTicks > 0 && float64(p.MissedTicks) > limits.MissedTicks*due, "%d of %.0f packets were never sent, the limit is %.2f%%: the generator could not keep pace", p.MissedTicks, due, 100*limits.MissedTicks)
	check(p.Clock != SharedClock && r.Metrics[MediaOneWay].Count > 0, "one-way latency was read between clocks that are not shared: it means nothing")
}

// inWords is a time in microseconds for people.
func inWords(us float64) time.Duration { return time.Duration(us) * time.Microsecond }
