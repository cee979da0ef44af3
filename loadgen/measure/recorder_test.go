package measure

import (
	"math"
	"slices"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"
)

func epoch() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// Three significant digits: a percentile may be off by one in a thousand (and one step).
func TestPercentilesAreThoseOfTheSortedValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 3_000), rapid.Int64Range(0, 10_000_000), rapid.Int64Range(0, int64(Highest))), 1, 400).Draw(t, "values")
		s := newSample()
		for _, v := range values {
			s.add(v, 1)
		}
		d, err := s.distribution("", UnitTime)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(values)
		sum := 0.0
		for _, v := range values {
			sum += float64(v)
		}
		if d.Min != float64(values[0]) || d.Max != float64(values[len(values)-1]) || d.Count != int64(len(values)) {
			t.Fatalf("min %v max %v count %d, want %d %d %d", d.Min, d.Max, d.Count, values[0], values[len(values)-1], len(values))
		}
		if mean := sum / float64(len(values)); math.Abs(d.Mean-mean) > 1e-9*mean {
			t.Fatalf("mean %v, want %v", d.Mean, mean)
		}
		for _, p := range []struct{ at, got float64 }{{1, d.P1}, {50, d.P50}, {90, d.P90}, {95, d.P95}, {99, d.P99}, {99.9, d.P999}} {
			rank := max(int(p.at/100*float64(len(values))+0.5), 1)
			want := float64(values[rank-1])
			if math.Abs(p.got-want) > want/1000+1 {
				t.Fatalf("p%v is %v, the sorted values say %v of %v", p.at, p.got, want, values)
			}
		}
	})
}

// A result that was edited or comes from elsewhere has histograms that may be anything.
func TestAHistogramThatDoesNotFitIsRefused(t *testing.T) {
	good, err := recorded(someCalls(1, 5))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Distribution){
		"a broken histogram":        func(d *Distribution) { d.HDR = d.HDR[:len(d.HDR)/2] },
		"a count that is not there": func(d *Distribution) { d.Count++ },
		"another geometry": func(d *Distribution) {
			h := hdr.NewPacked(1, 1_000_000, 2)
			_ = h.RecordValue(5)
			text, _ := h.EncodeV2()
			*d = Distribution{Count: 1, Unit: UnitTime, HDR: string(text)}
		},
	} {
		d := good.Metrics[Setup]
		if err := newSample().merge(&d); err != nil {
			t.Fatal(err)
		}
		spoil(&d)
		if err := newSample().merge(&d); err == nil {
			t.Errorf("%s was merged", name)
		}
	}
}

// Setup from the send hides a generator that was late; from the due time it cannot.
func TestDueAndSentAreToldApart(t *testing.T) {
	c := never()
	c.Outcome, c.Due, c.Invited, c.Answered, c.Ended = Completed, 1_000_000, 4_000_000, 4_001_000, 5_000_000
	r, err := recorded([]Call{c})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Metrics[Setup].Max; got != 1_000 {
		t.Errorf("setup %v us, want 1000", got)
	}
	if got := r.Metrics["setup_from_due"].Max; got != 3_001_000 {
		t.Errorf("setup_from_due %v us, want 3001000", got)
	}
	if got := r.Metrics[ArrivalLateness].Max; got != 3_000_000 {
		t.Errorf("arrival_lateness %v us, want 3000000", got)
	}
}

// Only a caller that found an agent free measures the routing; all measure the wait.
func TestRoutingNeedsAFreeAgent(t *testing.T) {
	for _, free := range []int{0, 1} {
		c := never()
		c.Outcome, c.Due, c.Invited, c.Offered, c.Ended, c.FreeAgents = Abandoned, 0, 0, 2_000, 3_000, free
		r, err := recorded([]Call{c})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Metrics["routing"].Count; got != int64(free) {
			t.Errorf("with %d free agents %d routings", free, got)
		}
		if r.Metrics["queue_wait"].Count != 1 || r.Metrics["abandoned_after"].Max != 3_000 {
			t.Errorf("wait %+v, abandoned %+v", r.Metrics["queue_wait"], r.Metrics["abandoned_after"])
		}
	}
}

func TestWhatEndsBeforeItBeginsIsCountedAsZero(t *testing.T) {
	c := never()
	c.Outcome, c.Due, c.Invited, c.AgentAnswer, c.Ended = Completed, 0, 0, 5_000, 9_000
	c.CallerEar = &Audio{First: 4_000, Way: "stamp"}
	r, err := recorded([]Call{c})
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Metrics["answer_to_audio_caller"]; d.Count != 1 || d.Negative != 1 || d.Max != 0 {
		t.Errorf("%+v", d)
	}
}

func TestPacketsOutsideCalls(t *testing.T) {
	r := NewRecorder()
	ten := Tally{{250, 10}}
	c := never()
	c.Outcome, c.AgentEar = Completed, &Audio{First: Never, Way: "stamp", LatencyN: 10, LatencyMax: 250, Packets: ten}
	r.Add(&c)
	r.AddMouthToEar(ten)
	r.AddSendJitter(ten)
	res, err := r.Result(soundRun())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{MediaAgentHears: 10, MediaOneWay: 10, MediaCallerHears: 0, SendJitter: 10, MouthToEar: 10, MouthToEarTypical: 0} {
		if got := res.Metrics[name].Count; got != want {
			t.Errorf("%s has %d samples, want %d", name, got, want)
		}
	}
	if p50, p99, n := r.Quantiles(MediaOneWay); p50 != 250 || p99 != 250 || n != 10 {
		t.Errorf("quantiles %d %d of %d", p50, p99, n)
	}
	if p50, _, n := r.Quantiles(Setup); p50 != Never || n != 0 {
		t.Errorf("quantiles of nothing: %d of %d", p50, n)
	}
}

// Reasons may hold words from the network: their number is bounded.
func TestReasonsAreBounded(t *testing.T) {
	r := NewRecorder()
	for i := range 1_000 {
		c := never()
		c.Outcome, c.Due, c.Ended, c.Reason = Failed, 0, 0, time.Duration(i).String()
		r.Add(&c)
	}
	if len(r.reasons) != mostReasons+1 || r.reasons["other"] != 1_000-mostReasons {
		t.Errorf("%d reasons, %d other", len(r.reasons), r.reasons["other"])
	}
}
