package phone

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

// methods are those that a phone takes.
const methods = "INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY, INFO"

// request is one that is sent. Texts in it are checked where they come from.
type request struct {
	method   string
	uri      string
	from, to string // with their tags
	callID   string
	seq      uint32
	routes   []string
	contact  string // with <>, "" for none
	extra    []field
	body     []byte
}

// wire writes the request with one Via.
func (r *request) wire(e *Endpoint, branch string) []byte {
	b := make([]byte, 0, 512+len(r.body))
	b = append(b, r.method...)
	b = append(b, ' ')
	b = append(b, r.uri...)
	b = append(b, " SIP/2.0\r\nVia: SIP/2.0/"...)
	b = append(b, e.network...)
	b = append(b, ' ')
	b = append(b, e.sentBy...)
	b = append(b, ";branch="...)
	b = append(b, branch...)
	b = append(b, ";rport\r\nMax-Forwards: 70\r\n"...)
	for _, route := range r.routes {
		b = appendField(b, "Route", route)
	}
	b = appendField(b, "From", r.from)
	b = appendField(b, "To", r.to)
	b = appendField(b, "Call-ID", r.callID)
	b = append(b, "CSeq: "...)
	b = strconv.AppendUint(b, uint64(r.seq), 10)
	b = append(b, ' ')
	b = append(b, r.method...)
	b = append(b, "\r\n"...)
	if r.contact != "" {
		b = appendField(b, "Contact", r.contact)
	}
	for _, f := range r.extra {
		b = appendField(b, f.name, f.value)
	}
	if r.method == "INVITE" || r.method == "REGISTER" {
		b = appendField(b, "Allow", methods)
	}
	b = append(b, "User-Agent: dialtone\r\n"...)
	return appendBody(b, r.body)
}

// response is one that is sent.
type response struct {
	status  int
	reason  string
	tag     string // added to To where it has none
	contact string
	extra   []field
	body    []byte
}

// wire writes the response to m (RFC 3261 s.8.2.6).
func (r *response) wire(m *message) []byte {
	b := make([]byte, 0, 512+len(r.body))
	b = append(b, "SIP/2.0 "...)
	b = strconv.AppendInt(b, int64(r.status), 10)
	b = append(b, ' ')
	b = append(b, r.reason...)
	b = append(b, "\r\n"...)
	for i, v := range m.vias {
		if i == 0 {
			v = stamped(v, m)
		}
		b = appendField(b, "Via", v)
	}
	if r.status > 100 && r.status < 300 {
		for _, route := range m.recordRoute { // s.12.1.1
			b = appendField(b, "Record-Route", route)
		}
	}
	b = appendField(b, "From", m.from)
	if r.tag != "" && m.toTag == "" && r.status > 100 {
		b = append(b, "To: "...)
		b = append(b, m.to...)
		b = append(b, ";tag="...)
		b = append(b, r.tag...)
		b = append(b, "\r\n"...)
	} else {
		b = appendField(b, "To", m.to)
	}
	b = appendField(b, "Call-ID", m.callID)
	b = append(b, "CSeq: "...)
	b = strconv.AppendUint(b, uint64(m.cseq), 10)
	b = append(b, ' ')
	b = append(b, m.method...)
	b = append(b, "\r\n"...)
	if r.contact != "" {
		b = appendField(b, "Contact", r.contact)
	}
	for _, f := range r.extra {
		b = appendField(b, f.name, f.value)
	}
	return appendBody(b, r.body)
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

func appendBody(b, body []byte) []byte {
	if len(body) > 0 {
		b = append(b, "Content-Type: application/sdp\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}

// stamped is the topmost Via with where the request really came from (RFC 3261 s.18.2.1,
// RFC 3581 s.4).
func stamped(v string, m *message) string {
	first, rest := v, ""
	if i := scan(v, ','); i >= 0 {
		first, rest = v[:i], v[i:]
	}
	host := m.via.sentBy
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	addr := m.back.addr
	if !m.via.rport {
		if strings.Trim(host, "[]") == addr.Addr().String() {
			return v
		}
		return first + ";received=" + addr.Addr().String() + rest
	}
	var b strings.Builder
	for i, p := range strings.Split(first, ";") {
		name, _, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch {
		case i == 0:
			b.WriteString(p)
		case strings.EqualFold(name, "rport"):
			b.WriteString(";rport=" + strconv.Itoa(int(addr.Port())))
		case strings.EqualFold(name, "received"):
		default:
			b.WriteString(";" + p)
		}
	}
	return b.String() + ";received=" + addr.Addr().String() + rest
}

// token is what is unique: Call-IDs, tags, branches.
func token() string {
	b := make([]byte, 0, 32)
	b = strconv.AppendUint(b, rand.Uint64(), 36)
	return string(strconv.AppendUint(b, rand.Uint64(), 36))
}

func newBranch() string { return cookie + token() }
