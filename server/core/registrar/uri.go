package registrar

import (
	"net/netip"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// equal compares SIP URIs by the rules of RFC 3261 s.19.1.4:
//   - scheme and host without case, IP addresses by value; the user part with case;
//   - escapes mean what they stand for, save that %2F and the other reserved characters
//     differ from themselves unescaped;
//   - a port that is given differs from one that is not, even if it is 5060;
//   - user, ttl, method, maddr and transport must be in both or in none;
//   - every other parameter counts only when both have it.
//
// Left out is what comes of header components ("?subject=x"): core.ParseURI drops them.
func equal(a, b core.URI) bool {
	if a == b { // also for a parameter that stands twice, which the rules don't foresee
		return true
	}
	if !strings.EqualFold(a.Scheme, b.Scheme) || a.Port != b.Port || !sameHost(a.Host, b.Host) ||
		unescape(a.User) != unescape(b.User) {
		return false
	}
	return covers(a, b) && covers(b, a)
}

func sameHost(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x == y
}

// covers reports whether no parameter of a speaks against b.
func covers(a, b core.URI) bool {
	for p := range strings.SplitSeq(strings.TrimPrefix(a.Params, ";"), ";") {
		name, value, _ := strings.Cut(p, "=")
		name, value = strings.ToLower(unescape(strings.TrimSpace(name))), unescape(strings.TrimSpace(value))
		if name == "" {
			continue
		}
		other, there := b.Param(name)
		if there && !strings.EqualFold(value, unescape(other)) {
			return false
		}
		switch name {
		case "user", "ttl", "method", "maddr", "transport":
			if !there {
				return false
			}
		}
	}
	return true
}

// unescape replaces the escapes of characters that need none (unreserved, s.25.1), and
// writes the other ones in upper case.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			b.WriteByte(s[i])
			continue
		}
		if c := nibble(s[i+1])<<4 | nibble(s[i+2]); unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(strings.ToUpper(s[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

func unreserved(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte("-_.!~*'()", c) >= 0
}
