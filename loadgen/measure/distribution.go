package measure

import (
	"fmt"
	"math"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Units of a Distribution's figures.
const (
	UnitTime  = "us"    // microseconds
	UnitRatio = "ratio" // 0 to 1
	UnitMOS   = "mos"   // 1 to 4.5
)

// Distribution is one metric of a run. Figures are in Unit. The percentiles come from the
// histogram (three significant digits), never from other percentiles; count, min, mean and
// max are exact. Without samples every figure is 0 and means nothing: look at Count.
type Distribution struct {
	What     string  `json:"what"` // from which moment to which, and over what
	Unit     string  `json:"unit"`
	Count    int64   `json:"count"`
	Negative int64   `json:"negative,omitempty"` // samples that ended before they began, counted as 0
	Min      float64 `json:"min"`
	Mean     float64 `json:"mean"`
	P1       float64 `json:"p1"` // where low is bad (MOS), this is what p99 is elsewhere
	P50      float64 `json:"p50"`
	P90      float64 `json:"p90"`
	P95      float64 `json:"p95"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p99_9"`
	Max      float64 `json:"max"`
	Sum      int64   `json:"hdr_sum"`       // of what was recorded: the mean without its rounding
	Scale    int64   `json:"hdr_scale"`     // a value in the histogram is a figure times this
	HDR      string  `json:"hdr,omitempty"` // HdrHistogram, V2, compressed, base64
}

// Histogram decodes what the distribution was made of.
// Its values are the figures times Scale.
func (d *Distribution) Histogram() (*hdr.PackedHistogram, error) {
	if d.HDR == "" {
		return NewHistogram(), nil
	}
	h, err := hdr.DecodePacked([]byte(d.HDR))
	if err != nil {
		return nil, fmt.Errorf("the histogram cannot be read: %w", err)
	}
	if h.HighestTrackableValue() != int64(Highest) || h.SignificantFigures() != digits {
		return nil, fmt.Errorf("the histogram has %d digits up to %d, must have %d up to %d", h.SignificantFigures(), h.HighestTrackableValue(), digits, int64(Highest))
	}
	return h, nil
}

// scaleOf is how many steps of the histogram make one unit.
func scaleOf(unit string) int64 {
	switch unit {
	case UnitRatio:
		return 1_000_000
	case UnitMOS:
		return 1_000
	default:
		return 1
	}
}

// sample gathers one metric.
type sample struct {
	hist     *hdr.PackedHistogram
	count    int64
	negative int64
	sum      int64
	min, max int64
}

func newSample() *sample { return &sample{hist: NewHistogram(), min: math.MaxInt64} }

// add records n samples of v steps.
func (s *sample) add(v, n int64) {
	if n <= 0 {
		return
	}
	if v < 0 {
		s.negative += n
		v = 0
	}
	v = min(v, int64(Highest))
	if s.hist.RecordValues(v, n) != nil {
		return // the count would pass 2^63: cannot happen in a lifetime, and must not lie
	}
	s.count += n
	s.sum = saturate(s.sum, v*n, v > 0 && n > math.MaxInt64/v)
	s.min, s.max = min(s.min, v), max(s.max, v)
}

// tally records many samples; the largest was exactly most (or Never, if that is not known).
func (s *sample) tally(t Tally, most Micros) {
	for _, pair := range t {
		s.add(pair[0], pair[1])
	}
	// A tally holds the lower edge of each bucket: the exact maximum lies in the same one.
	if len(t) > 0 && most > 0 {
		s.max = max(s.max, int64(min(most, Highest)))
	}
}

func saturate(a, b int64, over bool) int64 {
	if over || a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// merge adds a distribution that was written down.
func (s *sample) merge(d *Distribution) error {
	if d.Count == 0 {
		return nil
	}
	h, err := d.Histogram()
	if err != nil {
		return err
	}
	if h.TotalCount() != d.Count {
		return fmt.Errorf("count is %d, but the histogram holds %d", d.Count, h.TotalCount())
	}
	if lost := s.hist.Merge(h); lost != 0 {
		return fmt.Errorf("%d samples do not fit", lost)
	}
	scale := float64(scaleOf(d.Unit))
	s.count, s.negative = s.count+d.Count, s.negative+d.Negative
	s.sum = saturate(s.sum, d.Sum, false)
	s.min = min(s.min, int64(math.Round(d.Min*scale)))
	s.max = max(s.max, int64(math.Round(d.Max*scale)))
	return nil
}

// distribution is what has been gathered, written down.
func (s *sample) distribution(what, unit string) (Distribution, error) {
	d := Distribution{What: what, Unit: unit, Scale: scaleOf(unit)}
	if s.count == 0 {
		return d, nil
	}
	text, err := s.hist.EncodeV2()
	if err != nil {
		return d, fmt.Errorf("a histogram cannot be written: %w", err)
	}
	scale := float64(d.Scale)
	// The upper edge of a bucket may lie past the largest sample.
	at := func(p float64) float64 {
		return float64(min(max(s.hist.ValueAtPercentile(p), s.min), s.max)) / scale
	}
	d.HDR, d.Count, d.Negative, d.Sum = string(text), s.count, s.negative, s.sum
	d.Min, d.Max = float64(s.min)/scale, float64(s.max)/scale
	d.Mean = float64(s.sum) / float64(s.count) / scale
	d.P1, d.P50, d.P90, d.P95, d.P99, d.P999 = at(1), at(50), at(90), at(95), at(99), at(99.9)
	return d, nil
}
