package arrival

import (
	"math"
	"testing"
)

// Found by its index or reached step by step, an arrival is at the same place: the marks in
// between hide no gap and count none twice.
func TestWalkIsTheSumOfItsGaps(t *testing.T) {
	w := newWalk(5, 1000)
	sum := 0.0
	for j := range w.count {
		sum += w.gap(j)
		if got := w.at(j); math.Abs(got-sum) > 1e-9 {
			t.Fatalf("arrival %d is at %.9f, its gaps add up to %.9f", j, got, sum)
		}
	}
	if sum >= 1000 || sum+w.gap(w.count) < 1000 {
		t.Errorf("the last arrival is at %.3f, the next one at %.3f; the walk ends at 1000", sum, sum+w.gap(w.count))
	}
}
