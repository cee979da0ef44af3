package phone

import (
	"errors"
	"time"
)

// Transactions of ours (RFC 3261 s.17.1, figures 5 and 6, with RFC 6026):
//
//	calling --1xx--> proceeding --final--> (gone)
//	   |  repeats every T1, 2 T1, ...          INVITE: the ACK to 300-699 stays in past,
//	   +--64 T1 without a final--> failed      a 2xx is the call's own affair
//
// Timer K is 0: it only absorbs repeated responses, and those find nothing here anyway.

type txnPhase string

const (
	calling    txnPhase = "calling"
	proceeding txnPhase = "proceeding"
)

var errNoAnswer = errors.New("no answer within 64*T1")

type clientTxn struct {
	e        *Endpoint
	request  *request
	branch   string
	key      string
	to       way
	wire     []byte
	phase    txnPhase
	wait     time.Duration // between repetitions
	repeatAt time.Time     // zero: never
	giveUp   time.Time     // zero: never
	alarm    alarm
	heard    func(m *message) // each response, a final one last
	failed   func(err error)
}

func clientKey(branch, method string) string { return branch + " " + method }

// send opens a transaction. Its callbacks run under the lock; failed may run before send
// returns. The lock is held.
func (e *Endpoint) send(r *request, branch string, to way, heard func(*message), failed func(error)) *clientTxn {
	t := &clientTxn{e: e, request: r, branch: branch, key: clientKey(branch, r.method), to: to, phase: calling, wait: e.t1, heard: heard, failed: failed}
	if len(e.clients) >= maxTransactions {
		failed(errors.New("too many transactions at a time"))
		return t
	}
	t.wire = r.wire(e, branch)
	t.alarm.ring = t.ring
	e.clients[t.key] = t
	now := time.Now()
	t.giveUp = now.Add(64 * e.t1)
	if to.flow == nil {
		t.repeatAt = now.Add(t.wait)
	}
	if err := e.write(to, t.wire); err != nil {
		t.fail(err)
		return t
	}
	t.rearm()
	return t
}

func (t *clientTxn) rearm() {
	next := t.repeatAt
	if next.IsZero() || !t.giveUp.IsZero() && t.giveUp.Before(next) {
		next = t.giveUp
	}
	if next.IsZero() {
		t.e.unset(&t.alarm)
		return
	}
	t.e.set(&t.alarm, next)
}

func (t *clientTxn) ring(now time.Time) {
	if !t.giveUp.IsZero() && !now.Before(t.giveUp) {
		t.fail(errNoAnswer)
		return
	}
	t.wait *= 2
	if t.request.method != "INVITE" {
		t.wait = min(t.wait, 8*t.e.t1) // T2
	}
	t.repeatAt = t.repeatAt.Add(t.wait) // by the schedule, so that lateness does not add up
	t.e.tally.Resent++
	if err := t.e.write(t.to, t.wire); err != nil {
		t.fail(err)
		return
	}
	t.rearm()
}

func (t *clientTxn) gone() {
	t.e.unset(&t.alarm)
	delete(t.e.clients, t.key)
}

// drop forgets the transaction without a word.
func (t *clientTxn) drop() {
	t.gone()
	t.heard, t.failed = func(*message) {}, func(error) {}
}

func (t *clientTxn) fail(err error) {
	if t.e.clients[t.key] != t {
		return
	}
	t.gone()
	t.failed(err)
}

// receive takes a response of this transaction.
func (t *clientTxn) receive(m *message) {
	invite := t.request.method == "INVITE"
	if m.status < 200 {
		if t.phase == calling {
			t.phase = proceeding
			if invite {
				t.repeatAt, t.giveUp = time.Time{}, time.Time{}
			} else if t.to.flow == nil {
				t.wait = 8 * t.e.t1 // s.17.1.2.2: T2 from the next repetition on
			}
			t.rearm()
		}
		t.heard(m)
		return
	}
	t.gone()
	if invite && m.status >= 300 {
		t.acknowledge(m)
	}
	t.heard(m)
}

// acknowledge sends the ACK to a final response other than 2xx (s.17.1.1.3).
func (t *clientTxn) acknowledge(m *message) {
	r := t.request
	ack := request{method: "ACK", uri: r.uri, from: r.from, to: m.to, callID: r.callID, seq: r.seq, routes: r.routes}
	wire := ack.wire(t.e, t.branch)
	_ = t.e.write(t.to, wire)
	if t.to.flow == nil { // timer D
		t.e.remember(t.key, wire, t.to)
	}
}

// expire bounds the wait for a final response after a CANCEL (s.9.1).
func (t *clientTxn) expire() {
	t.giveUp = time.Now().Add(64 * t.e.t1)
	t.rearm()
}

// gotResponse is the way of every response.
func (e *Endpoint) gotResponse(m *message) {
	key := clientKey(m.via.branch, m.method)
	if t := e.clients[key]; t != nil {
		t.receive(m)
		return
	}
	if m.method != "INVITE" || m.status < 200 {
		return // late, repeated, or nobody's
	}
	if m.status >= 300 {
		e.repeat(key)
		return
	}
	c := e.calls[callKey(m.callID, m.fromTag)]
	switch {
	case c != nil && c.remoteTag == m.toTag:
		c.acknowledgeAgain(m)
	case m.via.sentBy == e.sentBy:
		e.dismiss(m)
	}
}
