package registrar

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// parsePath reads the Path fields of a request (RFC 3327 s.4): "<sip:a;lr>, <sip:b;lr>".
func parsePath(values []string) ([]core.Address, error) {
	var path []core.Address
	for _, value := range values {
		for _, part := range split(value, ',') {
			if strings.TrimSpace(part) == "" {
				continue
			}
			if len(path) == maxPath || len(part) > maxContact {
				return nil, fmt.Errorf("more than %d hops, or one of more than %d bytes", maxPath, maxContact)
			}
			_, rest, opened := strings.Cut(part, "<")
			text, params, closed := strings.Cut(rest, ">")
			if !opened || !closed {
				return nil, errors.New("want addresses in angle brackets")
			}
			uri, err := core.ParseURI(text)
			if err != nil {
				return nil, err
			}
			path = append(path, core.Address{URI: uri, Params: strings.TrimSpace(params)})
		}
	}
	return path, nil
}

// parameter returns a parameter of a Contact value, without quotes. A quoted value may hold
// semicolons (an instance of RFC 5626 s.4.1 is any URN), which core.Address does not look for.
func parameter(a core.Address, name string) (string, bool) {
	for _, part := range split(a.Params, ';') {
		key, value, _ := strings.Cut(part, "=")
		if strings.EqualFold(strings.TrimSpace(key), name) {
			return strings.Trim(strings.TrimSpace(value), `"`), true
		}
	}
	return "", false
}

// withoutExpires removes the expires parameter, which is kept as an instant.
func withoutExpires(params string) string {
	var b strings.Builder
	for _, part := range split(strings.TrimPrefix(params, ";"), ';') {
		name, _, _ := strings.Cut(part, "=")
		if part != "" && !strings.EqualFold(strings.TrimSpace(name), "expires") {
			b.WriteString(";" + part)
		}
	}
	return b.String()
}

// split cuts at a separator, but not inside quotes or angle brackets.
func split(s string, separator byte) []string {
	var parts []string
	quoted, angled, start := false, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<' || c == '>':
			angled = c == '<'
		case c == separator && !angled:
			parts, start = append(parts, s[start:i]), i+1
		}
	}
	return append(parts, s[start:])
}
