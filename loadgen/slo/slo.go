// Package slo reads objectives such as "media_one_way_p99<60ms,dropped==0" and judges a
// result by them.
package slo

import (
	"fmt"
	"strings"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Objective is one comparison of a figure with a bound.
type Objective struct {
	Metric string  // a metric or a count
	Stat   string  // p1 to p999, max, min, mean, count; "" for a count
	Op     string  // < <= > >= == !=
	Bound  float64 // in the figure's own unit: microseconds, ratio 0 to 1, MOS, plain number
	bound  string  // as it was written, with its unit
}

// String is the objective as Parse reads it.
func (o Objective) String() string { return o.name() + o.Op + o.bound }

func (o Objective) name() string {
	if o.Stat == "" {
		return o.Metric
	}
	return o.Metric + "_" + o.Stat
}

// Set is a list of objectives, all of which must be met.
type Set []Objective

// String is the set as Parse reads it.
func (s Set) String() string {
	parts := make([]string, len(s))
	for i, o := range s {
		parts[i] = o.String()
	}
	return strings.Join(parts, ",")
}

// Limits are what the generator must keep for its own errors not to decide an objective:
// base, tightened by each upper bound on media latency.
func (s Set) Limits(base measure.Limits) measure.Limits {
	for _, o := range s {
		switch o.Metric {
		case measure.MediaOneWay, measure.MediaCallerHears, measure.MediaAgentHears, measure.MouthToEar, measure.MouthToEarTypical:
			if o.Op == "<" || o.Op == "<=" {
				base = base.Tightened(o.Stat, measure.Micros(o.Bound))
			}
		}
	}
	return base
}

// Judge compares every objective with the result. A figure without samples is never green.
func (s Set) Judge(r *measure.Result) []measure.Verdict {
	verdicts := make([]measure.Verdict, len(s))
	for i, o := range s {
		verdicts[i] = o.judge(r)
	}
	return verdicts
}

func (o Objective) judge(r *measure.Result) measure.Verdict {
	v := measure.Verdict{SLO: o.String(), Metric: o.Metric, Stat: o.Stat}
	f, err := find(o.name())
	if err != nil {
		v.Reason = "no such figure"
		return v
	}
	v.Unit, v.Samples = f.unit.id(), f.samples(r)
	if v.Samples == 0 && f.stat != "count" {
		v.Reason = "no samples"
		return v
	}
	v.Measured = f.value(r)
	v.Passed = compare(v.Measured, o.Op, o.Bound)
	v.Reason = f.unit.words(v.Measured)
	return v
}

func compare(a float64, op string, b float64) bool {
	switch op {
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	case ">=":
		return a >= b
	case "==":
		return a == b
	case "!=":
		return a != b
	}
	return false
}

// unit is what a figure is counted in.
type unit string

const (
	times  unit = "time"  // microseconds
	ratio  unit = "ratio" // 0 to 1
	score  unit = "score" // MOS
	number unit = "number"
)

// id is the unit in the result document.
func (u unit) id() string {
	switch u {
	case times:
		return measure.UnitTime
	case ratio:
		return measure.UnitRatio
	case score:
		return measure.UnitMOS
	default:
		return ""
	}
}

// words is a value with its unit, for people.
func (u unit) words(v float64) string {
	switch u {
	case times:
		switch {
		case v < 1_000:
			return fmt.Sprintf("%.5g us", v)
		case v < 1_000_000:
			return fmt.Sprintf("%.5g ms", v/1_000)
		default:
			return fmt.Sprintf("%.5g s", v/1_000_000)
		}
	case ratio:
		return fmt.Sprintf("%.6g%%", v*100)
	case score:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// suffixes are what may stand behind a number, and what one of it is in the unit.
func (u unit) suffixes() map[string]float64 {
	switch u {
	case times:
		return map[string]float64{"us": 1, "µs": 1, "ms": 1_000, "s": 1_000_000}
	case ratio:
		return map[string]float64{"": 1, "%": 0.01}
	default:
		return map[string]float64{"": 1}
	}
}

// needs says which suffixes are allowed.
func (u unit) needs() string {
	switch u {
	case times:
		return "a time needs a unit: us, ms or s"
	case ratio:
		return "a ratio is a number from 0 to 1, or has %"
	case score:
		return "MOS is a number from 1 to 4.5, without a unit"
	default:
		return "a count is a plain number"
	}
}
