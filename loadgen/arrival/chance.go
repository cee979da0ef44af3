package arrival

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// Chance is a source of random numbers for one purpose and one index. The same three give the
// same numbers in every process, so workers agree without talking, and a run can be repeated.
func Chance(seed uint64, purpose string, index int64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(purpose))
	a := mix(seed, h.Sum64())
	return rand.New(rand.NewPCG(mix(a, uint64(index)), mix(uint64(index), a)))
}

// mix makes one number of two (the finaliser of splitmix64).
func mix(a, b uint64) uint64 {
	z := a + 0x9e3779b97f4a7c15*(b+1)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// every is how many steps of a walk lie between two that are remembered: 8 bytes of memory
// for so many arrivals, and at most so many logarithms to find one by its index.
const every = 64

// walk is a Poisson process of rate 1: sums of independent exponential gaps, each by its index.
type walk struct {
	seed  uint64
	count int64     // arrivals before the end
	marks []float64 // sum after arrival 0, every, 2*every, ...
}

// newWalk walks up to the given end.
func newWalk(seed uint64, end float64) *walk {
	w := &walk{seed: seed}
	for at := w.gap(0); at < end && w.count <= MaxArrivals; at += w.gap(w.count) {
		if w.count%every == 0 {
			w.marks = append(w.marks, at)
		}
		w.count++
	}
	return w
}

// gap is exponentially distributed with mean 1.
func (w *walk) gap(j int64) float64 {
	return -math.Log(1 - float64(mix(w.seed, uint64(j))>>11)/(1<<53))
}

func (w *walk) at(j int64) float64 {
	at := w.marks[j/every]
	for k := j/every*every + 1; k <= j; k++ {
		at += w.gap(k)
	}
	return at
}
