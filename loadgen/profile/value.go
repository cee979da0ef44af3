package profile

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
)

// Secret is never printed.
type Secret string

// String hides it, also from %v and %s.
func (Secret) String() string { return "(secret)" }

// GoString hides it from %#v.
func (Secret) GoString() string { return "(secret)" }

// MarshalText hides it from JSON and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// Target is where requests go.
type Target struct {
	Transport string // "udp" or "tcp"
	Host      string // name or address
	Port      uint16
}

// ParseTarget reads udp:HOST:PORT or tcp:HOST:PORT. The port may be missing: 5060.
func ParseTarget(text string) (Target, error) {
	wrong := fmt.Errorf("%.80q: must be udp:HOST:PORT or tcp:HOST:PORT", text)
	transport, rest, ok := strings.Cut(text, ":")
	if !ok || transport != "udp" && transport != "tcp" {
		return Target{}, wrong
	}
	if !strings.Contains(rest, ":") || strings.HasSuffix(rest, "]") {
		rest += ":5060"
	}
	host, port, err := net.SplitHostPort(rest)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || host == "" || n == 0 || strings.ContainsAny(host, "@/ ") {
		return Target{}, wrong
	}
	return Target{transport, host, uint16(n)}, nil
}

// Addr is HOST:PORT.
func (t Target) Addr() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

func (t Target) String() string { return t.Transport + ":" + t.Addr() }

// MarshalText writes the form that ParseTarget reads.
func (t Target) MarshalText() ([]byte, error) {
	if t == (Target{}) {
		return nil, nil
	}
	return []byte(t.String()), nil
}

// UnmarshalText reads it.
func (t *Target) UnmarshalText(text []byte) (err error) {
	if *t = (Target{}); len(text) > 0 {
		*t, err = ParseTarget(string(text))
	}
	return err
}

// Share is a part of a whole, 0 to 1.
type Share float64

// ParseShare reads 5% or 0.05.
func ParseShare(text string) (Share, error) {
	number, percent := strings.CutSuffix(text, "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, fmt.Errorf("%.40q: must be 0%% to 100%%", text)
	}
	return Share(f), nil
}

func (s Share) String() string { return strconv.FormatFloat(float64(s)*100, 'g', 6, 64) + "%" }

// Pace is how often calls arrive: a rate, or a straight line from one to another.
type Pace struct {
	From, To arrival.Rate
	Poisson  bool
	given    bool
}

// ParsePace reads 20/s, 1200/m, 1/s..50/s, and either with poisson: before it.
func ParsePace(text string) (Pace, error) {
	rest, poisson := strings.CutPrefix(text, "poisson:")
	first, last, ramp := strings.Cut(rest, "..")
	from, err := ParseRate(first)
	to := from
	if err == nil && ramp {
		to, err = ParseRate(last)
	}
	if err != nil {
		return Pace{}, fmt.Errorf("%.60q: must be a rate (20/s, 90/m), a ramp (1/s..50/s), or either with poisson: before it", text)
	}
	return Pace{From: from, To: to, Poisson: poisson, given: true}, nil
}

// ParseRate reads 20/s, 90/m or 3600/h.
func ParseRate(text string) (arrival.Rate, error) {
	number, unit, ok := strings.Cut(text, "/")
	per := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || per == 0 || err != nil || !(f >= 0 && f/per <= float64(arrival.MaxRate)) {
		return 0, fmt.Errorf("%.40q: must be a rate of up to %g/s, such as 20/s, 90/m or 3600/h", text, float64(arrival.MaxRate))
	}
	return arrival.Rate(f / per), nil
}

func (p Pace) String() string {
	rate := func(r arrival.Rate) string { return strconv.FormatFloat(float64(r), 'g', -1, 64) + "/s" }
	text := rate(p.From)
	if p.To != p.From {
		text += ".." + rate(p.To)
	}
	if p.Poisson {
		text = "poisson:" + text
	}
	return text
}

// MarshalText writes the form that ParsePace reads.
func (p Pace) MarshalText() ([]byte, error) {
	if !p.given {
		return nil, nil
	}
	return []byte(p.String()), nil
}

// UnmarshalText reads it.
func (p *Pace) UnmarshalText(text []byte) (err error) {
	if *p = (Pace{}); len(text) > 0 {
		*p, err = ParsePace(string(text))
	}
	return err
}

// ParseNetwork reads delay=20ms,jitter=5ms,loss=0.1%, each of which may be missing.
func ParseNetwork(text string) (Network, error) {
	var n Network
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var err error
		switch name {
		case "delay":
			n.Delay, err = parseDuration(value, 0, 2*time.Second)
		case "jitter":
			n.Jitter, err = parseDuration(value, 0, 2*time.Second)
		case "loss":
			n.Loss, err = ParseShare(value)
		default:
			err = errors.New("must be delay, jitter and loss, as in delay=20ms,jitter=5ms,loss=0.1%")
		}
		if err != nil {
			return n, fmt.Errorf("%.40q: %w", part, err)
		}
	}
	if n.Jitter > n.Delay {
		return n, fmt.Errorf("jitter=%v: must be at most the delay, %v (a packet cannot come before it was sent)", n.Jitter, n.Delay)
	}
	return n, nil
}

func parseDuration(text string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("%.40q: must be a duration of %v to %v, such as 20s or 150ms", text, least, most)
	}
	return d, nil
}

func parseCount(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%.40q: must be a whole number, %d to %d", text, least, most)
	}
	return n, nil
}
