package report

import (
	"math"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// mostPlotted bounds the points of a curve.
const mostPlotted = 400

// charts are all drawings of the page by the section in which they stand.
func charts(r *measure.Result) (calls, setup, media []*chart, err error) {
	series, err := r.Series.Coarse(mostPlotted)
	if err != nil {
		return nil, nil, nil, err
	}
	calls, setup, media = overCalls(series), overSetup(series), overMedia(series)
	for _, group := range []struct {
		charts *[]*chart
		names  []string
		title  string
	}{
		{&setup, []string{measure.Setup, "routing", "teardown"}, "Signalling by percentile"},
		{&media, []string{measure.MediaCallerHears, measure.MediaAgentHears}, "One-way latency by percentile"},
	} {
		c, err := byPercentile(r, group.title, group.names)
		if err != nil {
			return nil, nil, nil, err
		}
		*group.charts = append(*group.charts, c)
	}
	for _, group := range []*[]*chart{&calls, &setup, &media} {
		*group = drawable(*group)
		for _, c := range *group {
			if err := c.draw(); err != nil {
				return nil, nil, nil, err
			}
		}
	}
	return calls, setup, media, nil
}

// drawable leaves out what has no values.
func drawable(all []*chart) (some []*chart) {
	for _, c := range all {
		var curves []curve
		for _, k := range c.Curves {
			for _, y := range k.ys {
				if !math.IsNaN(y) {
					curves = append(curves, k)
					break
				}
			}
		}
		if c.Curves = curves; len(curves) > 0 {
			some = append(some, c)
		}
	}
	return some
}

// overTime makes a chart over the run; each value is a curve.
func overTime(s measure.Series, title, unit string, curves []curve, values func(measure.Point) []float64) *chart {
	c := &chart{Title: title, Unit: unit, X: "since the start", x: timeAxis(float64(int64(len(s.Points)) * s.Interval))}
	for i := range curves {
		curves[i].Colour = i + 1
	}
	for _, p := range s.Points {
		for i, v := range values(p) {
			curves[i].xs = append(curves[i].xs, float64(p.At)+float64(s.Interval)/2)
			curves[i].ys = append(curves[i].ys, v)
		}
	}
	c.Curves = curves
	return c
}

func overCalls(s measure.Series) []*chart {
	per := func(n int64) float64 { return float64(n) / float64(s.Interval) }
	return []*chart{
		overTime(s, "Calls per second", "calls/s", []curve{{Name: "offered"}, {Name: "answered"}, {Name: "failed or dropped"}}, func(p measure.Point) []float64 {
			return []float64{per(p.Offered), per(p.Answered), per(p.Failed + p.Dropped)}
		}),
		overTime(s, "Concurrent calls", "calls", []curve{{Name: "live"}}, func(p measure.Point) []float64 { return []float64{float64(p.Live)} }),
	}
}

func overSetup(s measure.Series) []*chart {
	return []*chart{overBrief(s, "Setup over time", func(p measure.Point) *measure.Brief { return p.Setup })}
}

func overMedia(s measure.Series) []*chart {
	return []*chart{overBrief(s, "One-way latency over time", func(p measure.Point) *measure.Brief { return p.OneWay })}
}

func overBrief(s measure.Series, title string, of func(measure.Point) *measure.Brief) *chart {
	c := overTime(s, title, "ms", []curve{{Name: "p50"}, {Name: "p99"}, {Name: "max"}}, func(p measure.Point) []float64 {
		b := of(p)
		if b == nil {
			return []float64{math.NaN(), math.NaN(), math.NaN()}
		}
		return []float64{float64(max(b.P50, 1)) / 1_000, float64(max(b.P99, 1)) / 1_000, float64(max(b.Max, 1)) / 1_000}
	})
	c.logY = true
	return c
}

// byPercentile draws distributions from their histograms.
func byPercentile(r *measure.Result, title string, names []string) (*chart, error) {
	most := int64(0)
	for _, name := range names {
		most = max(most, r.Metrics[name].Count)
	}
	c := &chart{Title: title, Unit: "ms", X: "of all samples are at or below", x: percentileAxis(most), logY: true}
	for i, name := range names {
		d := r.Metrics[name]
		if d.Count == 0 {
			continue
		}
		h, err := d.Histogram()
		if err != nil {
			return nil, err
		}
		k := curve{Name: name, Colour: i + 1}
		// Beyond one sample there is nothing to know.
		last := math.Log10(float64(max(d.Count, 2)))
		end := min(last, c.x.max)
		for step := range 201 {
			x := end * (float64(step) / 200)
			v := min(float64(h.ValueAtPercentile(100*(1-math.Pow(10, -x)))), d.Max)
			if x == last {
				v = d.Max // the last of n samples
			}
			k.xs, k.ys = append(k.xs, x), append(k.ys, max(v, 1)/1_000)
		}
		c.Curves = append(c.Curves, k)
	}
	return c, nil
}
