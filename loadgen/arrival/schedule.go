// Package arrival says when calls are due. It is pure: no clock, no waiting.
//
// The load is open: who calls does not know how the others fare. So the due time of arrival i
// follows from its index and the start alone, in closed form, and nothing that happens in the
// run moves it. Adding up intervals would let every late call delay all that come after it,
// and the delay would be missing in the figures (coordinated omission).
package arrival

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"sort"
	"time"
)

// Bounds of a schedule.
const (
	MaxRate     Rate  = 1e6
	MaxArrivals int64 = 50_000_000
	maxPhases         = 1000
	maxLength         = 30 * 24 * time.Hour
)

// Rate is in arrivals per second.
type Rate float64

// Phase is a stretch of a schedule. The rate goes in a straight line From..To. With Offsets it
// is a trace: due times from the start of the phase, ascending, and the rates are not used.
type Phase struct {
	From, To Rate
	Length   time.Duration
	Poisson  bool // arrivals are independent of each other, with the same rate
	Offsets  []time.Duration
}

// Schedule is phases one after the other. It does not change, and any number of goroutines
// may ask it.
type Schedule struct {
	parts  []part
	length time.Duration
	count  int64
}

// part is a phase in its place.
type part struct {
	Phase
	start time.Duration
	first int64 // index of its first arrival
	count int64
	mass  float64 // expected arrivals of all even phases before it, since the last other one
	walk  *walk   // where the phase is Poisson
}

// New makes a schedule. The seed decides the Poisson phases.
func New(phases []Phase, seed uint64) (*Schedule, error) {
	if len(phases) == 0 || len(phases) > maxPhases {
		return nil, fmt.Errorf("a schedule has 1 to %d phases, not %d", maxPhases, len(phases))
	}
	s := &Schedule{}
	mass := 0.0
	for k, ph := range phases {
		if err := ph.check(); err != nil {
			return nil, fmt.Errorf("phase %d: %w", k+1, err)
		}
		if float64(s.count)+ph.total() > float64(MaxArrivals) {
			return nil, fmt.Errorf("phase %d: more than %d arrivals", k+1, MaxArrivals)
		}
		p := part{Phase: ph, start: s.length, first: s.count}
		switch {
		case ph.Offsets != nil:
			p.count, mass = int64(len(ph.Offsets)), 0
		case ph.Poisson:
			p.walk = newWalk(mix(seed, uint64(k)), ph.total())
			p.count, mass = p.walk.count, 0
		default:
			// What was left of an arrival at the end of one phase begins the next one.
			p.mass = mass
			mass += ph.total()
			p.count = below(mass) - below(p.mass)
		}
		s.parts = append(s.parts, p)
		s.length += ph.Length
		s.count += p.count
	}
	if s.length > maxLength {
		return nil, fmt.Errorf("a schedule takes at most %v, not %v", maxLength, s.length)
	}
	if s.count > MaxArrivals {
		return nil, fmt.Errorf("more than %d arrivals", MaxArrivals)
	}
	return s, nil
}

func (ph Phase) check() error {
	switch {
	case ph.Length <= 0 || ph.Length > maxLength:
		return fmt.Errorf("length %v: must be above 0 and at most %v", ph.Length, maxLength)
	case ph.Offsets != nil:
		for i, at := range ph.Offsets {
			if at < 0 || at > ph.Length || i > 0 && at < ph.Offsets[i-1] {
				return fmt.Errorf("offset %d of the trace is %v: must be ascending and at most %v", i+1, at, ph.Length)
			}
		}
		return nil
	}
	for _, r := range []Rate{ph.From, ph.To} {
		if math.IsNaN(float64(r)) || r < 0 || r > MaxRate {
			return fmt.Errorf("rate %g/s: must be 0/s to %g/s", float64(r), float64(MaxRate))
		}
	}
	return nil
}

