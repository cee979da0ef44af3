package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// The queue call of these experiments, as sipp makes it: INVITE, answer, queue, the offer to
// an agent's phone, 180, 200, bridge, 20 ms, the agent's BYE, CDR. No audio is sent. It
// counts only when the agent's BYE has reached the caller.

// staff is how many agents answer: enough that none of the rates below waits for one.
const staff = 200

// open starts a server with agents at work.
func (s *Suite) open(ctx context.Context, agents int) (*dialtone, *process, error) {
	d, err := s.startDialtone(ctx)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*dialtone, *process, error) {
		d.close()
		return nil, nil, err
	}
	if err := d.employ(1021, max(0, agents-20), "support"); err != nil {
		return fail(err)
	}
	p, err := s.startPhones(d.dir)
	if err != nil {
		return fail(err)
	}
	if err := s.register(ctx, d.dir, 1001, agents); err != nil {
		p.stop()
		return fail(err)
	}
	return d, p, nil
}

// cost is the CPU per call of a server over so many calls at a rate, in ms, and what the
// callers saw.
func (s *Suite) cost(ctx context.Context, d *dialtone, rate, calls int) (float64, tally, error) {
	before, err := d.cpu()
	if err != nil {
		return 0, tally{}, err
	}
	t, err := s.dial(ctx, d.dir, rate, calls)
	if err != nil {
		return 0, t, err
	}
	// The last calls' records go their way to the CDR: the cost includes it.
	if err := until(ctx, 20*time.Second, d.atRest); err != nil {
		return 0, t, fmt.Errorf("calls are left over after the load: %w", err)
	}
	after, err := d.cpu()
	return float64(after-before) / float64(time.Millisecond) / float64(calls), t, err
}

// callCost measures the CPU of one queue call at several rates.
func (s *Suite) callCost(ctx context.Context) error {
	rates, seconds := []int{50, 100, 250}, 10
	if s.quick {
		rates, seconds = []int{100}, 3
	}
	costs := map[int][]float64{}
	for run := range s.runs {
		d, p, err := s.open(ctx, staff)
		if err != nil {
			return err
		}
		_, _, err = s.cost(ctx, d, 50, 100) // the first calls pay for what is made once
		for _, rate := range rates {
			if err != nil {
				break
			}
			s.say("CPU per queue call: run %d of %d, %d calls/s", run+1, s.runs, rate)
			var ms float64
			var t tally
			ms, t, err = s.cost(ctx, d, rate, rate*seconds)
			if err == nil && t.Completed != t.Offered {
				err = fmt.Errorf("%d of %d calls were completed at %d/s", t.Completed, t.Offered, rate)
			}
			costs[rate] = append(costs[rate], ms)
		}
		p.stop()
		d.close()
		if err != nil {
			return err
		}
	}
	for _, rate := range rates {
		s.add(Row{Experiment: "CPU per queue call, no audio", Condition: fmt.Sprintf("%d calls/s, embedded etcd", rate), Subject: "dialtone",
			Unit: "ms", Runs: costs[rate], Samples: rate * seconds * s.runs, Goal: AtMost(0.5)})
	}
	return nil
}

// knee raises the rate until calls fail, then doubles it.
func (s *Suite) knee(ctx context.Context) error {
	var best, goodput []float64
	var top, over tally // of the last run
	offered := 0
	for run := range s.runs {
		s.say("knee: run %d of %d", run+1, s.runs)
		rate, at, twice, err := s.kneeOnce(ctx)
		if err != nil {
			return err
		}
		best, goodput = append(best, float64(rate)), append(goodput, twice.Goodput)
		top, over = at, twice
		offered += twice.Offered
	}
	s.add(Row{Experiment: "calls/s at the knee", Condition: "full queue path, load on the same cores, >= 99.9% completed", Subject: "dialtone",
		Unit: "calls/s", Runs: best, Samples: top.Offered, Goal: AtLeast(500)})
	s.add(Row{Experiment: "goodput at twice the knee", Condition: fmt.Sprintf("%.0f calls/s offered; in the last run %d refused with 503, %d failed", over.Pace, over.Refused, over.Failed),
		Subject: "dialtone", Unit: "calls/s", Runs: goodput, Samples: offered})
	return nil
}

