// Package report shows what a load run has found: on a terminal, as files, as a page.
package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// grouped is a whole number with a comma between each three digits.
func grouped[N ~int | ~int64 | ~uint64](n N) string {
	digits := strconv.FormatInt(int64(n), 10)
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}

// millis is a time in milliseconds, with as many decimals as there are digits to trust.
func millis(us float64) string {
	switch ms := us / 1_000; {
	case ms < 9.9995:
		return strconv.FormatFloat(ms, 'f', 3, 64)
	case ms < 99.995:
		return strconv.FormatFloat(ms, 'f', 2, 64)
	case ms < 999.95:
		return strconv.FormatFloat(ms, 'f', 1, 64)
	default:
		return grouped(int64(math.Round(ms)))
	}
}

// value is a figure of a distribution, in the unit that unitOf names.
func value(v float64, unit string) string {
	switch unit {
	case measure.UnitRatio:
		return strconv.FormatFloat(v*100, 'f', 3, 64)
	case measure.UnitMOS:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return millis(v)
	}
}

// unitOf is the unit of value.
func unitOf(unit string) string {
	switch unit {
	case measure.UnitRatio:
		return "%"
	case measure.UnitMOS:
		return ""
	default:
		return "ms"
	}
}

// percent is a part of a whole in words.
func percent(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	p := 100 * float64(part) / float64(whole)
	switch {
	case part == whole:
		return "100%"
	case p > 99.99:
		return "> 99.99%" // not rounded up to all
	case part > 0 && p < 0.01:
		return "< 0.01%"
	default:
		return strconv.FormatFloat(p, 'f', 2, 64) + "%"
	}
}

// seconds is a duration for people.
func seconds(us measure.Micros) string {
	d := time.Duration(us) * time.Microsecond
	if d < 2*time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// verdict is the run in one word, and why.
func verdict(r *measure.Result) (word, why string) {
	missed := 0
	for _, v := range r.Verdicts {
		if !v.Passed {
			missed++
		}
	}
	switch {
	case !r.Valid:
		return "INVALID", "the generator did not keep its own limits, so the figures say nothing about the server"
	case missed > 0:
		return "FAILED", fmt.Sprintf("%d of %d objectives missed", missed, len(r.Verdicts))
	case len(r.Verdicts) == 0:
		return "VALID", "the generator kept its own limits; no objectives were set"
	default:
		return "PASSED", fmt.Sprintf("the generator kept its own limits; %s met", objectives(len(r.Verdicts)))
	}
}

func objectives(n int) string {
	if n == 1 {
		return "the objective was"
	}
	return fmt.Sprintf("all %d objectives were", n)
}

// bytesIn is a size for people.
func bytesIn(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}

// clean takes what a terminal would obey out of words that may have come from the network.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
