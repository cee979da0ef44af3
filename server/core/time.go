package core

import (
	"math"
	"strconv"
	"time"
)

// Time is an instant in nanoseconds since the Unix epoch. The core never reads a
// clock: every instant reaches it as an argument. It is absolute, so that a deadline
// that was written down means the same after a restart or on another node.
type Time int64

// Never is later than every instant that occurs.
const Never Time = math.MaxInt64

// Add returns t+d; Never stays Never.
func (t Time) Add(d time.Duration) Time {
	if t == Never {
		return Never
	}
	return t + Time(d)
}

// Sub returns t-u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// IsZero reports whether t is the zero Time, "has not happened".
func (t Time) IsZero() bool { return t == 0 }

// String is RFC 3339 in UTC with nanoseconds.
func (t Time) String() string {
	switch t {
	case 0:
		return "never yet"
	case Never:
		return "never"
	}
	return time.Unix(0, int64(t)).UTC().Format(time.RFC3339Nano)
}

// MarshalJSON writes RFC 3339 in UTC, or null for the zero Time.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return time.Unix(0, int64(t)).UTC().AppendFormat(make([]byte, 0, 32), `"`+time.RFC3339Nano+`"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*t = 0
		return nil
	}
	s, err := strconv.Unquote(string(b))
	if err != nil {
		return err
	}
	u, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return err
	}
	*t = Time(u.UnixNano())
	return nil
}

// Reason says in words why a machine wants to be woken.
type Reason string
