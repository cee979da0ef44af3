package responder

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"
)

// message is a SIP message with what is needed of it.
type message struct {
	request  *sip.Request  // one of the two
	response *sip.Response //

	method         string // of a response: of its CSeq
	callID         string
	cseq           uint32
	fromTag, toTag string
	caller         string // user of From
	callee         string // user of To
	branch         string
	contact        string // URI, empty without

	from    netip.AddrPort
	arrived time.Time
}

var errIncomplete = errors.New("Via, From, To, Call-ID or CSeq is missing or broken")

// parse reads a datagram. The parser is someone else's and the bytes are anybody's, so a
// panic costs this message alone.
func parse(p *sip.Parser, b []byte) (m *message, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("parser: %v", r)
		}
	}()
	msg, err := p.ParseSIP(b)
	if err != nil {
		return nil, err
	}
	m = &message{}
	switch v := msg.(type) {
	case *sip.Request:
		m.request, m.method, m.contact = v, string(v.Method), contactOf(v.Contact())
	case *sip.Response:
		m.response, m.contact = v, contactOf(v.Contact())
	}
	via, from, to, id, cseq := msg.Via(), msg.From(), msg.To(), msg.CallID(), msg.CSeq()
	if via == nil || from == nil || to == nil || id == nil || cseq == nil || id.Value() == "" {
		return nil, errIncomplete
	}
	if m.response != nil {
		m.method = string(cseq.MethodName)
	} else if m.method != string(cseq.MethodName) {
		return nil, errIncomplete
	}
	m.callID, m.cseq = id.Value(), cseq.SeqNo
	m.fromTag, _ = from.Params.Get("tag")
	m.toTag, _ = to.Params.Get("tag")
	m.branch, _ = via.Params.Get("branch")
	m.caller, m.callee = from.Address.User, to.Address.User
	return m, nil
}

func contactOf(h *sip.ContactHeader) string {
	if h == nil || h.Address.Host == "" || h.Address.Wildcard {
		return ""
	}
	return oneLine(h.Address.String())
}

// reply makes and sends a response outside of any call. A tag of "" puts the request's own.
func (x *exchange) reply(m *message, status int, reason, tag string, fields ...string) {
	if m.method == "ACK" {
		return
	}
	x.send(responseTo(m, status, reason, tag, fields, nil), m.from)
}

// responseTo writes a response (RFC 3261 s.8.2.6). fields are whole lines without their end.
func responseTo(m *message, status int, reason, tag string, fields []string, body []byte) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d %s\r\n", status, reason)
	for _, name := range []string{"Via", "From", "To", "Call-ID", "CSeq"} {
		for i, h := range m.request.GetHeaders(name) {
			if i > 0 && name != "Via" {
				break
			}
			b.WriteString(name + ": " + oneLine(h.Value()))
			if name == "To" && m.toTag == "" && tag != "" && status > 100 {
				b.WriteString(";tag=" + tag)
			}
			b.WriteString("\r\n")
		}
	}
	writeRest(&b, fields, body)
	return []byte(b.String())
}

func writeRest(b *strings.Builder, fields []string, body []byte) {
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	if len(body) > 0 {
		b.WriteString("Content-Type: application/sdp\r\n")
	}
	fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
}

// oneLine keeps a value from becoming two fields.
func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

func token() string { return rand.Text() }
