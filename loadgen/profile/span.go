package profile

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// Span is a duration that chance decides, by a distribution.
type Span struct {
	kind shape
	a, b time.Duration
	list []time.Duration
}

type shape string

const (
	constant    shape = ""
	uniform     shape = "uniform"
	exponential shape = "exp"
	lognormal   shape = "lognormal"
	listed      shape = "list"
)

// errSpan says what is allowed.
var errSpan = errors.New("must be a duration (20s) or a distribution: uniform:10s..30s, exp:20s (its mean), " +
	"lognormal:20s,8s (mean and standard deviation), list:5s,10s,60s (each as likely)")

// Constant is always the same.
func Constant(d time.Duration) Span { return Span{a: d} }

// ParseSpan reads 20s, uniform:10s..30s, exp:20s, lognormal:20s,8s or list:5s,10s,60s.
func ParseSpan(text string) (Span, error) {
	kind, rest, named := strings.Cut(text, ":")
	if !named {
		kind, rest = "", text
	}
	separator := ","
	if shape(kind) == uniform {
		separator = ".."
	}
	var times []time.Duration
	for part := range strings.SplitSeq(rest, separator) {
		d, err := parseDuration(strings.TrimSpace(part), 0, maxSpan)
		if err != nil {
			return Span{}, fmt.Errorf("%.60q: %w", text, errSpan)
		}
		times = append(times, d)
	}
	switch s := (Span{kind: shape(kind), a: times[0]}); {
	case (s.kind == constant && !named || s.kind == exponential && s.a > 0) && len(times) == 1:
		return s, nil
	case (s.kind == uniform && len(times) == 2 && times[0] <= times[1]) || (s.kind == lognormal && len(times) == 2 && s.a > 0):
		s.b = times[1]
		return s, nil
	case s.kind == listed && len(times) <= 100_000:
		return Span{kind: listed, list: times}, nil
	}
	return Span{}, fmt.Errorf("%.60q: %w", text, errSpan)
}

// Draw takes one, of 0 to 24 hours.
func (s Span) Draw(r *rand.Rand) time.Duration {
	var d float64
	switch s.kind {
	case uniform:
		d = float64(s.a) + r.Float64()*float64(s.b-s.a)
	case exponential:
		d = r.ExpFloat64() * float64(s.a)
	case lognormal:
		// The logarithm is normal with these two, where the value itself has mean a and
		// standard deviation b.
		v := math.Log1p(float64(s.b) * float64(s.b) / (float64(s.a) * float64(s.a)))
		d = math.Exp(math.Log(float64(s.a)) - v/2 + math.Sqrt(v)*r.NormFloat64())
	case listed:
		return s.list[r.IntN(len(s.list))]
	default:
		return s.a
	}
	return time.Duration(min(d, float64(maxSpan)))
}

// Mean is what it is on the average.
func (s Span) Mean() time.Duration {
	switch s.kind {
	case uniform:
		return (s.a + s.b) / 2
	case listed:
		var sum float64
		for _, d := range s.list {
			sum += float64(d) / float64(len(s.list))
		}
		return time.Duration(sum)
	}
	return s.a
}

// Zero says that it is always 0.
func (s Span) Zero() bool { return s.kind == constant && s.a == 0 }

func (s Span) String() string {
	switch s.kind {
	case uniform:
		return fmt.Sprintf("uniform:%v..%v", s.a, s.b)
	case exponential:
		return fmt.Sprintf("exp:%v", s.a)
	case lognormal:
		return fmt.Sprintf("lognormal:%v,%v", s.a, s.b)
	case listed:
		parts := make([]string, len(s.list))
		for i, d := range s.list {
			parts[i] = d.String()
		}
		return "list:" + strings.Join(parts, ",")
	}
	return s.a.String()
}

// MarshalText writes the form that ParseSpan reads.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads it.
func (s *Span) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSpan(string(text))
	return err
}
