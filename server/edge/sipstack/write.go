package sipstack

import (
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// appendRequest writes a request with one Via. The edge owns Via, Max-Forwards (unless the
// core carries one on) and Content-Length.
func appendRequest(b []byte, r *core.Request, via, software string) []byte {
	b = appendClean(b, r.Method)
	b = append(b, ' ')
	b = appendURI(b, r.URI)
	b = append(b, " SIP/2.0\r\n"...)
	b = appendField(b, "Via", via)
	if r.Get("Max-Forwards") == "" {
		b = append(b, "Max-Forwards: 70\r\n"...)
	}
	b = appendMessage(b, &r.Message, r.Method)
	if software != "" && r.Get("User-Agent") == "" {
		b = appendField(b, "User-Agent", software)
	}
	return appendBody(b, &r.Message)
}

func appendResponse(b []byte, r *core.Response, software string) []byte {
	b = append(b, "SIP/2.0 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	b = appendClean(b, r.Phrase)
	b = append(b, "\r\n"...)
	for _, v := range r.Via {
		b = appendField(b, "Via", v)
	}
	b = appendMessage(b, &r.Message, r.Method)
	if software != "" && r.Get("Server") == "" {
		b = appendField(b, "Server", software)
	}
	return appendBody(b, &r.Message)
}

func appendMessage(b []byte, m *core.Message, method string) []byte {
	b = appendAddresses(b, "Route", m.Route)
	b = appendAddresses(b, "Record-Route", m.RecordRoute)
	b = appendAddress(b, "From", m.From)
	b = appendAddress(b, "To", m.To)
	b = appendField(b, "Call-ID", m.CallID)
	b = append(b, "CSeq: "...)
	b = strconv.AppendUint(b, uint64(m.CSeq), 10)
	b = append(b, ' ')
	b = appendClean(b, method)
	b = append(b, "\r\n"...)
	if m.Star {
		b = append(b, "Contact: *\r\n"...)
	}
	b = appendAddresses(b, "Contact", m.Contact)
	for _, f := range m.Header {
		if kind, _ := fieldName(f.Name); (kind == other || kind == forwardsField) && isToken(f.Name) {
			b = appendField(b, f.Name, f.Value)
		}
	}
	return b
}

func appendAddresses(b []byte, name string, all []core.Address) []byte {
	for _, a := range all {
		b = appendAddress(b, name, a)
	}
	return b
}

// appendAddress writes what core.Address.String returns, without the copies.
func appendAddress(b []byte, name string, a core.Address) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	if a.Display != "" {
		b = append(b, '"')
		start := 0
		for i := 0; i < len(a.Display); i++ {
			if c := a.Display[i]; c == '"' || c == '\\' {
				b = append(appendClean(b, a.Display[start:i]), '\\')
				start = i
			}
		}
		b = append(appendClean(b, a.Display[start:]), '"', ' ')
	}
	b = append(b, '<')
	b = appendURI(b, a.URI)
	b = append(b, '>')
	b = appendClean(b, a.Params)
	return append(b, "\r\n"...)
}

// appendURI writes what core.URI.String returns.
func appendURI(b []byte, u core.URI) []byte {
	b = append(appendClean(b, u.Scheme), ':')
	if u.User != "" {
		b = append(appendClean(b, u.User), '@')
	}
	if strings.IndexByte(u.Host, ':') >= 0 {
		b = append(appendClean(append(b, '['), u.Host), ']')
	} else {
		b = appendClean(b, u.Host)
	}
	if u.Port != 0 {
		b = strconv.AppendUint(append(b, ':'), uint64(u.Port), 10)
	}
	return appendClean(b, u.Params)
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = appendClean(b, value)
	return append(b, "\r\n"...)
}

func appendBody(b []byte, m *core.Message) []byte {
	if m.ContentType != "" && len(m.Body) > 0 {
		b = appendField(b, "Content-Type", m.ContentType)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(m.Body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, m.Body...)
}

// appendClean writes a text without anything that could end a line: texts of the
// configuration reach the wire too, and one of them must not become a header field.
func appendClean(b []byte, s string) []byte {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] > '\r' || s[i] == '\t'
	}
	if clean {
		return append(b, s...)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\r' || c == '\n' || c == 0 {
			c = ' '
		}
		b = append(b, c)
	}
	return b
}
