package phone

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"
)

const (
	cookie      = "z9hG4bK" // RFC 3261 s.8.1.1.7
	defaultPort = 5060
	maxMessage  = 64 * 1024 // bytes
	maxFields   = 200
)

var errNotSIP = errors.New("not a SIP message that can be answered")

// message is one that was received. Header fields are kept as text, so that what must be
// repeated in a response is repeated as it was.
type message struct {
	at   time.Time
	back way // where it came from

	method string // of a response: that of its CSeq
	uri    string // of a request
	status int    // of a response, else 0
	reason string

	vias        []string
	via         via // the topmost
	from, to    string
	fromTag     string
	toTag       string
	callID      string
	cseq        uint32
	contacts    []string
	recordRoute []string
	other       []field
	body        []byte
}

type field struct{ name, value string }

// via is what the topmost Via says.
type via struct {
	sentBy string
	branch string
	rport  bool // asked for, RFC 3581
}

// newParser returns the library's parser with every header field left as text, but for
// Content-Length, which it needs to find the end of the body.
func newParser() *sip.Parser {
	length := sip.DefaultHeadersParser()["content-length"]
	p := sip.NewParser(sip.WithHeadersParsers(map[string]sip.HeaderParser{"content-length": length, "l": length}))
	p.MaxMessageLength = maxMessage
	return p
}

// read takes the bytes of one whole message. They may come from anybody: a panic in the
// parser would end the run, so it costs one message instead.
func read(p *sip.Parser, data []byte) (m *message, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("parser: %v", r)
		}
	}()
	msg, err := p.ParseSIP(data)
	if err != nil {
		return nil, err
	}
	m = &message{}
	var headers []sip.Header
	switch msg := msg.(type) {
	case *sip.Request:
		m.method, m.uri, headers, m.body = string(msg.Method), requestURI(data), msg.Headers(), msg.Body()
	case *sip.Response:
		m.status, m.reason, headers, m.body = msg.StatusCode, msg.Reason, msg.Headers(), msg.Body()
	}
	if len(headers) > maxFields {
		return nil, errNotSIP
	}
	method, err := m.take(headers)
	if err != nil {
		return nil, err
	}
	switch {
	case m.status != 0:
		m.method = method
	case method != m.method: // RFC 3261 s.8.1.1.5
		return nil, errNotSIP
	}
	if m.status != 0 && (m.status < 100 || m.status > 699) {
		return nil, errNotSIP
	}
	return m, m.complete()
}

// requestURI is the text between the first two spaces.
func requestURI(data []byte) string {
	line, _, _ := bytes.Cut(data, []byte("\r\n"))
	_, rest, _ := bytes.Cut(line, []byte(" "))
	uri, _, _ := bytes.Cut(rest, []byte(" "))
	return string(uri)
}

// take sorts the header fields and returns the method of CSeq.
func (m *message) take(headers []sip.Header) (method string, err error) {
	for _, h := range headers {
		name, value := h.Name(), h.Value()
		switch kindOf(name) {
		case viaField:
			m.vias = append(m.vias, value)
		case fromField:
			m.from = value
		case toField:
			m.to = value
		case callIDField:
			m.callID = value
		case cseqField:
			number, rest, _ := strings.Cut(value, " ")
			n, err := strconv.ParseUint(number, 10, 31)
			if err != nil {
				return "", errNotSIP
			}
			m.cseq, method = uint32(n), strings.TrimSpace(rest)
		case contactField:
			m.contacts = splitList(m.contacts, value)
		case recordRouteField:
			m.recordRoute = splitList(m.recordRoute, value)
		case otherField:
			m.other = append(m.other, field{name, value})
		}
	}
	return method, nil
}

// complete checks that the message has what every message has, and takes the topmost Via.
func (m *message) complete() error {
	m.fromTag, m.toTag = tagOf(m.from), tagOf(m.to)
	if len(m.vias) == 0 || m.from == "" || m.to == "" || m.callID == "" || m.method == "" {
		return errNotSIP
	}
	top := m.vias[0]
	if i := scan(top, ','); i >= 0 {
		top = top[:i]
	}
	head, params := top, ""
	if i := strings.IndexByte(top, ';'); i >= 0 {
		head, params = top[:i], top[i:]
	}
	i := strings.LastIndexAny(strings.TrimRight(head, " \t"), " \t")
	if i < 0 || !strings.HasPrefix(head, "SIP/") {
		return errNotSIP
	}
	m.via.sentBy = strings.TrimSpace(head[i:])
	m.via.branch, _ = param(params, "branch")
	_, m.via.rport = param(params, "rport")
	return nil
}

func (m *message) get(name string) string {
	for _, f := range m.other {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// contact is the URI of the first Contact.
func (m *message) contact() string {
	if len(m.contacts) == 0 {
		return ""
	}
	uri, _ := splitAddress(m.contacts[0])
	return uri
}

// answerTo is where a response goes (RFC 3261 s.18.2.2, RFC 3581 s.4).
func (m *message) answerTo() way {
	if m.back.flow != nil || m.via.rport {
		return m.back
	}
	port := uint16(defaultPort)
	if i := strings.LastIndexByte(m.via.sentBy, ':'); i >= 0 && !strings.HasSuffix(m.via.sentBy, "]") {
		if n, err := strconv.ParseUint(m.via.sentBy[i+1:], 10, 16); err == nil && n != 0 {
			port = uint16(n)
		}
	}
	return way{addr: netip.AddrPortFrom(m.back.addr.Addr(), port)}
}

// fieldKind is a header field that is taken apart.
type fieldKind uint8

const (
	otherField fieldKind = iota
	viaField
	fromField
	toField
	callIDField
	cseqField
	contactField
	recordRouteField
	lengthField
)

// kindOf knows long and compact names (RFC 3261 s.7.3.3).
func kindOf(name string) fieldKind {
	if len(name) == 1 {
		switch name[0] | 0x20 {
		case 'v':
			return viaField
		case 'f':
			return fromField
		case 't':
			return toField
		case 'i':
			return callIDField
		case 'm':
			return contactField
		case 'l':
			return lengthField
		}
		return otherField
	}
	switch {
	case strings.EqualFold(name, "Via"):
		return viaField
	case strings.EqualFold(name, "From"):
		return fromField
	case strings.EqualFold(name, "To"):
		return toField
	case strings.EqualFold(name, "Call-ID"):
		return callIDField
	case strings.EqualFold(name, "CSeq"):
		return cseqField
	case strings.EqualFold(name, "Contact"):
		return contactField
	case strings.EqualFold(name, "Record-Route"):
		return recordRouteField
	case strings.EqualFold(name, "Content-Length"):
		return lengthField
	}
	return otherField
}
