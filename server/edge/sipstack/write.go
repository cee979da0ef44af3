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
	b = appendClean(b, r.URI.String())
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
	b = appendField(b, "From", m.From.String())
	b = appendField(b, "To", m.To.String())
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
		b = appendField(b, name, a.String())
	}
	return b
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
	if !strings.ContainsAny(s, "\r\n\x00") {
		return append(b, s...)
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\r', '\n', 0:
			b = append(b, ' ')
		default:
			b = append(b, s[i])
		}
	}
	return b
}
