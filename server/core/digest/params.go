package digest

import "strings"

// Bounds of one field: linphone's and pjsip's have 400 bytes and 11 parameters.
const (
	maxField  = 4096
	maxParams = 32
	maxFields = 8 // Authorization fields looked at
)

type param struct{ name, value string }

// params are the parameters of a challenge or of credentials, names in lower case.
type params []param

func (p params) get(name string) string {
	for _, q := range p {
		if q.name == name {
			return q.value
		}
	}
	return ""
}

func (p params) has(name string) bool {
	for _, q := range p {
		if q.name == name {
			return true
		}
	}
	return false
}

// offers reports whether the list of a challenge's qop holds a value.
func (p params) offers(qop string) bool {
	for option := range strings.SplitSeq(p.get("qop"), ",") {
		if strings.EqualFold(strings.TrimSpace(option), qop) {
			return true
		}
	}
	return false
}

// parse reads "Digest name=value, name="value", …". It is false for another scheme, and
// for what the grammar of RFC 7616 s.3.3 and s.3.4 does not allow: a name twice, a quote
// that does not end, a control character. An empty list element is let pass (RFC 7230 s.7).
func parse(field string) (params, bool) {
	scheme, rest, ok := strings.Cut(strings.TrimLeft(field, blank), " ")
	if !ok || !strings.EqualFold(scheme, "Digest") || len(field) > maxField || strings.ContainsFunc(field, control) {
		return nil, false
	}
	var all params
	for {
		rest = strings.TrimLeft(rest, blank+",")
		if rest == "" {
			return all, len(all) > 0
		}
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, false
		}
		name = strings.ToLower(strings.TrimRight(name, blank))
		if !isToken(name) || all.has(name) || len(all) == maxParams {
			return nil, false
		}
		value, tail, ok := scan(strings.TrimLeft(after, blank))
		if !ok {
			return nil, false
		}
		all = append(all, param{name, value})
		if rest = strings.TrimLeft(tail, blank); rest != "" && rest[0] != ',' {
			return nil, false
		}
	}
}

const blank = " \t"

// scan reads a token or a quoted string from the head of s.
func scan(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		end := strings.IndexAny(s, blank+`,"`)
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], end > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}

// control finds what could end a header field before its time.
func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// quote writes a quoted string. Whoever hashes the value hashes it without the quotes.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
