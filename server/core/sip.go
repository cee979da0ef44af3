package core

import (
	"fmt"
	"iter"
	"net"
	"strconv"
	"strings"
)

// SIP methods that the core names (RFC 3261 and its extensions).
const (
	INVITE   = "INVITE"
	ACK      = "ACK"
	BYE      = "BYE"
	CANCEL   = "CANCEL"
	OPTIONS  = "OPTIONS"
	REGISTER = "REGISTER"
	INFO     = "INFO"
	UPDATE   = "UPDATE"
	REFER    = "REFER"
	NOTIFY   = "NOTIFY"
	PRACK    = "PRACK"
	MESSAGE  = "MESSAGE"
)

// URI is a SIP URI taken apart (RFC 3261 s.19.1). Params keeps its text, leading
// semicolon included, since unknown parameters must be returned as they came.
type URI struct {
	Scheme string `json:"scheme"`
	User   string `json:"user,omitempty"` // still escaped
	Host   string `json:"host"`           // IPv6 without brackets
	Port   uint16 `json:"port,omitempty"` // 0: not given
	Params string `json:"params,omitempty"`
}

// String is the form that goes on the wire.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString(u.Scheme)
	b.WriteByte(':')
	if u.User != "" {
		b.WriteString(u.User)
		b.WriteByte('@')
	}
	if strings.Contains(u.Host, ":") {
		b.WriteByte('[')
		b.WriteString(u.Host)
		b.WriteByte(']')
	} else {
		b.WriteString(u.Host)
	}
	if u.Port != 0 {
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(int(u.Port)))
	}
	b.WriteString(u.Params)
	return b.String()
}

// Param returns the value of a URI parameter and whether it is there.
func (u URI) Param(name string) (string, bool) { return param(u.Params, name) }

// ParseURI reads a sip or sips URI. Other schemes (tel) are refused.
func ParseURI(s string) (URI, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	scheme = strings.ToLower(scheme)
	if !ok || (scheme != "sip" && scheme != "sips") {
		return URI{}, fmt.Errorf("URI %.80q: scheme must be sip or sips", s)
	}
	u := URI{Scheme: scheme}
	// The user part may hold a semicolon and a question mark (s.25.1 user-unreserved), so the
	// at sign goes first.
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		u.User, rest = rest[:i], rest[i+1:]
	}
	if i := strings.IndexByte(rest, '?'); i >= 0 { // header fields are not for us (s.19.1.5)
		rest = rest[:i]
	}
	if i := strings.IndexByte(rest, ';'); i >= 0 {
		u.Params, rest = rest[i:], rest[:i]
	}
	host, port, err := splitHostPort(rest)
	if err != nil {
		return URI{}, fmt.Errorf("URI %.80q: %w", s, err)
	}
	u.Host, u.Port = strings.ToLower(host), port
	return u, nil
}

func splitHostPort(s string) (string, uint16, error) {
	host, digits := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, digits = s[:i], s[i+1:]
		if strings.ContainsRune(host, ':') && !strings.HasPrefix(host, "[") {
			return "", 0, fmt.Errorf("host: an IPv6 address needs brackets")
		}
	}
	var port uint64
	if digits != "" {
		var err error
		if port, err = strconv.ParseUint(digits, 10, 16); err != nil || port == 0 {
			return "", 0, fmt.Errorf("port %.20q: must be 1 to 65535", digits)
		}
	}
	if strings.HasPrefix(host, "[") || strings.HasSuffix(host, "]") {
		inner := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if len(inner) != len(host)-2 || net.ParseIP(inner) == nil {
			return "", 0, fmt.Errorf("host %.60q: not an IPv6 address in brackets", host)
		}
		host = inner
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n<>\"@") {
		return "", 0, fmt.Errorf("host %.60q: empty or with a forbidden character", host)
	}
	return host, uint16(port), nil
}

// Address is a name-addr: From, To, Contact, Route (RFC 3261 s.20.10).
type Address struct {
	Display string `json:"display,omitempty"`
	URI     URI    `json:"uri"`
	Params  string `json:"params,omitempty"` // header parameters, leading semicolon included
}

// String is the form that goes on the wire, always with angle brackets.
func (a Address) String() string {
	uri := "<" + a.URI.String() + ">" + a.Params
	if a.Display == "" {
		return uri
	}
	display := a.Display
	if strings.ContainsAny(display, "\\\"") {
		display = strings.ReplaceAll(strings.ReplaceAll(display, "\\", "\\\\"), "\"", "\\\"")
	}
	return "\"" + display + "\" " + uri
}

// Param returns the value of a header parameter and whether it is there.
func (a Address) Param(name string) (string, bool) { return param(a.Params, name) }

