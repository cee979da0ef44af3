package measure

import (
	"encoding/json"
	"maps"
	"strconv"
	"sync"
	"time"
)

// Recorder makes a Result of calls, one at a time. Its memory is bounded by the values'
// spread and the run's length, not by the number of calls. It is safe for concurrent use.
type Recorder struct {
	mu       sync.Mutex
	metrics  []Metric
	samples  map[string]*sample
	counts   Counts
	media    Media
	statuses map[string]int64
	reasons  map[string]int64
	course   course
}

// mostReasons bounds the reasons that are counted by their words; further ones are "other".
const mostReasons = 64

func NewRecorder() *Recorder {
	r := &Recorder{metrics: Metrics(), samples: map[string]*sample{}, media: Media{By: map[string]int64{}}, statuses: map[string]int64{}, reasons: map[string]int64{}, course: newCourse()}
	for _, m := range r.metrics {
		r.samples[m.Name] = newSample()
	}
	return r
}

// Add accounts for an arrival that has ended, in whichever way, and for the packets of its
// two Audio.
func (r *Recorder) Add(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Offered++
	*r.counts.of(c.Outcome)++
	if c.Outcome != Dropped {
		r.counts.Attempted++
	}
	if c.Status >= 300 {
		r.statuses[strconv.Itoa(min(c.Status, 999))]++
	}
	if c.Reason != "" {
		countReason(r.reasons, c.Reason, 1)
	}
	for i := range r.metrics {
		r.measure(&r.metrics[i], c)
	}
	r.hear(MediaCallerHears, c.CallerEar)
	r.hear(MediaAgentHears, c.AgentEar)
	r.course.add(c)
}

func (r *Recorder) measure(m *Metric, c *Call) {
	if m.ofCall != nil {
		if v, ok := m.ofCall(c); ok {
			r.samples[m.Name].add(v, 1)
		}
	}
	if m.ofEar == nil {
		return
	}
	for _, ear := range [2]*Audio{c.CallerEar, c.AgentEar} {
		if ear == nil {
			continue
		}
		if v, ok := m.ofEar(ear); ok {
			r.samples[m.Name].add(v, 1)
		}
	}
}

func (r *Recorder) hear(metric string, a *Audio) {
	if a == nil {
		return
	}
	r.media.hear(a)
	r.samples[metric].tally(a.Packets, a.LatencyMax)
	r.samples[MediaOneWay].tally(a.Packets, a.LatencyMax)
}

func countReason(reasons map[string]int64, reason string, n int64) {
	if _, known := reasons[reason]; !known && len(reasons) >= mostReasons {
		reason = "other"
	}
	reasons[reason] += n
}

// AddMouthToEar accounts for the mouth-to-ear latency (microseconds) of single packets. It
// cannot be computed again from the calls file, which has the median of each call.
func (r *Recorder) AddMouthToEar(t Tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples[MouthToEar].tally(t, Never)
}

// AddSendJitter accounts for how late (microseconds) RTP packets were sent.
func (r *Recorder) AddSendJitter(t Tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples[SendJitter].tally(t, Never)
}

// AddRegister accounts for one registration that took span.
func (r *Recorder) AddRegister(span Micros) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples[Register].add(int64(span), 1)
}

// AddSecond adds one-way latencies of packets received in a second of the run to the series.
// They are not counted in the metrics.
func (r *Recorder) AddSecond(second int64, t Tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.course.packets(second, t)
}

// Quantiles are what the metric has been so far, in microseconds: for progress.
// n is the number of samples.
func (r *Recorder) Quantiles(metric string) (p50, p99 Micros, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.samples[metric]
	if s == nil || s.count == 0 {
		return Never, Never, 0
	}
	return Micros(s.hist.ValueAtPercentile(50)), Micros(s.hist.ValueAtPercentile(99)), s.count
}

// Counts are the outcomes so far.
func (r *Recorder) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Run is what the Recorder cannot know of a run.
type Run struct {
	Started, Finished time.Time
	Target            string
	Profile           json.RawMessage // a JSON object; empty counts as {}
	Generator         Generator
	Machine           Machine
	Stated            Stated
	Pacing            Pacing
	Limits            Limits
}

// Result closes the account: it writes down what was added and judges the generator by the
// limits. The recorder can go on; objectives are judged by the caller.
func (r *Recorder) Result(run Run) (*Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res, err := r.document()
	if err != nil {
		return nil, err
	}
	res.Started, res.Finished = run.Started.UTC(), run.Finished.UTC()
	res.Duration = Micros(run.Finished.Sub(run.Started).Microseconds())
	res.Target, res.Profile = run.Target, run.Profile
	if len(res.Profile) == 0 {
		res.Profile = json.RawMessage("{}")
	}
	res.Generator, res.Machines, res.Workers = run.Generator, []Machine{run.Machine}, 1
	res.Pacing, res.Stated = run.Pacing, run.Stated
	res.Budget = budget(run.Stated, res.Metrics)
	res.Validate(run.Limits)
	return res, nil
}

// document is what was added, in a Result that is valid so far.
func (r *Recorder) document() (*Result, error) {
	res := &Result{Schema: SchemaID, Valid: true, Invalid: []string{}, Verdicts: []Verdict{}, Counts: r.counts, Statuses: maps.Clone(r.statuses), Reasons: maps.Clone(r.reasons),
		Metrics: map[string]Distribution{}, Media: r.media, Series: r.course.series()}
	res.Media.By = maps.Clone(r.media.By)
	for _, m := range r.metrics {
		d, err := r.samples[m.Name].distribution(m.What, m.Unit)
		if err != nil {
			return nil, err
		}
		res.Metrics[m.Name] = d
	}
	return res, nil
}
