package measure

import (
	"fmt"
	"math"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// MostPoints bounds a Series: a run of two hours has a point each second; a longer one has
// one each 2, 4, 8 ... seconds.
const MostPoints = 7200

// Series is the course of a run.
type Series struct {
	Interval int64   `json:"interval_s"`
	Points   []Point `json:"points"`
}

// Point is one interval. A call's arrival and setup count where it was due, its outcome
// where it ended, packets where they were received.
type Point struct {
	At        int64  `json:"at_s"` // begin, since the start of the run
	Offered   int64  `json:"offered"`
	Started   int64  `json:"started"`
	Answered  int64  `json:"answered"` // by an agent
	Completed int64  `json:"completed"`
	Abandoned int64  `json:"abandoned"`
	Dropped   int64  `json:"dropped"`
	Failed    int64  `json:"failed"` // refused, unanswered, cut and failed together
	Live      int64  `json:"live"`   // dialled and not ended, at the end of the interval
	Setup     *Brief `json:"setup,omitempty"`
	OneWay    *Brief `json:"media_one_way,omitempty"`
}

// Brief is a small distribution in microseconds, of two significant digits.
type Brief struct {
	Count int64  `json:"count"`
	P50   Micros `json:"p50_us"`
	P99   Micros `json:"p99_us"`
	Max   Micros `json:"max_us"`
	Tally Tally  `json:"us_counts,omitempty"`
}

// course gathers a Series.
type course struct {
	interval int64
	points   []*point
}

type point struct {
	Point         // its counts; Live is here how many more there are than before
	setup, oneWay *hdr.PackedHistogram
}

func newCourse() course { return course{interval: 1} }

// at is the point of a time. It coarsens the course when the time lies past its end.
func (c *course) at(t Micros) *point {
	t = min(max(t, 0), Micros(math.MaxInt64/4))
	for int64(t)/1_000_000/c.interval >= MostPoints {
		c.coarsen()
	}
	i := int(int64(t) / 1_000_000 / c.interval)
	for len(c.points) <= i {
		c.points = append(c.points, &point{})
	}
	return c.points[i]
}

// coarsenTo makes the interval at least that long, in seconds.
func (c *course) coarsenTo(interval int64) {
	for c.interval < min(interval, 1<<40) {
		c.coarsen()
	}
}

// coarsen doubles the interval.
func (c *course) coarsen() {
	c.interval *= 2
	half := make([]*point, 0, len(c.points)/2+1)
	for i, p := range c.points {
		if i%2 == 0 {
			half = append(half, p)
			continue
		}
		half[i/2].add(p)
	}
	c.points = half
}

func (p *point) add(q *point) {
	p.Offered += q.Offered
	p.Started += q.Started
	p.Answered += q.Answered
	p.Completed += q.Completed
	p.Abandoned += q.Abandoned
	p.Dropped += q.Dropped
	p.Failed += q.Failed
	p.Live += q.Live
	p.setup, p.oneWay = both(p.setup, q.setup), both(p.oneWay, q.oneWay)
}

func both(a, b *hdr.PackedHistogram) *hdr.PackedHistogram {
	if a == nil {
		return b
	}
	if b != nil {
		a.Merge(b)
	}
	return a
}

// record adds n values to a histogram that is made when it is first needed.
func record(h **hdr.PackedHistogram, v, n int64) {
	if *h == nil {
		*h = hdr.NewPacked(1, int64(Highest), 2)
	}
	_ = (*h).RecordValues(min(max(v, 0), int64(Highest)), n)
}

// add accounts for a call in the points that it touched.
func (c *course) add(call *Call) {
	p := c.at(call.Due)
	p.Offered++
	if call.Invited >= 0 && call.Answered >= 0 {
		record(&p.setup, int64(call.Answered-call.Invited), 1)
	}
	if call.Invited >= 0 {
		p = c.at(call.Invited)
		p.Started++
		p.Live++
		c.at(max(call.Ended, call.Invited)).Live--
	}
	if call.AgentAnswer >= 0 {
		c.at(call.AgentAnswer).Answered++
	}
	switch p = c.at(max(call.Ended, call.Due)); call.Outcome {
	case Completed:
		p.Completed++
	case Abandoned:
		p.Abandoned++
	case Dropped:
		p.Dropped++
	default:
		p.Failed++
	}
}

// packets accounts for voice packets that were received within a second of the run.
func (c *course) packets(second int64, t Tally) {
	if len(t) == 0 {
		return
	}
	p := c.at(seconds(second))
	for _, pair := range t {
		record(&p.oneWay, pair[0], pair[1])
	}
}

func seconds(n int64) Micros { return Micros(min(max(n, 0), math.MaxInt64/4_000_000) * 1_000_000) }

// merge adds a course that was written down.
func (c *course) merge(s Series) error {
	if s.Interval <= 0 || s.Interval > 1<<40 || s.Interval&(s.Interval-1) != 0 || len(s.Points) > MostPoints {
		return fmt.Errorf("the series has %d points of %d s: must be at most %d, of a power of two", len(s.Points), s.Interval, MostPoints)
	}
	c.coarsenTo(s.Interval)
	live := int64(0)
	for i, q := range s.Points {
		if q.At != int64(i)*s.Interval {
			return fmt.Errorf("point %d of the series is at %d s, must be at %d", i, q.At, int64(i)*s.Interval)
		}
		change := q.Live - live
		live = q.Live
		other := &point{Point: q}
		other.Live = change
		for _, pair := range q.Setup.tally() {
			record(&other.setup, pair[0], pair[1])
		}
		for _, pair := range q.OneWay.tally() {
			record(&other.oneWay, pair[0], pair[1])
		}
		c.at(seconds(q.At)).add(other)
	}
	return nil
}

func (b *Brief) tally() Tally {
	if b == nil {
		return nil
	}
	return b.Tally
}

// series writes the course down.
func (c *course) series() Series {
	s := Series{Interval: c.interval, Points: make([]Point, len(c.points))}
	live := int64(0)
	for i, p := range c.points {
		live += p.Live
		q := p.Point
		q.At, q.Live, q.Setup, q.OneWay = int64(i)*c.interval, live, brief(p.setup), brief(p.oneWay)
		s.Points[i] = q
	}
	return s
}

func brief(h *hdr.PackedHistogram) *Brief {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	return &Brief{Count: h.TotalCount(), P50: Micros(h.ValueAtPercentile(50)), P99: Micros(h.ValueAtPercentile(99)), Max: Micros(h.Max()), Tally: TallyOfPacked(h)}
}

// Coarse is the series with longer intervals, so that it has at most that many points: for
// plots. Percentiles come from the merged tallies.
func (s Series) Coarse(most int) (Series, error) {
	c := newCourse()
	if err := c.merge(s); err != nil {
		return Series{}, err
	}
	for len(c.points) > max(most, 1) {
		c.coarsen()
	}
	return c.series(), nil
}
