package slo

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what Parse reads.
const (
	mostText       = 8192 // bytes
	mostObjectives = 128
	mostName       = 64 // letters
)

// Parse reads comma-separated objectives. Its error names the position (from 1), what is
// wrong there, the nearest known name and what is allowed.
func Parse(text string) (Set, error) {
	if len(text) > mostText {
		return nil, fmt.Errorf("%d bytes of objectives, at most %d are read", len(text), mostText)
	}
	var set Set
	for at := 0; ; {
		end := strings.IndexByte(text[at:], ',')
		if end < 0 {
			end = len(text) - at
		}
		o, wrong, err := parse(text[at : at+end])
		if err == nil && len(set) == mostObjectives {
			err = fmt.Errorf("at most %d objectives are read", mostObjectives)
		}
		if err != nil {
			position := utf8.RuneCountInString(text[:at+wrong]) + 1
			return nil, fmt.Errorf("position %d: %w\n%s", position, err, Allowed())
		}
		set = append(set, o)
		if at += end + 1; at > len(text) {
			return set, nil
		}
	}
}

// ParseList reads objectives that are listed one by one, as in YAML.
func ParseList(items []string) (Set, error) {
	var set Set
	for i, item := range items {
		one, err := Parse(item)
		if err != nil {
			return nil, fmt.Errorf("objective %d, %q: %w", i+1, item, err)
		}
		set = append(set, one...)
	}
	return set, nil
}

// parse reads one objective. Of an error it says at which byte.
func parse(text string) (o Objective, at int, err error) {
	nameAt := len(text) - len(strings.TrimLeft(text, " \t\r\n"))
	if nameAt == len(text) {
		return o, 0, errors.New("an objective is missing here")
	}
	opAt := strings.IndexAny(text, "<>=!")
	if opAt < 0 {
		return o, len(text), errors.New("a comparison is missing here: < <= > >= == or !=")
	}
	name := strings.TrimSpace(text[nameAt:opAt])
	switch {
	case name == "":
		return o, opAt, errors.New("the name of a figure is missing here")
	case len(name) > mostName:
		return o, nameAt, fmt.Errorf("the name is longer than %d letters", mostName)
	}
	f, err := find(name)
	if err != nil {
		return o, nameAt, err
	}
	operator, ok := operatorAt(text[opAt:])
	if !ok {
		return o, opAt, fmt.Errorf("%q is not a comparison: must be < <= > >= == or !=", operator)
	}
	valueAt := opAt + len(operator)
	valueAt += len(text[valueAt:]) - len(strings.TrimLeft(text[valueAt:], " \t\r\n"))
	value := strings.TrimSpace(text[valueAt:])
	bound, err := parseBound(value, f)
	if err != nil {
		return o, valueAt, err
	}
	return Objective{Metric: f.metric, Stat: f.stat, Op: operator, Bound: bound, bound: strings.Join(strings.Fields(value), "")}, 0, nil
}

// operatorAt is the run of comparison signs at the start of a text, and whether it is one.
func operatorAt(text string) (string, bool) {
	operator := text[:len(text)-len(strings.TrimLeft(text, "<>=!"))]
	switch operator {
	case "<", "<=", ">", ">=", "==", "!=":
		return operator, true
	}
	return operator, false
}

// parseBound reads a number and its unit.
func parseBound(text string, f figure) (float64, error) {
	digits := len(text) - len(strings.TrimLeft(text, "0123456789."))
	number, suffix := text[:digits], strings.TrimSpace(text[digits:])
	if number == "" {
		return 0, fmt.Errorf("a number is missing before %q; %s", text, f.unit.needs())
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsInf(v, 0) || v > 1e15 {
		return 0, fmt.Errorf("%q is not a number that can be compared", number)
	}
	factor, ok := f.unit.suffixes()[suffix]
	switch {
	case !ok && f.unit != ratio && suffix == "%" && f.stat == "" && f.metric != "offered" && f.metric != "lost":
		return 0, fmt.Errorf("%q is a count and cannot be compared with %%; %s_ratio can", f.metric, f.metric)
	case !ok:
		return 0, fmt.Errorf("%q cannot be compared with %q; %s", f.name(), text, f.unit.needs())
	}
	v *= factor
	switch {
	case f.unit == ratio && v > 1:
		return 0, fmt.Errorf("%q is above 1; %s", text, f.unit.needs())
	case f.unit == score && (v > 5):
		return 0, fmt.Errorf("%q is above every MOS; %s", text, f.unit.needs())
	}
	return v, nil
}

func (f figure) name() string { return Objective{Metric: f.metric, Stat: f.stat}.name() }
