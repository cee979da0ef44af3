package phone

import (
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// splitAddress takes a name-addr or addr-spec apart (RFC 3261 s.20.10): the URI, and the
// parameters of the header field with their first semicolon.
func splitAddress(s string) (uri, params string) {
	if i := scan(s, '<'); i >= 0 {
		rest := s[i+1:]
		end := strings.IndexByte(rest, '>')
		if end < 0 {
			return "", ""
		}
		return rest[:end], strings.TrimLeft(rest[end+1:], " \t")
	}
	if i := strings.IndexByte(s, ';'); i >= 0 {
		return strings.TrimSpace(s[:i]), s[i:] // without <> they belong to the field
	}
	return strings.TrimSpace(s), ""
}

// scan returns the place of the first c outside of quotes, -1 when there is none. What
// stands in <> is skipped, unless c is '<'.
func scan(s string, c byte) int {
	quoted, inside := false, false
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case quoted:
			if b == '\\' {
				i++
			} else if b == '"' {
				quoted = false
			}
		case b == c && !inside:
			return i
		case b == '"' && !inside:
			quoted = true
		case b == '<':
			inside = true
		case b == '>':
			inside = false
		}
	}
	return -1
}

// splitList cuts a list at its commas (RFC 3261 s.7.3.1).
func splitList(into []string, s string) []string {
	for {
		i := scan(s, ',')
		if i < 0 {
			break
		}
		if one := strings.TrimSpace(s[:i]); one != "" {
			into = append(into, one)
		}
		s = s[i+1:]
	}
	if s = strings.TrimSpace(s); s != "" {
		into = append(into, s)
	}
	return into
}

// param returns the value of a parameter of ";a=b;c".
func param(params, name string) (value string, ok bool) {
	for params != "" {
		one := params
		if i := scan(params, ';'); i >= 0 {
			one, params = params[:i], params[i+1:]
		} else {
			params = ""
		}
		key, value, _ := strings.Cut(one, "=")
		if strings.EqualFold(strings.TrimSpace(key), name) {
			return strings.Trim(strings.TrimSpace(value), `"`), true
		}
	}
	return "", false
}

// tagOf returns the tag of a From or To.
func tagOf(address string) string {
	_, params := splitAddress(address)
	tag, _ := param(params, "tag")
	return tag
}

// userOf returns the user part of the URI of an address, for tel: the number.
func userOf(address string) string {
	text, _ := splitAddress(address)
	if number, ok := cutScheme(text, "tel:"); ok {
		number, _, _ = strings.Cut(number, ";")
		return number
	}
	var uri sip.Uri
	if sip.ParseUri(text, &uri) != nil {
		return ""
	}
	return uri.User
}

func cutScheme(uri, scheme string) (string, bool) {
	if len(uri) < len(scheme) || !strings.EqualFold(uri[:len(scheme)], scheme) {
		return "", false
	}
	return uri[len(scheme):], true
}

// addrOf returns where a URI leads; not valid when its host is a name.
func addrOf(text string) netip.AddrPort {
	var uri sip.Uri
	if sip.ParseUri(text, &uri) != nil {
		return netip.AddrPort{}
	}
	host := strings.Trim(uri.Host, "[]")
	addr, err := netip.ParseAddr(host)
	if err != nil || uri.Port < 0 || uri.Port > 65535 {
		return netip.AddrPort{}
	}
	port := uint16(uri.Port)
	switch {
	case port != 0:
	case uri.Scheme == "sips":
		port = 5061
	default:
		port = defaultPort
	}
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// plain reports whether a text can stand in a message without changing its shape.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '<' || s[i] == '>' || s[i] == '"' {
			return false
		}
	}
	return true
}
