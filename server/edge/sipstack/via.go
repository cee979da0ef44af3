package sipstack

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	cookie      = "z9hG4bK" // RFC 3261 s.8.1.1.7
	defaultPort = 5060
)

var errVia = errors.New("malformed Via")

// via is one Via value taken apart (RFC 3261 s.20.42).
type via struct {
	version   string // 2.0, in what is handed on; an answer to another version repeats it
	transport string // upper case
	host      string // lower case, IPv6 without brackets
	port      uint16 // 0: not given
	branch    string
	received  string
	rport     uint16 // 0: asked for without value, or absent
	wantRport bool
	params    string // all of them, cleaned
}

func parseVia(s string) (via, error) {
	name, rest, ok1 := strings.Cut(s, "/")
	version, rest, ok2 := strings.Cut(rest, "/")
	version = strings.TrimSpace(version)
	if !ok1 || !ok2 || !strings.EqualFold(strings.TrimSpace(name), "SIP") || !isToken(version) {
		return via{}, errVia
	}
	rest = strings.TrimLeft(rest, " \t")
	space := strings.IndexByte(rest, ' ')
	if tab := strings.IndexByte(rest, '\t'); tab >= 0 && (space < 0 || tab < space) {
		space = tab
	}
	if space < 0 || !isToken(rest[:space]) {
		return via{}, errVia
	}
	v := via{version: version, transport: strings.ToUpper(rest[:space])}
	sentBy, params := strings.TrimSpace(rest[space:]), ""
	if i := strings.IndexByte(sentBy, ';'); i >= 0 {
		sentBy, params = strings.TrimSpace(sentBy[:i]), sentBy[i:]
	}
	var err error
	if v.host, v.port, err = parseSentBy(sentBy); err != nil {
		return via{}, err
	}
	if v.params, err = cleanParams(params); err != nil {
		return via{}, errVia
	}
	return v, v.readParams()
}

// parseSentBy reads host [ COLON port ], white space around the colon allowed.
func parseSentBy(s string) (host string, port uint16, err error) {
	host, digits := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, digits = strings.TrimRight(s[:i], " \t"), strings.TrimLeft(s[i+1:], " \t")
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 {
			return "", 0, errVia
		}
		port = uint16(n)
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() {
			return "", 0, errVia
		}
		return strings.ToLower(host), port, nil
	}
	if host == "" || hasForbidden(host) {
		return "", 0, errVia
	}
	for i := 0; i < len(host); i++ {
		switch host[i] {
		case ':', ',', '[', ']', '@', '/', '?':
			return "", 0, errVia
		}
	}
	return strings.ToLower(host), port, nil
}

func (v *via) readParams() error {
	for p := range eachParam(v.params) {
		name, value, has := strings.Cut(p, "=")
		switch strings.ToLower(name) {
		case "branch":
			v.branch = value
		case "received":
			v.received = value
		case "rport":
			v.wantRport = true
			if !has || value == "" {
				continue
			}
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return errVia
			}
			v.rport = uint16(n)
		}
	}
	return nil
}

// stamped returns the value as the server transport hands it on: with received, and rport
// filled in, by where the request really came from (RFC 3261 s.18.2.1, RFC 3581 s.4). What
// the sender wrote there itself is replaced: a response must not be aimed by a stranger.
func (v via) stamped(from netip.AddrPort) string {
	var room [192]byte
	b := append(room[:0], "SIP/"...)
	b = append(append(b, v.version...), '/')
	b = append(append(b, v.transport...), ' ')
	b = v.appendSentBy(b)
	for p := range eachParam(v.params) {
		name, _, _ := strings.Cut(p, "=")
		switch {
		case p == "", strings.EqualFold(name, "received"):
		case strings.EqualFold(name, "rport"):
			b = strconv.AppendUint(append(b, ";rport="...), uint64(from.Port()), 10)
		default:
			b = append(append(b, ';'), p...)
		}
	}
	var text [64]byte
	if source := from.Addr().AppendTo(text[:0]); v.wantRport || v.host != string(source) {
		b = append(append(b, ";received="...), source...)
	}
	return string(b)
}

func (v via) appendSentBy(b []byte) []byte {
	if strings.IndexByte(v.host, ':') >= 0 {
		b = append(append(append(b, '['), v.host...), ']')
	} else {
		b = append(b, v.host...)
	}
	if v.port != 0 {
		b = strconv.AppendUint(append(b, ':'), uint64(v.port), 10)
	}
	return b
}

func (v via) sentBy() string { return string(v.appendSentBy(nil)) }

// answerPort is where a datagram response to this Via goes (RFC 3261 s.18.2.2, RFC 3581).
func (v via) answerPort(from netip.AddrPort) netip.AddrPort {
	if v.wantRport {
		return from
	}
	return netip.AddrPortFrom(from.Addr(), v.portOrDefault())
}

// answerAddr is where a response goes when only its stamped Via is left, as after a
// restart. It is not valid when the Via names a host without received.
func (v via) answerAddr() netip.AddrPort {
	host := v.received
	if host == "" {
		host = v.host
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return netip.AddrPort{}
	}
	if v.rport != 0 && v.transport == "UDP" {
		return netip.AddrPortFrom(addr, v.rport)
	}
	return netip.AddrPortFrom(addr, v.portOrDefault())
}

func (v via) portOrDefault() uint16 {
	if v.port == 0 {
		return defaultPort
	}
	return v.port
}

// writeVia returns the Via value of a request of ours.
func writeVia(transport core.Transport, sentBy netip.AddrPort, branch string) string {
	b := make([]byte, 0, 96)
	b = append(b, "SIP/2.0/"...)
	b = append(b, strings.ToUpper(string(transport))...)
	b = append(b, ' ')
	b = sentBy.AppendTo(b)
	b = append(b, ";branch="...)
	b = append(b, branch...)
	if transport == core.UDP {
		b = append(b, ";rport"...) // RFC 3581: answer to where it came from
	}
	return string(b)
}
