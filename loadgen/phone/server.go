package phone

import (
	"strconv"
	"strings"
	"time"
)

// Transactions of others (RFC 3261 s.17.2, RFC 6026). Everything but INVITE is answered at
// once and lives on in past only. An INVITE:
//
//	ringing --2xx--> accepted --ACK--> (past: absorbs the INVITE)
//	   |                 +--64 T1--> lost: BYE (s.13.3.1.4)
//	   +--300-699--> refused --ACK or 64 T1--> (past)
type servingPhase string

const (
	pending  servingPhase = "ringing"
	accepted servingPhase = "accepted"
	refused  servingPhase = "refused"
)

type serverTxn struct {
	e         *Endpoint
	key       string
	invite    *message
	back      way
	tag       string // of ours in To
	phase     servingPhase
	last      []byte
	wait      time.Duration
	giveUp    time.Time
	alarm     alarm
	cancelled func(m *message)
	confirmed func(ack *message) // the ACK to our 2xx
	lost      func()             // it never came
}

// serverKey identifies a transaction of others (s.17.2.3).
func serverKey(m *message, method string) string {
	if strings.HasPrefix(m.via.branch, cookie) {
		return method + " " + m.via.branch + " " + m.via.sentBy
	}
	return method + " " + m.callID + " " + m.fromTag + " " + strconv.FormatUint(uint64(m.cseq), 10) + " " + m.via.sentBy
}

// gotRequest is the way of every request.
func (e *Endpoint) gotRequest(m *message) {
	if m.method == "ACK" {
		e.gotAck(m)
		return
	}
	key := serverKey(m, m.method)
	if t := e.servers[key]; t != nil {
		e.tally.Repeated++
		if t.phase != accepted && len(t.last) > 0 {
			_ = e.write(t.back, t.last)
		}
		return
	}
	if e.repeat(key) {
		e.tally.Repeated++
		return
	}
	switch {
	case m.method == "CANCEL":
		e.gotCancel(m)
	case m.toTag != "":
		if c := e.calls[callKey(m.callID, m.toTag)]; c != nil {
			c.gotRequest(m)
			return
		}
		e.answer(m, response{status: 481, reason: "Call/Transaction Does Not Exist"})
	case m.method == "INVITE":
		e.gotInvite(m)
	case m.method == "OPTIONS":
		e.answer(m, response{status: 200, reason: "OK", extra: []field{{"Allow", methods}, {"Accept", "application/sdp"}}})
	case m.method == "NOTIFY", m.method == "BYE":
		e.answer(m, response{status: 481, reason: "Call/Transaction Does Not Exist"})
	default:
		e.answer(m, response{status: 405, reason: "Method Not Allowed", extra: []field{{"Allow", methods}}})
	}
}

// answer gives the final response to a request.
func (e *Endpoint) answer(m *message, r response) {
	if m.method == "INVITE" {
		if t := e.serve(m); t != nil {
			t.refuse(r)
		}
		return
	}
	if r.tag == "" {
		r.tag = token()
	}
	wire, to := r.wire(m), m.answerTo()
	_ = e.write(to, wire)
	if to.flow == nil { // timer J
		e.remember(serverKey(m, m.method), wire, to)
	}
}

// serve opens the transaction of an INVITE; nil at the limit, where it is answered without
// one (s.8.2.7).
func (e *Endpoint) serve(m *message) *serverTxn {
	t := &serverTxn{e: e, key: serverKey(m, "INVITE"), invite: m, back: m.answerTo(), phase: pending, tag: m.toTag}
	if t.tag == "" {
		t.tag = token()
	}
	if len(e.servers) >= maxTransactions {
		r := response{status: 503, reason: "Service Unavailable", tag: t.tag, extra: []field{{"Retry-After", "5"}}}
		_ = e.write(t.back, r.wire(m))
		return nil
	}
	t.alarm.ring = t.ring
	e.servers[t.key] = t
	return t
}

func (t *serverTxn) respond(r response) {
	r.tag = t.tag
	t.last = r.wire(t.invite)
	_ = t.e.write(t.back, t.last)
}

// accept sends a 2xx and repeats it until its ACK has come, over any transport.
func (t *serverTxn) accept(r response, confirmed func(ack *message), lost func()) {
	t.phase, t.confirmed, t.lost = accepted, confirmed, lost
	t.respond(r)
	t.start()
}

// refuse sends a final response of 300 to 699, and over UDP repeats it until its ACK has
// come (timers G and H).
func (t *serverTxn) refuse(r response) {
	t.phase = refused
	t.respond(r)
	t.start()
}

func (t *serverTxn) start() {
	now := time.Now()
	t.wait, t.giveUp = t.e.t1, now.Add(64*t.e.t1)
	if t.phase == refused && t.back.flow != nil {
		t.wait = 64 * t.e.t1
	}
	t.e.set(&t.alarm, now.Add(t.wait))
}

func (t *serverTxn) ring(now time.Time) {
	if !now.Before(t.giveUp) {
		t.gone()
		if t.phase == accepted {
			t.lost()
		}
		return
	}
	t.e.tally.Resent++
	_ = t.e.write(t.back, t.last)
	t.wait = min(2*t.wait, 8*t.e.t1)
	next := now.Add(t.wait)
	if next.After(t.giveUp) {
		next = t.giveUp
	}
	t.e.set(&t.alarm, next)
}

// gone ends the transaction; a repeated INVITE is absorbed (timers I and L).
func (t *serverTxn) gone() {
	t.e.unset(&t.alarm)
	if t.e.servers[t.key] != t {
		return
	}
	delete(t.e.servers, t.key)
	if t.back.flow == nil {
		t.e.remember(t.key, nil, way{})
	}
}

// gotAck tells the ACK to a refusal from the ACK to a 2xx, which is the call's.
func (e *Endpoint) gotAck(m *message) {
	if t := e.servers[serverKey(m, "INVITE")]; t != nil && t.phase == refused {
		t.gone()
		return
	}
	if c := e.calls[callKey(m.callID, m.toTag)]; c != nil {
		c.gotAck(m)
	}
}

// gotCancel answers a CANCEL, and its INVITE with 487 if that still rings (s.9.2).
func (e *Endpoint) gotCancel(m *message) {
	t := e.servers[serverKey(m, "INVITE")]
	if t == nil {
		e.answer(m, response{status: 481, reason: "Call/Transaction Does Not Exist"})
		return
	}
	e.answer(m, response{status: 200, reason: "OK", tag: t.tag})
	if t.phase == pending && t.cancelled != nil {
		t.cancelled(m)
	}
}
