package stream

import (
	"math/bits"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// spread is a histogram of microseconds in 2.8 kB, so that every stream can have its own:
// exact below 64, above it in steps of 1/32, so that a quantile is within 1.6% of the value
// that was recorded.
type spread struct {
	n      uint64
	max    measure.Micros
	counts [spreadSize]uint32
}

const (
	spreadSize = 64 + 20*32 // up to 2^26 us, 67 s
	spreadTop  = 1<<26 - 1
)

func bucket(v measure.Micros) int {
	v = min(max(v, 0), spreadTop)
	if v < 64 {
		return int(v)
	}
	e := bits.Len64(uint64(v)) - 6
	return 64 + (e-1)*32 + int(v>>e) - 32
}

// middle is the value that stands for a bucket.
func middle(bucket int) measure.Micros {
	if bucket < 64 {
		return measure.Micros(bucket)
	}
	e := (bucket-64)/32 + 1
	return measure.Micros(((bucket-64)%32+32)<<e + 1<<e/2)
}

func (s *spread) add(v measure.Micros) {
	s.counts[bucket(v)]++
	s.n++
	s.max = max(s.max, v)
}

func (s *spread) merge(from *spread) {
	for i, n := range from.counts {
		s.counts[i] += n
	}
	s.n += from.n
	s.max = max(s.max, from.max)
}

// tally writes the spread down; its largest value is exact.
func (s *spread) tally() measure.Tally {
	var t measure.Tally
	for i, n := range s.counts {
		if n > 0 {
			t = append(t, [2]int64{int64(min(middle(i), s.max)), int64(n)})
		}
	}
	return t
}

// quantile is the least value that a share q of all does not exceed, 0 without any.
func (s *spread) quantile(q float64) measure.Micros {
	if s.n == 0 {
		return 0
	}
	want := max(1, uint64(q*float64(s.n)+0.5))
	sum := uint64(0)
	for i, n := range s.counts {
		if sum += uint64(n); sum >= want {
			return min(middle(i), s.max)
		}
	}
	return s.max
}
