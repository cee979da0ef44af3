package phone

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// gotInvite takes an INVITE that begins a call.
func (e *Endpoint) gotInvite(m *message) {
	p := e.phoneOf(m)
	switch {
	case p == nil:
		e.answer(m, response{status: 404, reason: "Not Found"})
		return
	case m.get("Require") != "": // s.8.2.2.3: no extension is known here
		e.answer(m, response{status: 420, reason: "Bad Extension", extra: []field{{"Unsupported", m.get("Require")}}})
		return
	}
	c := p.newCall(ringing)
	if len(m.body) > 0 {
		d, err := readSDP(m.body)
		if err != nil || len(d.common(p.cfg.Codecs)) == 0 {
			e.answer(m, response{status: 488, reason: "Not Acceptable Here"})
			return
		}
		c.offer, c.events = d, d.events
	}
	t := e.serve(m)
	if t == nil {
		return
	}
	c.ringer = t
	c.caller = Remote{From: userOf(m.from), Asserted: userOf(firstOf(m.get("P-Asserted-Identity"))), PartyID: userOf(firstOf(m.get("Remote-Party-ID")))}
	c.times.Invited = m.at
	c.asCallee(m, t.tag)
	if c.keep() != nil {
		t.refuse(response{status: 503, reason: "Service Unavailable", extra: []field{{"Retry-After", "5"}}})
		return
	}
	if p.cfg.Quiet {
		t.respond(response{status: 100, reason: "Trying"})
	} else {
		c.ring()
	}
	t.cancelled = func(m *message) {
		c.times.Cancelled = m.at
		c.status, c.reason = 487, "Request Terminated"
		t.refuse(response{status: c.status, reason: c.reason})
		c.finish(Cancelled, m.at)
	}
	c.wish()
}

// opened: a call that rings has its port, or none.
func (c *Call) opened(err error) {
	switch {
	case c.phase != ringing: // cancelled by now
		return
	case err != nil:
		c.err = err
		c.reject(500, "Server Internal Error")
		return
	}
	select {
	case c.phone.incoming <- c:
	default:
		c.reject(486, "Busy Here")
	}
}

func firstOf(list string) string {
	if i := scan(list, ','); i >= 0 {
		return list[:i]
	}
	return list
}

// Ring sends 180, once. A phone with Config.Quiet does it only when told; others by
// themselves.
func (c *Call) Ring() error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.phase != ringing {
		return errors.New("the call does not ring here")
	}
	c.ring()
	return nil
}

func (c *Call) ring() {
	if !c.times.Ringing.IsZero() {
		return
	}
	c.times.Ringing = time.Now()
	c.ringer.respond(response{status: 180, reason: "Ringing", contact: c.phone.contact})
	close(c.rings)
}

// Answer picks up and returns when the ACK has come.
func (c *Call) Answer(ctx context.Context) error {
	c.e.mu.Lock()
	if c.phase != ringing {
		defer c.e.mu.Unlock()
		return fmt.Errorf("answer: the call does not ring here: it is %s", c.phase)
	}
	c.phase = answering
	c.status, c.reason = 200, "OK"
	var body []byte
	if c.offer.addr.IsValid() {
		body = c.describe(c.offer.common(c.phone.cfg.Codecs)[:1], c.wants.answerTo(c.offer.direction))
	} else {
		body = c.describe(c.phone.cfg.Codecs, c.wants) // the ACK has the answer
	}
	c.accept = c.ringer
	c.times.Answered = time.Now()
	c.ringer.accept(response{status: 200, reason: "OK", contact: c.phone.contact, extra: []field{{"Allow", methods}}, body: body}, c.confirmed, c.unconfirmed)
	close(c.answered)
	c.e.mu.Unlock()
	select {
	case <-c.acked:
		return nil
	case <-c.done:
		return fmt.Errorf("the call ended before its answer was confirmed: %s", c.cause)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gotAck takes the ACK to a 2xx of ours.
func (c *Call) gotAck(m *message) {
	if t := c.accept; t != nil && m.cseq == t.invite.cseq {
		c.accept = nil
		t.gone()
		t.confirmed(m)
	}
}

// confirmed: the ACK to the answer has come.
func (c *Call) confirmed(m *message) {
	c.times.Acked = m.at
	c.phase = up
	d, err := c.offer, error(nil)
	if !d.addr.IsValid() {
		d, err = readSDP(m.body)
	}
	switch {
	case c.hangUp:
		c.bye(ByLocal)
	case err != nil:
		c.err = err
		c.bye(Failed)
	default:
		c.follow(d)
	}
	close(c.acked)
}

// unconfirmed: no ACK within 64*T1 (s.13.3.1.4).
func (c *Call) unconfirmed() {
	c.accept = nil
	c.err = errors.New("our answer was not acknowledged")
	c.bye(Failed)
}

// Reject refuses with a status of 300 to 699.
func (c *Call) Reject(status int) error {
	if status < 300 || status > 699 {
		return fmt.Errorf("reject with %d: must be 300 to 699", status)
	}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.phase != ringing {
		return fmt.Errorf("reject: the call does not ring here: it is %s", c.phase)
	}
	c.reject(status, "Refused")
	return nil
}

func (c *Call) reject(status int, reason string) {
	c.status, c.reason = status, reason
	c.ringer.refuse(response{status: status, reason: reason})
	c.finish(Rejected, time.Now())
}
