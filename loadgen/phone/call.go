package phone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// The phases of a call:
//
//	made here:  dialling --2xx--> up --HangUp--> ending --answer--> over
//	               |                  \--BYE--------------------->/
//	               +--CANCEL, refusal, nobody------------------->/
//	taken here: ringing --Answer--> answering --ACK--> up ...
//	               +--CANCEL, Reject-------------------------> over
type callPhase string

const (
	dialling  callPhase = "dialling"
	ringing   callPhase = "ringing"
	answering callPhase = "answering"
	up        callPhase = "up"
	ending    callPhase = "ending"
	over      callPhase = "over"
)

// Cause is why a call ended.
type Cause string

const (
	ByRemote  Cause = "remote"    // the other side hung up
	ByLocal   Cause = "local"     // HangUp
	Cancelled Cause = "cancelled" // the caller gave up before an answer was confirmed
	Rejected  Cause = "rejected"  // Reject, or HangUp while it rang
	Declined  Cause = "refused"   // a final response of 300 or more: see Status
	Closed    Cause = "closed"    // the phone was closed
	Failed    Cause = "failed"    // no answer, no connection, a broken message: see Err
)

// Call is one call of a phone, made or taken.
type Call struct {
	Media *stream.Stream // its audio; closed some time after Done, and can then still be asked what was heard

	phone    *Phone
	e        *Endpoint
	key      string
	outgoing bool
	caller   Remote

	rings, answered, acked, done chan struct{}

	// Under the endpoint's lock.
	dialog
	phase    callPhase
	times    Times
	cause    Cause
	err      error
	status   int
	reason   string
	invite   *asking    // that dials
	ringer   *serverTxn // that rings here
	accept   *serverTxn // whose 2xx waits for its ACK
	reinvite *asking    // of ours, without an answer
	referral chan int   // statuses from NOTIFY
	gaveUp   bool       // CANCEL is wanted
	cancel   *clientTxn
	hangUp   bool // as soon as the ACK has come

	ack    []byte // to the last 2xx, for those who repeat it
	ackSeq uint32
	ackTo  way

	offer  description // of the INVITE that rings
	events uint8
	sdpID  uint32
	sdpSeq uint32
	wants  direction // sendonly: we hold

	want, applied sound // of the stream
	atWork        bool  // somebody sees to it
}

// Times are instants of a call by this machine's clock, zero where they did not come. What
// is received is stamped by the kernel where it can be, what is sent just before the write.
type Times struct {
	Invited     time.Time // INVITE sent (a call made) or received (a call taken)
	Provisional time.Time // first 1xx received
	Ringing     time.Time // first 180 received, or sent
	Early       time.Time // first 1xx with SDP received
	Answered    time.Time // 2xx received, or first sent
	Acked       time.Time // its ACK sent, or received
	Cancelled   time.Time // CANCEL sent, or received
	ByeSent     time.Time
	ByeReceived time.Time
	ByeAnswered time.Time // final response to our BYE received
	Ended       time.Time
}

// Remote is who calls, as the INVITE says it.
type Remote struct {
	From     string // user part of From
	Asserted string // of P-Asserted-Identity (RFC 3325), "" where absent
	PartyID  string // of Remote-Party-ID, "" where absent
}

// Number is the best of them: asserted, party id, From.
func (r Remote) Number() string {
	switch {
	case r.Asserted != "":
		return r.Asserted
	case r.PartyID != "":
		return r.PartyID
	}
	return r.From
}

func (p *Phone) newCall(phase callPhase) *Call {
	return &Call{phone: p, e: p.e, phase: phase, wants: sendrecv, events: defaultEvents, sdpID: rand.Uint32() >> 1,
		rings: make(chan struct{}), answered: make(chan struct{}), acked: make(chan struct{}), done: make(chan struct{})}
}

// keep enters the call where requests find it; an error at the bound.
func (c *Call) keep() error {
	switch {
	case c.e.closed || c.phone.closed:
		return errClosed
	case len(c.e.calls) >= c.e.cfg.MaxCalls:
		return fmt.Errorf("%d calls at a time, more are not allowed here", c.e.cfg.MaxCalls)
	}
	c.key = callKey(c.callID, c.localTag)
	c.e.calls[c.key] = c
	c.phone.calls[c] = struct{}{}
	return nil
}

// finish ends the call. The lock is held.
func (c *Call) finish(cause Cause, at time.Time) {
	if c.phase == over {
		return
	}
	c.phase, c.cause, c.times.Ended = over, cause, at
	if c.e.calls[c.key] == c {
		delete(c.e.calls, c.key)
	}
	delete(c.phone.calls, c)
	if c.accept != nil {
		c.accept.gone()
	}
	c.want.ended = true
	c.wish()
	close(c.done)
}

// fail ends a call that can't go on.
func (c *Call) fail(err error) {
	if c.phase != over {
		c.err = err
		c.finish(Failed, time.Now())
	}
}

// ID is the Call-ID.
func (c *Call) ID() string { return c.callID }

// Remote says who calls (a call taken).
func (c *Call) Remote() Remote { return c.caller }

// Times returns what has happened so far.
func (c *Call) Times() Times {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	return c.times
}

