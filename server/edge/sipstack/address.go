package sipstack

import (
	"errors"
	"iter"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Errors of header fields. The texts go into the reason phrase of a 400, so they name
// no content of the message.
var (
	errQuote    = errors.New("unterminated quoted string")
	errBracket  = errors.New("address without closing bracket")
	errAddress  = errors.New("malformed address")
	errURI      = errors.New("malformed URI")
	errParams   = errors.New("malformed parameter")
	errNotToken = errors.New("malformed name")
)

// splitList cuts a header value at the commas that separate its elements: those outside
// quoted strings and angle brackets (RFC 3261 s.7.3.1).
func splitList(s string) ([]string, error) {
	if strings.IndexByte(s, ',') < 0 {
		return []string{strings.TrimSpace(s)}, nil
	}
	var all []string
	start, quoted, bracket := 0, false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"' && !bracket:
			quoted = !quoted
		case quoted:
		case c == '<':
			bracket = true
		case c == '>':
			bracket = false
		case c == ',' && !bracket:
			all = append(all, strings.TrimSpace(s[start:i]))
			start = i + 1
		}
	}
	if quoted {
		return nil, errQuote
	}
	return append(all, strings.TrimSpace(s[start:])), nil
}

// parseAddress reads a name-addr or addr-spec with header parameters (RFC 3261 s.20.10).
func parseAddress(s string) (core.Address, error) {
	s = strings.TrimSpace(s)
	var a core.Address
	switch open := strings.IndexByte(s, '<'); {
	case strings.HasPrefix(s, `"`):
		display, rest, err := unquote(s)
		if err != nil {
			return a, err
		}
		a.Display, s = display, strings.TrimLeft(rest, " \t")
	case open > 0:
		// Display names of other than token characters are common in the field; a comma
		// or a quote can't be told from a list or a string (RFC 4475 s.3.1.2.15).
		a.Display = strings.Join(strings.Fields(s[:open]), " ")
		if strings.ContainsAny(a.Display, `",;<>`) {
			return a, errAddress
		}
		s = s[open:]
	case open < 0:
		return parseAddrSpec(s)
	}
	if !strings.HasPrefix(s, "<") {
		return a, errAddress
	}
	end := strings.IndexByte(s, '>')
	if end < 0 {
		return a, errBracket
	}
	var err error
	if a.URI, err = parseURI(s[1:end]); err != nil {
		return a, err
	}
	a.Params, err = cleanParams(s[end+1:])
	return a, err
}

// parseAddrSpec reads the form without angle brackets. What follows a semicolon belongs
// to the header field; a question mark or comma would be ambiguous (RFC 3261 s.20).
func parseAddrSpec(s string) (a core.Address, err error) {
	uri, params := s, ""
	if i := strings.IndexByte(s, ';'); i >= 0 {
		uri, params = s[:i], s[i:]
	}
	if strings.ContainsAny(uri, "?,") {
		return a, errAddress
	}
	if a.URI, err = parseURI(strings.TrimSpace(uri)); err != nil {
		return a, err
	}
	a.Params, err = cleanParams(params)
	return a, err
}

// unquote reads a quoted string at the start of s and returns it without its escapes,
// and what follows it.
func unquote(s string) (text, rest string, err error) {
	plain := true
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			plain = false
			i++
		case '"':
			text = s[1:i]
			if !plain {
				text = unescape(text)
			}
			return text, s[i+1:], nil
		}
	}
	return "", "", errQuote
}

// unescape resolves quoted pairs. A control character, legal there and nowhere else,
// becomes a space: the text is shown to people and written without escapes later.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		if s[i] < ' ' || s[i] == 0x7f {
			b.WriteByte(' ')
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cleanParams reads header parameters and returns them as ";name=value" without the white
// space that RFC 3261 s.25.1 allows around semicolons and equals signs.
func cleanParams(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", nil
	}
	if s[0] != ';' {
		return "", errParams
	}
	if areClean(s) {
		return s, nil
	}
	var b strings.Builder
	b.Grow(len(s))
	for s != "" {
		part, rest, err := nextParam(s[1:])
		if err != nil {
			return "", err
		}
		s = rest
		name, value, has := strings.Cut(part, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if name == "" && !has {
			continue // ";;" says nothing
		}
		if !isToken(name) || !isParamValue(value) {
			return "", errParams
		}
		b.WriteByte(';')
		b.WriteString(name)
		if has {
			b.WriteByte('=')
			b.WriteString(value)
		}
	}
	return b.String(), nil
}

// areClean reports parameters that need no cleaning, as nearly everybody writes them: no
// white space, no quoted value, none empty.
func areClean(s string) bool {
	inName, length := false, 1
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ';':
			if length == 0 && inName {
				return false
			}
			inName, length = true, 0
		case inName && c == '=':
			if length == 0 {
				return false
			}
			inName = false
		case inName:
			if !tokenByte(c) {
				return false
			}
			length++
		case c == ' ' || c == '\t' || c == '"' || c == '<' || c == '>' || c == ',':
			return false
		}
	}
	return !inName || length > 0
}

// nextParam cuts at the next semicolon outside a quoted string; rest keeps it.
func nextParam(s string) (part, rest string, err error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ';' && !quoted:
			return s[:i], s[i:], nil
		}
	}
	if quoted {
		return "", "", errQuote
	}
	return s, "", nil
}

// eachParam yields the parts of cleaned parameters: name or name=value.
func eachParam(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s != "" {
			part, rest, err := nextParam(s[1:])
			if err != nil || !yield(part) {
				return
			}
			s = rest
		}
	}
}

func isParamValue(s string) bool {
	if strings.HasPrefix(s, `"`) {
		_, rest, err := unquote(s)
		return err == nil && rest == ""
	}
	return !strings.ContainsAny(s, " \t\"<>,")
}

// isToken follows RFC 3261 s.25.1; the empty string is none.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func tokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '-', '.', '!', '%', '*', '_', '+', '`', '\'', '~':
		return true
	}
	return false
}

// parseURI reads any URI. Of one that is neither sip nor sips (tel, isbn) Host holds the
// part up to the first semicolon and Params the rest, so that it prints as it came.
func parseURI(s string) (core.URI, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !isToken(scheme) || rest == "" || hasForbidden(rest) {
		return core.URI{}, errURI
	}
	scheme = strings.ToLower(scheme)
	if scheme != "sip" && scheme != "sips" {
		return opaqueURI(scheme, rest), nil
	}
	if i := strings.IndexByte(rest, '@'); i == 0 || i != strings.LastIndexByte(rest, '@') {
		return core.URI{}, errURI
	}
	u, err := core.ParseURI(s)
	if err != nil || strings.IndexByte(u.Host, '[') >= 0 || strings.IndexByte(u.Host, ']') >= 0 {
		return core.URI{}, errURI
	}
	return u, nil
}

func opaqueURI(scheme, rest string) core.URI {
	if i := strings.IndexAny(rest, ";:"); i >= 0 {
		if rest[i] == ':' { // core.URI.String would take it for an IPv6 address
			i = 0
		}
		return core.URI{Scheme: scheme, Host: rest[:i], Params: rest[i:]}
	}
	return core.URI{Scheme: scheme, Host: rest}
}

// hasForbidden reports white space, controls and delimiters, which no URI holds.
func hasForbidden(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '<' || c == '>' || c == '"' {
			return true
		}
	}
	return false
}