// kneeOnce returns the highest rate at which calls complete, what was seen there, and what
// becomes of twice as many.
func (s *Suite) kneeOnce(ctx context.Context) (best int, at, over tally, err error) {
	seconds, step, top := 10, 100, 1500
	if s.quick {
		seconds, step, top = 3, 200, 400
	}
	d, p, err := s.open(ctx, staff)
	if err != nil {
		return 0, at, over, err
	}
	defer d.close()
	defer p.stop()
	for rate := step; rate <= top; rate += step {
		s.say("knee: %d calls/s", rate)
		t, err := s.dial(ctx, d.dir, rate, rate*seconds)
		if err != nil {
			return best, at, over, err
		}
		if float64(t.Completed) < 0.999*float64(t.Offered) {
			break
		}
		if t.Pace < 0.98*float64(rate) {
			s.say("sipp itself reaches only %.0f calls/s", t.Pace)
			break
		}
		best, at = rate, t
	}
	if best == 0 {
		return 0, at, over, fmt.Errorf("calls fail at %d/s already", step)
	}
	s.say("overload: %d calls/s", 2*best)
	if over, err = s.dial(ctx, d.dir, 2*best, 2*best*seconds); err != nil {
		return best, at, over, err
	}
	if err := until(ctx, time.Minute, d.atRest); err != nil {
		return best, at, over, fmt.Errorf("calls are left over a minute after the overload: %w", err)
	}
	return best, at, over, nil
}

// growth compares the cost of a call in a small and in a large company, in pairs.
func (s *Suite) growth(ctx context.Context) error {
	registrations, queues, agents, rate, calls := 10_000, 100, 1_000, 100, 1_000
	if s.quick {
		registrations, queues, agents, calls = 1_000, 20, 200, 300
	}
	var byPhones, byQueues []float64
	for run := range s.runs {
		s.say("growth: run %d of %d, %d idle registrations", run+1, s.runs, registrations)
		ratio, err := s.grow(ctx, rate, calls, func(d *dialtone) error {
			if err := d.call("PUT", "/v1/queues/idle", map[string]any{}, nil); err != nil {
				return err
			}
			if err := d.employ(20_001, registrations, "idle"); err != nil {
				return err
			}
			return s.register(ctx, d.dir, 20_001, registrations)
		})
		if err != nil {
			return err
		}
		byPhones = append(byPhones, ratio)
		s.say("growth: run %d of %d, %d queues and %d agents", run+1, s.runs, queues, agents)
		ratio, err = s.grow(ctx, rate, calls, func(d *dialtone) error {
			for i := range queues {
				queue := fmt.Sprintf("q%d", i)
				if err := d.call("PUT", "/v1/queues/"+queue, map[string]any{}, nil); err != nil {
					return err
				}
				if err := d.employ(20_001+i*agents/queues, agents/queues, queue); err != nil {
					return err
				}
			}
			return s.register(ctx, d.dir, 20_001, agents)
		})
		if err != nil {
			return err
		}
		byQueues = append(byQueues, ratio)
	}
	s.add(Row{Experiment: "growth of CPU per call", Condition: fmt.Sprintf("20 to %d registrations", 20+registrations), Subject: "dialtone", Unit: "ratio", Runs: byPhones, Samples: calls * s.runs, Goal: AtMost(1.2)})
	s.add(Row{Experiment: "growth of CPU per call", Condition: fmt.Sprintf("1 to %d queues, 20 to %d agents", 1+queues, 20+agents), Subject: "dialtone", Unit: "ratio", Runs: byQueues, Samples: calls * s.runs, Goal: AtMost(1.2)})
	return nil
}

// grow is the cost of a call after a change divided by that before it, on one server: each
// the median of three, so that a neighbour's moment does not decide.
func (s *Suite) grow(ctx context.Context, rate, calls int, change func(*dialtone) error) (float64, error) {
	d, p, err := s.open(ctx, 20)
	if err != nil {
		return 0, err
	}
	defer d.close()
	defer p.stop()
	of := func() (float64, error) {
		var costs []float64
		for range 3 {
			ms, t, err := s.cost(ctx, d, rate, calls/3)
			if err == nil && t.Completed != t.Offered {
				err = fmt.Errorf("%d of %d calls were completed", t.Completed, t.Offered)
			}
			if err != nil {
				return 0, err
			}
			costs = append(costs, ms)
		}
		return median(costs), nil
	}
	if _, _, err := s.cost(ctx, d, rate, 100); err != nil {
		return 0, err
	}
	small, err := of()
	if err != nil {
		return 0, err
	}
	if err := change(d); err != nil {
		return 0, err
	}
	large, err := of()
	return large / small, err
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