// WhenRinging is closed by the first 180 (received or sent), WhenAnswered by the first 2xx,
// Done by the end. A call that ends without ringing or answer closes Done only.
func (c *Call) WhenRinging() <-chan struct{}  { return c.rings }
func (c *Call) WhenAnswered() <-chan struct{} { return c.answered }
func (c *Call) Done() <-chan struct{}         { return c.done }

// Status is the final status to the INVITE, 0 before; Reason its phrase.
func (c *Call) Status() int {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	return c.status
}

func (c *Call) Reason() string {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	return c.reason
}

// Cause waits for the end of the call and says why it came. Err says more of a call that
// Failed, else it is nil.
func (c *Call) Cause() Cause { <-c.done; return c.cause }
func (c *Call) Err() error   { <-c.done; return c.err }

// HangUp ends the call, whatever it is doing, and returns when it is over: BYE when it is
// up, CANCEL while it is being dialled, 603 while it rings here. A call that is over is
// not an error. When the context ends first, the call goes on ending by itself.
func (c *Call) HangUp(ctx context.Context) error {
	c.e.mu.Lock()
	c.leave()
	c.e.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("hang up: %w", ctx.Err())
	}
}

func (c *Call) leave() {
	switch c.phase {
	case dialling:
		c.giveUp()
	case ringing:
		c.reject(603, "Decline")
	case answering: // s.15: no BYE before the ACK
		c.hangUp = true
	case up:
		c.bye(ByLocal)
	}
}

// bye sends BYE; the call is over with its answer.
func (c *Call) bye(cause Cause) {
	c.phase = ending
	c.times.ByeSent = time.Now()
	a := c.inDialog("BYE")
	a.done = func(m *message, err error) {
		at := time.Now()
		if m != nil {
			at = m.at
			c.times.ByeAnswered = at
		}
		switch {
		case c.phase == over:
			return
		case err != nil:
			c.err = fmt.Errorf("BYE: %w", err)
		case m.status >= 300 && c.times.ByeReceived.IsZero(): // 481 is right when both hang up at once
			c.err = fmt.Errorf("BYE: %w", &Refused{m.status, m.reason})
		}
		c.finish(cause, at)
	}
	c.phone.ask(a)
}

// inDialog prepares a request inside the dialog.
func (c *Call) inDialog(method string) *asking {
	return &asking{r: c.dialog.request(method), proofs: &c.phone.callProofs, next: c.nextSeq, addr: func() way { return c.e.wayTo(c.next()) }}
}

// gotRequest takes a request inside the dialog.
func (c *Call) gotRequest(m *message) {
	if m.cseq < c.heardSeq && c.heardSeq > 0 { // s.12.2.2
		c.e.answer(m, response{status: 500, reason: "Out of Order"})
		return
	}
	c.heardSeq = m.cseq
	switch m.method {
	case "BYE":
		c.gotBye(m)
	case "INVITE":
		c.reinvited(m)
	case "NOTIFY":
		c.notified(m)
	case "OPTIONS", "INFO": // whether the call is still there (s.12.2.2)
		c.e.answer(m, response{status: 200, reason: "OK", contact: c.phone.contact, extra: []field{{"Allow", methods}}})
	default:
		c.e.answer(m, response{status: 405, reason: "Method Not Allowed", extra: []field{{"Allow", methods}}})
	}
}

func (c *Call) gotBye(m *message) {
	c.e.answer(m, response{status: 200, reason: "OK"})
	c.times.ByeReceived = m.at
	switch c.phase {
	case ringing: // s.15.1.2: a BYE in an early dialog
		c.status, c.reason = 487, "Request Terminated"
		c.ringer.refuse(response{status: c.status, reason: c.reason})
		c.finish(ByRemote, m.at)
	case ending: // both at once; the answer to ours ends it
	default:
		c.finish(ByRemote, m.at)
	}
}

// acknowledgement sends the ACK to a 2xx (s.13.2.2.4) and keeps it.
func (c *Call) acknowledgement(m *message, credentials []field) {
	r := c.dialog.request("ACK")
	r.seq, r.extra = m.cseq, credentials
	c.ack, c.ackSeq, c.ackTo = r.wire(c.e, newBranch()), m.cseq, c.e.wayTo(c.next())
	_ = c.e.write(c.ackTo, c.ack)
}

// acknowledgeAgain answers a repeated 2xx.
func (c *Call) acknowledgeAgain(m *message) {
	if len(c.ack) > 0 && c.ackSeq == m.cseq {
		c.e.tally.Resent++
		_ = c.e.write(c.ackTo, c.ack)
	}
}

// dismiss ends what a 2xx has set up that belongs to no call here (s.13.2.2.4).
func (e *Endpoint) dismiss(m *message) {
	d := dialog{callID: m.callID, local: m.from, localTag: m.fromTag, seq: m.cseq}
	d.asCaller(m)
	if d.target == "" {
		return
	}
	to := e.wayTo(d.next())
	ack := d.request("ACK")
	ack.seq = m.cseq
	_ = e.write(to, ack.wire(e, newBranch()))
	bye := d.request("BYE")
	bye.seq = d.nextSeq()
	e.send(bye, newBranch(), to, func(*message) {}, func(error) {})
}

var errNotUp = errors.New("the call is not up")
