package sim

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core/node"
)

// Plan says which worlds to run.
type Plan struct {
	First, Last uint64
	Plant       string
	Nodes       int           // 0: one, -1: several, drawn by the seed
	Chaos       time.Duration // 0: drawn by the seed
	Events      int           // 0: the default
	Workers     int
	Recheck     uint64 // every so manyth seed is run twice and compared; 0: none
	FirstOnly   bool   // stop at the first failure
	Trace       io.Writer
	Progress    func(done int, failed int)
	NewCore     func(node.Config) Core // nil: the real one
}

// Summary is what many worlds came to.
type Summary struct {
	Seeds    int           `json:"seeds"`
	Failed   []Result      `json:"failed"`
	Events   int           `json:"events"`
	Calls    int           `json:"calls"`
	Served   int           `json:"served"`
	Virtual  time.Duration `json:"virtual_ns"`
	Wall     time.Duration `json:"wall_ns"`
	Busy     time.Duration `json:"busy_ns"` // the sum over all workers
	Rechecks int           `json:"rechecks"`
	Marks    Marks         `json:"marks"`
	Never    []string      `json:"never"`
	Cut      bool          `json:"interrupted,omitempty"`
}

// Speed is in simulated seconds for each second of one core.
func (s *Summary) Speed() float64 {
	if s.Busy == 0 {
		return 0
	}
	return s.Virtual.Seconds() / s.Busy.Seconds()
}

// one runs one world, twice where the plan says so.
func (p *Plan) one(seed uint64) (Result, bool) {
	again := p.Recheck > 0 && seed%p.Recheck == 0
	first := p.world(seed, p.Trace)
	if again {
		if second := p.world(seed, nil); second.Hash != first.Hash && first.Failure == nil {
			first.Failure = &Failure{Property: "determinism", Seed: seed, Plant: p.Plant, Options: p.draw(seed), Phase: "over",
				Text:    fmt.Sprintf("two runs of one seed differ: %s after %d events, %s after %d", first.Hash, first.Events, second.Hash, second.Events),
				Command: p.command(seed)}
		}
	}
	return first, again
}

func (p *Plan) draw(seed uint64) Options {
	o := Draw(seed)
	if p.Nodes != 0 {
		o = o.Cluster(max(0, p.Nodes))
	}
	return o
}

func (p *Plan) world(seed uint64, trace io.Writer) Result {
	o := p.draw(seed)
	o.Plant = p.Plant
	if p.Chaos > 0 {
		o.Chaos = p.Chaos
	}
	if p.Events > 0 {
		o.Events = p.Events
	}
	newCore := p.NewCore
	if newCore == nil {
		newCore = func(c node.Config) Core { return node.New(c) }
	}
	w := NewWorld(o, newCore)
	w.trace.to = trace
	r := w.Run()
	if r.Failure != nil {
		r.Failure.Command = p.command(seed)
	}
	return r
}

// command is what makes a world again.
func (p *Plan) command(seed uint64) string {
	c := fmt.Sprintf("dialtone sim --seed %d", seed)
	if p.Nodes != 0 {
		c += fmt.Sprintf(" --nodes %d", p.Nodes)
	}
	if p.Plant != "" {
		c += " --plant " + p.Plant
	}
	if p.Chaos > 0 {
		c += " --duration " + p.Chaos.String()
	}
	if p.Events > 0 {
		c += fmt.Sprintf(" --steps %d", p.Events)
	}
	return c
}

// Run runs all worlds of the plan, each by one worker. Results do not depend on the number
// of workers; with FirstOnly, which failure is found first may.
func (p *Plan) Run(ctx context.Context) Summary {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	seeds := make(chan uint64)
	var mu sync.Mutex
	sum := Summary{Failed: []Result{}, Marks: Marks{}}
	began := time.Now()
	var workers sync.WaitGroup
	for range max(1, p.Workers) {
		workers.Go(func() {
			for seed := range seeds {
				start := time.Now()
				r, again := p.one(seed)
				mu.Lock()
				sum.add(r, again, time.Since(start))
				if r.Failure != nil && p.FirstOnly {
					stop()
				}
				if p.Progress != nil {
					p.Progress(sum.Seeds, len(sum.Failed))
				}
				mu.Unlock()
			}
		})
	}
	for seed := p.First; ; seed++ {
		select {
		case seeds <- seed:
		case <-ctx.Done():
		}
		if seed == p.Last || ctx.Err() != nil {
			sum.Cut = seed != p.Last
			break
		}
	}
	close(seeds)
	workers.Wait()
	sum.Wall = time.Since(began)
	sum.Never = sum.Marks.Missing()
	return sum
}

func (s *Summary) add(r Result, again bool, took time.Duration) {
	s.Seeds++
	s.Events += r.Events
	s.Calls += r.Calls
	s.Served += r.Served
	s.Virtual += r.Virtual
	s.Busy += took
	s.Marks.Add(r.Marks)
	if again {
		s.Rechecks++
		s.Virtual += r.Virtual
	}
	if r.Failure != nil {
		s.Failed = append(s.Failed, r)
	}
}
