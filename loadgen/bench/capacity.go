package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// latest is how late one packet in a thousand may be, in one direction, at full load.
const latest = 5000 // us

// capacity raises the number of calls with audio through each anchor until packets come too
// late, and looks at the latency that half of them have.
func (s *Suite) capacity(ctx context.Context) error {
	steps, hold := []int{250, 500, 750, 1000, 1250, 1500, 1750, 2000}, 12*time.Second
	if s.quick {
		steps, hold = []int{50, 100}, 6*time.Second
	}
	before := len(s.Rows)
	for _, open := range s.anchors(ctx, "capacity", steps[len(steps)-1]) {
		a, err := open()
		if err != nil {
			return err
		}
		err = s.fill(ctx, a, steps, hold)
		a.close()
		if err != nil {
			return fmt.Errorf("%s: %w", a.subject, err)
		}
	}
	// What was measured anchor by anchor is read figure by figure.
	order := map[string]int{}
	for i, row := range s.Rows[before:] {
		if _, known := order[row.Experiment]; !known {
			order[row.Experiment] = i
		}
	}
	slices.SortStableFunc(s.Rows[before:], func(a, b Row) int { return order[a.Experiment] - order[b.Experiment] })
	return nil
}

// fill finds how many calls an anchor carries, and measures half of them.
func (s *Suite) fill(ctx context.Context, a *anchor, steps []int, hold time.Duration) error {
	try := func(calls int) (steady, error) {
		dir, err := os.MkdirTemp(s.work, "load-")
		if err != nil {
			return steady{}, err
		}
		l := build(calls, hold)
		l.rate, l.agents = max(50, calls/5), steps[len(steps)-1]
		l.ramp = time.Duration(calls) * time.Second / time.Duration(l.rate)
		one, err := s.anchored(ctx, a, dir, l)
		if err != nil {
			return one, err
		}
		return one, until(ctx, time.Minute, func() bool { return a.talking() == 0 })
	}
	best, limit := 0, "the last step"
	var at steady
	for _, calls := range steps {
		s.say("capacity: %s, %d calls", a.subject, calls)
		one, err := try(calls)
		if err != nil && best == 0 {
			return err
		}
		if err != nil {
			limit = fmt.Sprintf("%d did not come up", calls)
			break
		}
		way := one.result.Metrics["media_one_way"]
		if len(one.result.Invalid) > 0 {
			limit = fmt.Sprintf("the generator was late itself with %d", calls)
			break
		}
		if way.P999 > latest || one.result.Media.LossRatio() > 0.001 {
			limit = fmt.Sprintf("with %d calls p99.9 was %.1f ms, %.2f%% lost", calls, way.P999/1000, 100*one.result.Media.LossRatio())
			break
		}
		best, at = calls, one
	}
	if best == 0 {
		s.Left = append(s.Left, fmt.Sprintf("capacity of %s: %s", a.subject, limit))
		return nil
	}
	s.add(Row{Experiment: "calls with audio at once, one-way p99.9 <= 5 ms", Condition: "load on the same cores; " + limit, Subject: a.subject, Unit: "calls",
		Runs: []float64{float64(best)}, Samples: at.packets})
	perCore := Row{Experiment: "calls with audio per core of the server's own CPU", Condition: fmt.Sprintf("at %d calls", best), Subject: a.subject, Unit: "calls",
		Runs: []float64{1e6 / (100 * at.cpu)}, Samples: at.packets}
	switch a.subject {
	case "dialtone, portable path":
		perCore.Goal = AtLeast(3000)
	case "dialtone, kernel path":
		perCore.Goal = AtLeast(8000)
	}
	s.add(perCore)
	return s.half(a, best/2, try)
}

// half measures the latency through an anchor with half of the calls that it carries.
func (s *Suite) half(a *anchor, calls int, try func(int) (steady, error)) error {
	quantiles := []struct {
		name string
		of   func(measure.Distribution) float64
		goal float64 // ms
	}{
		{"p50", func(d measure.Distribution) float64 { return d.P50 }, 0.05},
		{"p99", func(d measure.Distribution) float64 { return d.P99 }, 0.5},
		{"p99.9", func(d measure.Distribution) float64 { return d.P999 }, 2},
	}
	rows := make([]Row, len(quantiles))
	for run := range s.runs {
		s.say("capacity: %s, half: run %d of %d", a.subject, run+1, s.runs)
		one, err := try(calls)
		if err != nil {
			return err
		}
		for i, q := range quantiles {
			rows[i].Runs = append(rows[i].Runs, q.of(one.result.Metrics["media_one_way"])/1000)
			rows[i].Samples += one.packets
			rows[i].doubt(one.result)
		}
	}
	for i, q := range quantiles {
		row := &rows[i]
		row.Experiment, row.Condition = "one way at half load, "+q.name, fmt.Sprintf("%d calls, half of what it carried", calls)
		row.Subject, row.Unit = a.subject, "ms"
		if a.subject != "Kamailio + rtpengine" {
			row.Goal = AtMost(q.goal)
		}
		s.add(*row)
	}
	return nil
}
