package sipstack

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// readPlain reads a message in the form that nearly everybody writes: no folded line, one
// Content-Length of digits alone, every field well-formed. It reports false for any other,
// which the library's parser takes: that one also knows the many other forms of RFC 3261,
// and which fault to name. What is read here, it must read to the same; FuzzMessage
// compares them. head is everything up to the empty line.
//
// The texts of the message are parts of one copy of its head.
func readPlain(head string, data []byte, from netip.AddrPort) (parsed, bool) {
	line, rest, _ := strings.Cut(head, "\r\n")
	a, b, c := cut3(line)
	if len(a)+len(b)+len(c)+2 != len(line) { // two spaces
		return parsed{}, false
	}
	var m parsed
	f := fieldReader{}
	isResponse := a == "SIP/2.0"
	switch {
	case isResponse:
		status, err := strconv.ParseUint(b, 10, 16)
		if err != nil || len(b) != 3 || status < 100 || status > 699 || hasControl(c) {
			return parsed{}, false
		}
		m.response = &core.Response{Status: int(status), Phrase: c}
		f.m = &m.response.Message
	case c == "SIP/2.0" && isToken(a):
		m.request = &core.Request{Method: a}
		f.m = &m.request.Message
	default:
		return parsed{}, false
	}
	body, ok := f.readPlain(rest, data[len(head)+len("\r\n\r\n"):])
	if !ok || f.method == "" {
		return parsed{}, false
	}
	if len(body) > 0 {
		f.m.Body = append([]byte(nil), body...)
	}
	m.via = f.top
	if isResponse {
		m.response.Method = f.method
		return m, true
	}
	return m, f.method == a && completeRequest(m.request, b, &f, from) == nil
}

// readPlain reads header fields, one a line, and returns the body.
func (f *fieldReader) readPlain(head string, rest []byte) ([]byte, bool) {
	length := -1
	fields := strings.Count(head, "\r\n") + 1
	if fields > maxFields {
		return nil, false
	}
	f.m.Header = make([]core.Field, 0, max(0, fields-6)) // six fields have members of their own
	for line := ""; head != ""; {
		line, head, _ = strings.Cut(head, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || !isToken(name) || line[0] == ' ' || line[0] == '\t' || strings.IndexByte(line, '\r') >= 0 {
			return nil, false
		}
		value = strings.TrimSpace(value)
		if kind, _ := fieldName(name); kind == lengthField {
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil || length >= 0 || int(n) > len(rest) || value[0] == '+' {
				return nil, false
			}
			length = int(n)
		}
		if f.read(name, value) != nil || f.count > maxFields {
			return nil, false
		}
	}
	if length >= 0 {
		rest = rest[:length]
	}
	if len(f.m.Header) == 0 {
		f.m.Header = nil
	}
	return rest, f.complete() == nil
}
