package slo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// figure is a number of a result that has a name.
type figure struct {
	metric, stat string
	unit         unit
	value        func(*measure.Result) float64
	samples      func(*measure.Result) int64
}

// stats are what a metric can be asked for.
func stats() []string {
	return []string{"p1", "p50", "p90", "p95", "p99", "p999", "max", "min", "mean", "count"}
}

// find is the figure of a name; its error says what is wrong and what is near.
func find(name string) (figure, error) {
	for _, f := range scalars() {
		if f.metric == name {
			return f, nil
		}
	}
	metrics := measure.Metrics()
	named := func(m measure.Metric) bool { return m.Name == name }
	if slices.ContainsFunc(metrics, named) {
		return figure{}, fmt.Errorf("%q needs one of its stats, such as %s_p99: %s", name, name, strings.Join(stats(), " "))
	}
	// A metric's name may contain "_" and another metric's name: the longest one counts.
	for _, m := range metrics {
		stat, ok := strings.CutPrefix(name, m.Name+"_")
		if ok && slices.Contains(stats(), stat) {
			return ofMetric(m, stat), nil
		}
	}
	hint := ""
	if near := nearest(name, names()); near != "" {
		hint = fmt.Sprintf("; did you mean %s?", near)
	}
	return figure{}, fmt.Errorf("there is no %q%s", name, hint)
}

func ofMetric(m measure.Metric, stat string) figure {
	f := figure{metric: m.Name, stat: stat, unit: times,
		value:   func(r *measure.Result) float64 { return statOf(r.Metrics[m.Name], stat) },
		samples: func(r *measure.Result) int64 { return r.Metrics[m.Name].Count }}
	switch {
	case stat == "count":
		f.unit = number
	case m.Unit == measure.UnitRatio:
		f.unit = ratio
	case m.Unit == measure.UnitMOS:
		f.unit = score
	}
	return f
}

func statOf(d measure.Distribution, stat string) float64 {
	switch stat {
	case "p1":
		return d.P1
	case "p50":
		return d.P50
	case "p90":
		return d.P90
	case "p95":
		return d.P95
	case "p99":
		return d.P99
	case "p999":
		return d.P999
	case "max":
		return d.Max
	case "min":
		return d.Min
	case "mean":
		return d.Mean
	default:
		return float64(d.Count)
	}
}

// scalars are the figures without a stat.
func scalars() []figure {
	arrivals := func(r *measure.Result) int64 { return r.Counts.Offered }
	expected := func(r *measure.Result) int64 { return int64(r.Media.Expected) }
	var all []figure
	for _, c := range []struct {
		name string
		of   func(measure.Counts) int64
	}{
		{"offered", func(c measure.Counts) int64 { return c.Offered }},
		{"attempted", func(c measure.Counts) int64 { return c.Attempted }},
		{"completed", func(c measure.Counts) int64 { return c.Completed }},
		{"dropped", func(c measure.Counts) int64 { return c.Dropped }},
		{"refused", func(c measure.Counts) int64 { return c.Refused }},
		{"abandoned", func(c measure.Counts) int64 { return c.Abandoned }},
		{"unanswered", func(c measure.Counts) int64 { return c.Unanswered }},
		{"cut", func(c measure.Counts) int64 { return c.Cut }},
		{"failed", func(c measure.Counts) int64 { return c.Failed }},
	} {
		all = append(all, figure{metric: c.name, unit: number, samples: arrivals, value: func(r *measure.Result) float64 { return float64(c.of(r.Counts)) }})
		if c.name != "offered" {
			all = append(all, figure{metric: c.name + "_ratio", unit: ratio, samples: arrivals, value: func(r *measure.Result) float64 {
				return float64(c.of(r.Counts)) / float64(r.Counts.Offered)
			}})
		}
	}
	return append(all,
		figure{metric: "loss", unit: ratio, samples: expected, value: func(r *measure.Result) float64 { return r.Media.LossRatio() }},
		figure{metric: "lost", unit: number, samples: expected, value: func(r *measure.Result) float64 { return float64(r.Media.Lost) }},
	)
}

// names are all names that find knows.
func names() []string {
	var all []string
	for _, f := range scalars() {
		all = append(all, f.metric)
	}
	for _, m := range measure.Metrics() {
		for _, stat := range stats() {
			all = append(all, m.Name+"_"+stat)
		}
	}
	return all
}

// Allowed is what an objective can be made of, for --help and for errors.
func Allowed() string {
	var metrics, counts []string
	for _, m := range measure.Metrics() {
		metrics = append(metrics, m.Name)
	}
	for _, f := range scalars() {
		counts = append(counts, f.metric)
	}
	return "an objective is METRIC_STAT or COUNT, one of < <= > >= == !=, and a number with its unit (us ms s, % or none)\n" +
		"  METRIC: " + strings.Join(metrics, " ") + "\n" +
		"  STAT:   " + strings.Join(stats(), " ") + "\n" +
		"  COUNT:  " + strings.Join(counts, " ")
}

// nearest is the known name that takes the fewest letters to get to, or "" when none is near.
func nearest(word string, known []string) string {
	best, least := "", max(2, len(word)/4)+1
	for _, candidate := range known {
		if d := distance(word, candidate, least); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of letters to change, add or remove, or to swap with a neighbour
// (optimal string alignment); most when it is that or more.
func distance(a, b string, most int) int {
	if len(a)-len(b) >= most || len(b)-len(a) >= most {
		return most
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], most)
}
