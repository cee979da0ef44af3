package measure

import (
	"testing"

	"pgregory.net/rapid"
)

// However long a run is, its series stays small and loses nothing.
func TestSeriesIsBounded(t *testing.T) {
	r := NewRecorder()
	const hours = 30
	for i := range int64(hours * 360) {
		c := never()
		c.Index, c.Outcome, c.Due = i, Completed, Micros(i*10_000_000)
		c.Invited, c.Answered, c.AgentAnswer, c.Ended = c.Due, c.Due+2_000, c.Due+9_000, c.Due+25_000_000
		r.Add(&c)
		r.AddSecond(i*10, Tally{{50, 3}})
	}
	s := r.course.series()
	if s.Interval != 16 || len(s.Points) > MostPoints {
		t.Fatalf("%d points of %d s for %d hours", len(s.Points), s.Interval, hours)
	}
	var sum Point
	setups, packets, most := int64(0), int64(0), int64(0)
	for i, p := range s.Points {
		if p.At != int64(i)*s.Interval {
			t.Fatalf("point %d is at %d s", i, p.At)
		}
		sum.Offered += p.Offered
		sum.Started += p.Started
		sum.Answered += p.Answered
		sum.Completed += p.Completed
		most = max(most, p.Live)
		if p.Setup != nil {
			setups += p.Setup.Count
		}
		if p.OneWay != nil {
			packets += p.OneWay.Count
		}
	}
	want := int64(hours * 360)
	if sum.Offered != want || sum.Started != want || sum.Answered != want || sum.Completed != want || setups != want || packets != 3*want {
		t.Errorf("%+v, %d setups, %d packets; want %d of each call", sum, setups, packets, want)
	}
	if last := s.Points[len(s.Points)-1]; most < 2 || most > 3 || last.Live != 0 {
		t.Errorf("at most %d live, %d at the end; each lasts 25 s and one comes every 10 s", most, last.Live)
	}
}

// Summaries cannot be merged into a percentile, only into a bound.
func TestSummariesGiveABound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tallies := rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(1, 50_000), 1, 30), 1, 4).Draw(t, "latencies")
		exact, bound := newCourse(), newCourse()
		for _, values := range tallies {
			one := newCourse()
			for _, v := range values {
				one.packets(3, Tally{{v, 1}})
				exact.packets(3, Tally{{v, 1}})
			}
			b := one.series().Points[3].OneWay
			bound.summary(3, Brief{Count: b.Count, P50: b.P50, P99: b.P99, Max: b.Max})
		}
		e, b := exact.series().Points[3].OneWay, bound.series().Points[3].OneWay
		if b.Count != e.Count || b.P50 < e.P50 || b.P99 < e.P99 || b.Max < e.Max {
			t.Fatalf("bound %+v, exact %+v", b, e)
		}
		if b.Bound != (len(tallies) > 1) {
			t.Fatalf("of %d summaries: marked as a bound %v", len(tallies), b.Bound)
		}
	})
}

func TestCoarseKeepsTheCounts(t *testing.T) {
	r, err := recorded(someCalls(3, 40))
	if err != nil {
		t.Fatal(err)
	}
	few, err := r.Series.Coarse(20)
	if err != nil {
		t.Fatal(err)
	}
	offered := int64(0)
	for _, p := range few.Points {
		offered += p.Offered
	}
	if len(few.Points) > 20 || offered != 40 {
		t.Errorf("%d points, %d offered", len(few.Points), offered)
	}
}
