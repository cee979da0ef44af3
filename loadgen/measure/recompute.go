package measure

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
)

// MostLine bounds a line of the calls file.
const MostLine = 4 << 20

// mostDifferences bounds what Recompute lists.
const mostDifferences = 100

// Difference is a figure of the result that does not follow from the calls file.
type Difference struct {
	Where string `json:"where"` // the figure, or "line N"
	Told  string `json:"told"`  // by the result
	Found string `json:"found"` // in the calls file
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: the result says %s, the calls file %s", d.Where, d.Told, d.Found)
}

// Recomputed is what Recompute has found. The result follows from the calls file where
// Differences is empty.
type Recomputed struct {
	Lines       int64        `json:"lines"`
	Compared    []string     `json:"compared"` // metrics
	Skipped     []string     `json:"skipped"`  // metrics that are not in the calls file, with why
	Differences []Difference `json:"differences"`
}

// Recompute reads a calls file and computes all that follows from it again: counts, every
// metric with its percentiles, the series, and the file's digest. An error is a file that
// cannot be read; a figure that differs is a Difference.
func Recompute(calls io.Reader, r *Result) (Recomputed, error) {
	digest := sha256.New()
	again := &recount{recorder: NewRecorder(), seen: map[int64]bool{}}
	bytesRead := &countingWriter{}
	err := EachCall(io.TeeReader(calls, io.MultiWriter(digest, bytesRead)), again.line)
	found := Recomputed{Lines: again.lines, Compared: []string{}, Skipped: []string{}}
	if err != nil {
		return found, err
	}
	again.recorder.course.coarsenTo(r.Series.Interval)
	res, err := again.recorder.document()
	if err != nil {
		return found, err
	}
	again.compare("calls.lines", r.Counts.Offered, again.lines)
	if r.Calls != nil {
		again.compare("calls.sha256", r.Calls.SHA256, hex.EncodeToString(digest.Sum(nil)))
		again.compare("calls.bytes", r.Calls.Bytes, bytesRead.n)
	}
	again.compare("counts", r.Counts, res.Counts)
	again.compareMap("sip_statuses", r.Statuses, res.Statuses)
	if len(r.Reasons) <= mostReasons && r.Reasons["other"] == 0 {
		again.compareMap("reasons", r.Reasons, res.Reasons)
	}
	again.compare("media", fmt.Sprintf("%+v", r.Media), fmt.Sprintf("%+v", res.Media))
	for _, m := range Metrics() {
		if why := again.missing(m); why != "" {
			found.Skipped = append(found.Skipped, m.Name+": "+why+"; its figures were compared with its own histogram")
			again.own(m, r.Metrics[m.Name])
			continue
		}
		found.Compared = append(found.Compared, m.Name)
		again.metric(m.Name, r.Metrics[m.Name], res.Metrics[m.Name])
	}
	again.series(r.Series, res.Series)
	found.Differences = again.differences
	return found, nil
}

