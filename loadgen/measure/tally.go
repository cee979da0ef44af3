package measure

import (
	"encoding/json"
	"fmt"
	"slices"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// The one geometry of all histograms, so that any two can be merged: microseconds up to a
// day, three significant digits (a percentile is off by at most 0.1% of the values that were
// counted; those of packets' one-way latency come from the calls, in steps of 1.6%).
const (
	Highest Micros = 24 * 3600 * 1_000_000
	digits         = 3
)

// NewHistogram makes an empty histogram of the geometry that all of this package share.
// It is sparse: a few bytes for each distinct value.
func NewHistogram() *hdr.PackedHistogram { return hdr.NewPacked(1, int64(Highest), digits) }

// Tally is a histogram as text that needs no library to read: pairs of a value in
// microseconds and how often it came, ascending by value.
type Tally [][2]int64

// UnmarshalJSON reads pairs of exactly two numbers. (Without it [1] would be read as [1,0].)
func (t *Tally) UnmarshalJSON(text []byte) error {
	var pairs [][]int64
	if err := json.Unmarshal(text, &pairs); err != nil {
		return err
	}
	*t = make(Tally, len(pairs))
	for i, pair := range pairs {
		if len(pair) != 2 {
			return fmt.Errorf("entry %d of a tally has %d numbers, must be [value, count]", i, len(pair))
		}
		(*t)[i] = [2]int64{pair[0], pair[1]}
	}
	return nil
}

// TallyOf writes down a dense histogram of microseconds.
func TallyOf(h *hdr.Histogram) Tally {
	sparse := NewHistogram()
	sparse.MergeFrom(h)
	return TallyOfPacked(sparse)
}

// TallyOfPacked writes down a sparse histogram of microseconds.
func TallyOfPacked(h *hdr.PackedHistogram) Tally {
	t := make(Tally, 0, h.Populated())
	h.ForEachBucket(func(value, count int64) bool {
		t = append(t, [2]int64{value, count})
		return true
	})
	return t
}

// Count is the number of values.
func (t Tally) Count() (n int64) {
	for _, pair := range t {
		n += pair[1]
	}
	return n
}

// valid says whether the tally is one: ascending values from 0 to Highest, counts above 0.
func (t Tally) valid() bool {
	last, total := int64(-1), int64(0)
	for _, pair := range t {
		if pair[0] <= last || pair[0] > int64(Highest) || pair[1] <= 0 || pair[1] > 1<<40 {
			return false
		}
		last, total = pair[0], total+pair[1]
		if total > 1<<50 {
			return false
		}
	}
	return true
}

// rank is the smallest value below or at which a share of the values lie.
func (t Tally) rank(share float64) Micros {
	if len(t) == 0 {
		return Never
	}
	below, wanted := int64(0), int64(share*float64(t.Count())+0.5)
	i := slices.IndexFunc(t, func(pair [2]int64) bool { below += pair[1]; return below >= max(wanted, 1) })
	if i < 0 {
		i = len(t) - 1
	}
	return Micros(t[i][0])
}
