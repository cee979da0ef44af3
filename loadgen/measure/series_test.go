package measure

import "testing"

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
	r.Series.Points[1].At = 99
	if _, err := r.Series.Coarse(20); err == nil {
		t.Error("a series with a gap was taken")
	}
	if _, err := (Series{Interval: 3}).Coarse(20); err == nil {
		t.Error("an interval of 3 s was taken")
	}
}