// EachCall reads a calls file line by line, strictly: an unknown field or a second value on
// a line is an error.
func EachCall(calls io.Reader, each func(line int64, c *Call) error) error {
	lines := bufio.NewScanner(calls)
	lines.Buffer(make([]byte, 64<<10), MostLine)
	n := int64(0)
	for lines.Scan() {
		n++
		var c Call
		dec := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&c); err != nil {
			return fmt.Errorf("calls file, line %d: %w", n, err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("calls file, line %d: more than one value", n)
		}
		if err := each(n, &c); err != nil {
			return fmt.Errorf("calls file, line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("calls file, after line %d: %w", n, err)
	}
	return nil
}

// recount gathers what the calls file says.
type recount struct {
	recorder    *Recorder
	seen        map[int64]bool // indexes
	lines       int64
	noPackets   int64 // ears whose latencies are not on the line
	differences []Difference
}

func (r *recount) line(n int64, c *Call) error {
	r.lines++
	where := fmt.Sprintf("line %d", n)
	if r.seen[c.Index] {
		r.differ(where, "every index once", fmt.Sprintf("index %d again", c.Index))
	}
	r.seen[c.Index] = true
	known := Counts{}
	if *known.of(c.Outcome)++; known.Failed == 1 && c.Outcome != Failed {
		return fmt.Errorf("%q is not an outcome", c.Outcome)
	}
	for _, ear := range []*Audio{c.CallerEar, c.AgentEar} {
		if ear == nil {
			continue
		}
		if !ear.Packets.valid() {
			return errors.New("latency_us_counts must hold ascending values with counts above 0")
		}
		if len(ear.Packets) == 0 {
			if ear.LatencyN > 0 {
				r.noPackets++
			}
			continue
		}
		r.ear(where, ear)
	}
	r.recorder.Add(c)
	return nil
}

// ear checks that the summary of an ear's latencies is that of its packets.
func (r *recount) ear(where string, a *Audio) {
	if n := a.Packets.Count(); n != int64(a.LatencyN) {
		r.differ(where, fmt.Sprintf("latency_n %d", a.LatencyN), fmt.Sprintf("%d packets", n))
	}
	one := 1 / float64(a.Packets.Count())
	for _, p := range []struct {
		name string
		told Micros
		at   float64
	}{{"latency_p50_us", a.LatencyP50, 0.5}, {"latency_p99_us", a.LatencyP99, 0.99}, {"latency_max_us", a.LatencyMax, 1}} {
		// There is more than one definition of a percentile: they are one rank apart. And it
		// may be either edge of its bucket.
		from, to := a.Packets.rank(max(p.at-one, 0)), a.Packets.rank(min(p.at+one, 1))
		if p.at == 1 {
			from = to
		}
		if float64(p.told) < 0.99*float64(from)-2 || float64(p.told) > 1.01*float64(to)+2 {
			r.differ(where, fmt.Sprintf("%s %d", p.name, p.told), fmt.Sprintf("%d in its packets", a.Packets.rank(p.at)))
		}
	}
}

// missing says why a metric cannot be computed again.
func (r *recount) missing(m Metric) string {
	switch {
	case !m.InCalls():
		return "it is not part of a call"
	case r.noPackets > 0 && (m.Name == MediaOneWay || m.Name == MediaCallerHears || m.Name == MediaAgentHears):
		return "the calls file was written without each packet's latency"
	}
	return ""
}

// own compares a metric that is not in the calls file with the histogram beside it.
func (r *recount) own(m Metric, told Distribution) {
	s := newSample()
	if err := s.merge(&told); err != nil {
		r.differ(m.Name+".hdr", err.Error(), "nothing to compare it with")
		return
	}
	found, err := s.distribution(m.What, m.Unit)
	if err != nil {
		r.differ(m.Name+".hdr", err.Error(), "nothing to compare it with")
		return
	}
	r.metric(m.Name, told, found)
}

func (r *recount) metric(name string, told, found Distribution) {
	before := len(r.differences)
	r.compare(name+".count", told.Count, found.Count)
	r.compare(name+".negative", told.Negative, found.Negative)
	r.compare(name+".hdr_sum", told.Sum, found.Sum)
	for _, f := range []struct {
		stat        string
		told, found float64
	}{{"min", told.Min, found.Min}, {"mean", told.Mean, found.Mean}, {"p1", told.P1, found.P1}, {"p50", told.P50, found.P50}, {"p90", told.P90, found.P90},
		{"p95", told.P95, found.P95}, {"p99", told.P99, found.P99}, {"p99_9", told.P999, found.P999}, {"max", told.Max, found.Max}} {
		if math.Abs(f.told-f.found) > 1e-9*max(1, math.Abs(f.found)) {
			r.differ(name+"."+f.stat, fmt.Sprint(f.told), fmt.Sprint(f.found))
		}
	}
	if len(r.differences) == before && told.HDR != found.HDR {
		r.differ(name+".hdr", "another histogram", "with the same percentiles")
	}
}

// series compares what follows from calls; packets by second do not.
func (r *recount) series(told, found Series) {
	r.compare("series.interval_s", told.Interval, found.Interval)
	if told.Interval != found.Interval {
		return
	}
	for i := range max(len(told.Points), len(found.Points)) {
		var a, b Point
		if i < len(told.Points) {
			a = told.Points[i]
		}
		if i < len(found.Points) {
			b = found.Points[i]
		}
		where := fmt.Sprintf("series at %d s", int64(i)*told.Interval)
		if !slices.Equal(a.Setup.tally(), b.Setup.tally()) {
			r.differ(where+", setup", fmt.Sprint(a.Setup.tally()), fmt.Sprint(b.Setup.tally()))
		}
		a.At, a.Setup, a.OneWay = 0, nil, nil
		b.At, b.Setup, b.OneWay = 0, nil, nil
		r.compare(where, a, b)
	}
}

func (r *recount) compare(where string, told, found any) {
	if told != found {
		r.differ(where, fmt.Sprintf("%+v", told), fmt.Sprintf("%+v", found))
	}
}

func (r *recount) compareMap(where string, told, found map[string]int64) {
	if !maps.Equal(told, found) {
		r.differ(where, fmt.Sprint(told), fmt.Sprint(found))
	}
}

func (r *recount) differ(where, told, found string) {
	if len(r.differences) < mostDifferences {
		r.differences = append(r.differences, Difference{Where: where, Told: told, Found: found})
	}
}

type countingWriter struct{ n int64 }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	return len(p), nil
}
