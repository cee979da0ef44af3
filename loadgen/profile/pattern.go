package profile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Pattern makes texts of numbers: {n} is the number, from 1; {n:5} the same with leading
// zeros; {1001..1020} counts from one end to the other and begins anew, as wide as it is
// written.
type Pattern struct {
	text  string
	parts []piece
}

// piece is a text and the number that follows it.
type piece struct {
	text     string
	number   bool
	ranged   bool // the number goes round From..To
	width    int
	from, to int64
}

// ParsePattern reads a pattern.
func ParsePattern(text string) (Pattern, error) {
	wrong := fmt.Errorf("%.120q: in braces are allowed {n}, {n:WIDTH} and {FROM..TO}, as in {1001..1020}", text)
	if len(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '<' || r == '>' || r == '"' }) {
		return Pattern{}, fmt.Errorf("%.120q: spaces, quotes and angle brackets are not allowed", text)
	}
	p := Pattern{text: text}
	for rest := text; rest != ""; {
		before, after, ok := strings.Cut(rest, "{")
		if !ok {
			if strings.Contains(rest, "}") {
				return Pattern{}, wrong
			}
			p.parts = append(p.parts, piece{text: rest})
			break
		}
		inside, behind, ok := strings.Cut(after, "}")
		one, err := readBraces(inside)
		if !ok || err != nil || strings.Contains(before, "}") {
			return Pattern{}, wrong
		}
		one.text = before
		p.parts = append(p.parts, one)
		rest = behind
	}
	return p, nil
}

func readBraces(inside string) (piece, error) {
	p := piece{number: true}
	if inside == "n" {
		return p, nil
	}
	if width, ok := strings.CutPrefix(inside, "n:"); ok {
		w, err := parseCount(width, 1, 18)
		p.width = w
		return p, err
	}
	first, last, ok := strings.Cut(inside, "..")
	from, err1 := strconv.ParseUint(first, 10, 60)
	to, err2 := strconv.ParseUint(last, 10, 60)
	if !ok || err1 != nil || err2 != nil || to < from || to-from >= 1e9 {
		return p, errors.New("no range")
	}
	p.ranged, p.from, p.to = true, int64(from), int64(to)
	if strings.HasPrefix(first, "0") {
		p.width = len(first)
	}
	return p, nil
}

func mustPattern(text string) Pattern {
	p, err := ParsePattern(text)
	if err != nil {
		panic(err)
	}
	return p
}

// At is the text for index i, which counts from 0.
func (p Pattern) At(i int64) string {
	var b strings.Builder
	for _, one := range p.parts {
		b.WriteString(one.text)
		if !one.number {
			continue
		}
		n := i + 1
		if one.ranged {
			n = one.from + i%(one.to-one.from+1)
		}
		digits := strconv.FormatInt(n, 10)
		for range one.width - len(digits) {
			b.WriteByte('0')
		}
		b.WriteString(digits)
	}
	return b.String()
}

// Index is the other way round: the index whose text it is. It is unique only for a pattern
// with {n}, and others have none.
func (p Pattern) Index(text string) (int64, bool) {
	rest, index := text, int64(-1)
	for k, one := range p.parts {
		var ok bool
		if rest, ok = strings.CutPrefix(rest, one.text); !ok {
			return 0, false
		}
		if !one.number {
			continue
		}
		// Digits that may belong to the number or to the text after it: the text decides.
		end := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if k+1 < len(p.parts) && p.parts[k+1].text != "" {
			if at := strings.Index(rest, p.parts[k+1].text); at >= 0 {
				end = min(end, max(at, one.width))
			}
		} else if k+1 < len(p.parts) {
			end = min(end, max(one.width, 1))
		}
		if n, err := strconv.ParseInt(rest[:end], 10, 64); err == nil && !one.ranged && index < 0 {
			index = n - 1
		}
		rest = rest[end:]
	}
	// Whatever was read: it counts if it makes the same text.
	return index, index >= 0 && rest == "" && p.At(index) == text
}

// Distinct is how many different texts there are, where that is not without end.
func (p Pattern) Distinct() (int, bool) {
	most := int64(1)
	for _, one := range p.parts {
		switch {
		case one.number && !one.ranged:
			return 0, false
		case one.number: // ranges run side by side: the longer one decides, or a common multiple
			most = lcm(most, one.to-one.from+1)
		}
	}
	return int(most), true
}

func lcm(a, b int64) int64 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	if a/x > (1<<40)/b {
		return 1 << 40
	}
	return a / x * b
}

// URI checks that it makes SIP URIs with a user and a host.
func (p Pattern) URI() error {
	user, host, ok := strings.Cut(strings.TrimPrefix(p.At(0), "sip:"), "@")
	if !ok || user == "" || host == "" || strings.Contains(host, "@") || !strings.HasPrefix(p.text, "sip:") {
		return fmt.Errorf("%.120q: must be a SIP URI, such as sip:5000@example.com", p.text)
	}
	return nil
}

// host is the host of the URI that it makes, without port and parameters.
func (p Pattern) host() string {
	_, host, _ := strings.Cut(p.At(0), "@")
	if end := strings.IndexAny(host, ";?"); end >= 0 {
		host = host[:end]
	}
	if end := strings.LastIndexByte(host, ':'); end > strings.LastIndexByte(host, ']') {
		host = host[:end]
	}
	return host
}

// Empty says that there is none.
func (p Pattern) Empty() bool { return p.text == "" }

func (p Pattern) String() string { return p.text }

// MarshalText writes the form that ParsePattern reads.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText reads it.
func (p *Pattern) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePattern(string(text))
	return err
}
