package responder

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Timers of RFC 3261 s.17.1.1.1.
const (
	t1      = 500 * time.Millisecond
	t2      = 4 * time.Second
	giveUp  = 64 * t1
	linger  = giveUp           // that long what has ended still answers to repetitions
	ringMax = 20 * time.Second // an agent's phone rings no longer
)

// attempt is a request of ours until its final response: a client transaction.
type attempt struct {
	data    []byte
	to      netip.AddrPort
	method  string
	heard   bool // any response has come: an INVITE is not repeated any more
	settled bool // a final one has come, or nobody answers
	final   func(status int, m *message)
	interim func(m *message)
}

// request writes and sends a request of a leg, and repeats it until it is answered (RFC
// 3261 s.17.1.1.2, 17.1.2.2). final gets a status of 408 and no message when nobody answers.
func (x *exchange) request(l *leg, method string, seq uint32, branch string, body []byte, interim func(*message), final func(int, *message)) {
	a := &attempt{data: l.write(x, method, seq, branch, body), to: l.addr, method: method, interim: interim, final: final}
	x.attempts[branch+method] = a
	x.send(a.data, a.to)
	x.later(time.Now().Add(giveUp), func() { // what repeats a 2xx still finds its attempt until then
		delete(x.attempts, branch+method)
		if !a.settled { // an INVITE is withdrawn long before
			a.settled = true
			a.final(408, nil)
		}
	})
	x.repeat(a, t1)
}

func (x *exchange) repeat(a *attempt, wait time.Duration) {
	x.later(time.Now().Add(wait), func() {
		if a.settled || a.method == "INVITE" && a.heard || wait > giveUp {
			return
		}
		x.send(a.data, a.to)
		next := 2 * wait
		if a.method != "INVITE" {
			next = min(next, t2)
		}
		x.repeat(a, next)
	})
}

// answer takes a response.
func (x *exchange) answer(m *message) {
	a := x.attempts[m.branch+m.method]
	if a == nil {
		return
	}
	a.heard = true
	status := m.response.StatusCode
	switch {
	case status < 200:
		if !a.settled && a.interim != nil {
			a.interim(m)
		}
	case a.settled:
		if l := x.legs[m.callID]; a.method == "INVITE" && l != nil { // its ACK was lost
			x.acknowledge(l, m)
		}
	default:
		a.settled = true
		if a.method != "INVITE" {
			delete(x.attempts, m.branch+m.method)
		}
		a.final(status, m)
	}
}

// write makes a request of the leg (RFC 3261 s.8.1.1, 12.2.1.1).
func (l *leg) write(x *exchange, method string, seq uint32, branch string, body []byte) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s\r\nMax-Forwards: 70\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\n",
		method, l.target, x.sip.addr, branch, l.local, l.remote, l.callID, seq, method)
	var fields []string
	if method == "INVITE" {
		fields = []string{x.contact()}
	}
	writeRest(&b, fields, body)
	return []byte(b.String())
}

func (x *exchange) contact() string { return fmt.Sprintf("Contact: <sip:responder@%s>", x.sip.addr) }

// acknowledge answers a final response to an INVITE of ours: of the same transaction for a
// refusal (RFC 3261 s.17.1.1.3), else one of its own (s.13.2.2.4).
func (x *exchange) acknowledge(l *leg, m *message) {
	branch := m.branch
	if m.response.StatusCode < 300 {
		branch = "z9hG4bK" + x.name()
	} else if h := m.response.To(); h != nil {
		old := l.remote
		l.remote = oneLine(h.Value())
		defer func() { l.remote = old }()
	}
	x.send(l.write(x, "ACK", m.cseq, branch, nil), l.addr)
}