// total is how many arrivals the phase expects: the integral of its rate.
func (ph Phase) total() float64 {
	if ph.Offsets != nil {
		return float64(len(ph.Offsets))
	}
	return float64(ph.From+ph.To) / 2 * ph.Length.Seconds()
}

// when is the time at which the integral of the rate, from the start of the phase, reaches m.
// It solves a t + (b-a) t^2 / (2 T) = m in the form that keeps its digits where a is near b.
func (ph Phase) when(m float64) time.Duration {
	if m <= 0 {
		return 0
	}
	a, b, length := float64(ph.From), float64(ph.To), ph.Length.Seconds()
	root := math.Sqrt(max(0, a*a+2*(b-a)*m/length))
	return min(time.Duration(math.Round(2*m/(a+root)*1e9)), ph.Length)
}

// below is how many whole numbers from 0 lie below m. A sum of rates that should be whole and
// misses it by a rounding error counts as whole.
func below(m float64) int64 { return int64(math.Ceil(m - 1e-7)) }

// Count is how many arrivals there are.
func (s *Schedule) Count() int64 { return s.count }

// Length is how long the schedule takes; the last arrival comes before its end.
func (s *Schedule) Length() time.Duration { return s.length }

// Due is when arrival i is due, from the start. i is 0 to Count-1; it panics on others, as a
// slice does.
func (s *Schedule) Due(i int64) time.Duration {
	if i < 0 || i >= s.count {
		panic(fmt.Sprintf("arrival %d of %d", i, s.count))
	}
	k := sort.Search(len(s.parts), func(k int) bool { return s.parts[k].first+s.parts[k].count > i })
	return s.parts[k].due(i - s.parts[k].first)
}

func (p *part) due(j int64) time.Duration {
	switch {
	case p.Offsets != nil:
		return p.start + p.Offsets[j]
	case p.walk != nil:
		return p.start + p.when(p.walk.at(j))
	}
	return p.start + p.when(float64(below(p.mass)+j)-p.mass)
}

// Rate is the rate that is planned at a time from the start; of a trace, its mean.
func (s *Schedule) Rate(at time.Duration) Rate {
	for _, p := range s.parts {
		if at < p.start || at >= p.start+p.Length {
			continue
		}
		if p.Offsets != nil {
			return Rate(p.total() / p.Length.Seconds())
		}
		return p.From + (p.To-p.From)*Rate((at-p.start).Seconds()/p.Length.Seconds())
	}
	return 0
}

// Share gives worker k of n its arrivals, in order: those whose index is k modulo n. All
// workers together have all arrivals, each once, and each works them out by itself.
func (s *Schedule) Share(k, n int) iter.Seq2[int64, time.Duration] {
	return func(yield func(int64, time.Duration) bool) {
		for i := int64(k); n > 0 && i < s.count; i += int64(n) {
			if !yield(i, s.Due(i)) {
				return
			}
		}
	}
}

// Steps goes from one rate to another in stairs of the same length, both ends included.
func Steps(from, to, by Rate, length time.Duration, poisson bool) ([]Phase, error) {
	if by <= 0 || from < 0 || to < 0 || math.IsNaN(float64(from+to+by)) {
		return nil, errors.New("steps need a step above 0/s")
	}
	n := math.Floor(math.Abs(float64(to-from))/float64(by)+1e-9) + 1
	if n > maxPhases {
		return nil, fmt.Errorf("%g steps: at most %d are allowed", n, maxPhases)
	}
	if to < from {
		by = -by
	}
	var phases []Phase
	for k := range int(n) {
		rate := from + Rate(k)*by
		// Ends that follow from the whole, so that the lengths add up to it exactly.
		start, end := length*time.Duration(k)/time.Duration(n), length*time.Duration(k+1)/time.Duration(n)
		phases = append(phases, Phase{From: rate, To: rate, Length: end - start, Poisson: poisson})
	}
	return phases, nil
}