// Tag returns the tag parameter, "" when there is none.
func (a Address) Tag() string { tag, _ := a.Param("tag"); return tag }

// WithTag returns the address with its tag set, in place of one it had.
func (a Address) WithTag(tag string) Address {
	kept := ""
	for p := range parts(a.Params) {
		if name, _, _ := strings.Cut(p, "="); !strings.EqualFold(strings.TrimSpace(name), "tag") {
			kept += ";" + p
		}
	}
	a.Params = kept + ";tag=" + tag
	return a
}

func param(params, name string) (string, bool) {
	for p := range parts(params) {
		k, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(k), name) {
			return strings.Trim(strings.TrimSpace(v), `"`), true
		}
	}
	return "", false
}

// parts yields the parameters between semicolons; one inside a quoted text separates nothing.
func parts(params string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i <= len(params); i++ {
			switch {
			case i == len(params) || params[i] == ';' && !quoted:
				if i > start && !yield(params[start:i]) {
					return
				}
				start = i + 1
			case params[i] == '\\' && quoted:
				i++
			case params[i] == '"':
				quoted = !quoted
			}
		}
	}
}

// Field is one header field that the core has no member for.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Message is what requests and responses share. A message is immutable once handed over.
type Message struct {
	Via         []string  `json:"via,omitempty"` // topmost first, as on the wire
	From        Address   `json:"from"`
	To          Address   `json:"to"`
	CallID      string    `json:"call_id"`
	CSeq        uint32    `json:"cseq"`
	Contact     []Address `json:"contact,omitempty"`
	Star        bool      `json:"star,omitempty"` // "Contact: *" (RFC 3261 s.10.2.2)
	RecordRoute []Address `json:"record_route,omitempty"`
	Route       []Address `json:"route,omitempty"`
	Header      []Field   `json:"header,omitempty"` // the rest, in order
	ContentType string    `json:"content_type,omitempty"`
	Body        []byte    `json:"body,omitempty"`
}

// Get returns the first value of a header field in Header, "" when there is none.
func (m *Message) Get(name string) string {
	for _, f := range m.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Values returns all values of a header field in Header.
func (m *Message) Values(name string) []string {
	var all []string
	for _, f := range m.Header {
		if strings.EqualFold(f.Name, name) {
			all = append(all, f.Value)
		}
	}
	return all
}

// Request is a SIP request. Of a request that the core makes, the edge writes what
// belongs to the transport: Via (with the branch TxnID), Max-Forwards, Content-Length.
type Request struct {
	Method string `json:"method"`
	URI    URI    `json:"uri"`
	Message
}

// Response is a SIP response; Method is that of the request (it is in CSeq).
type Response struct {
	Status int    `json:"status"`
	Phrase string `json:"phrase"`
	Method string `json:"method"`
	Message
}

// Reply returns a response to r with the fields that RFC 3261 s.8.2.6.2 copies, and
// Record-Route (s.12.1.1). The tag is added to To when the request had none.
func (r *Request) Reply(status int, tag string) *Response {
	to := r.To
	if to.Tag() == "" && tag != "" && status > 100 {
		to = to.WithTag(tag)
	}
	return &Response{Status: status, Phrase: Phrase(status), Method: r.Method, Message: Message{
		Via: r.Via, From: r.From, To: to, CallID: r.CallID, CSeq: r.CSeq, RecordRoute: r.RecordRoute,
	}}
}

// Phrase returns the reason phrase of a status (RFC 3261 s.21).
func Phrase(status int) string {
	switch status {
	case 100:
		return "Trying"
	case 180:
		return "Ringing"
	case 183:
		return "Session Progress"
	case 200:
		return "OK"
	case 202:
		return "Accepted"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case 415:
		return "Unsupported Media Type"
	case 416:
		return "Unsupported URI Scheme"
	case 420:
		return "Bad Extension"
	case 423:
		return "Interval Too Brief"
	case 430: // RFC 5626 s.11.5
		return "Flow Failed"
	case 480:
		return "Temporarily Unavailable"
	case 481:
		return "Call/Transaction Does Not Exist"
	case 482:
		return "Loop Detected"
	case 483:
		return "Too Many Hops"
	case 486:
		return "Busy Here"
	case 487:
		return "Request Terminated"
	case 488:
		return "Not Acceptable Here"
	case 491:
		return "Request Pending"
	case 500:
		return "Server Internal Error"
	case 501:
		return "Not Implemented"
	case 503:
		return "Service Unavailable"
	case 603:
		return "Decline"
	}
	return "Status " + strconv.Itoa(status)
}
