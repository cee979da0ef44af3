package responder

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/emiago/sipgo/sip"
)

// phase is how far a call is.
type phase string

const (
	arriving  phase = "arriving"  // INVITE came, held for InviteDelay
	waiting   phase = "waiting"   // in the queue
	offering  phase = "offering"  // an agent's phone rings
	answering phase = "answering" // the agent has answered, the caller does not know yet
	talking   phase = "talking"
	ending    phase = "ending" // one has hung up
	over      phase = "over"
)

// call is a caller's leg and, from the first offer on, an agent's.
type call struct {
	number  uint64
	phase   phase
	caller  *leg
	offered *leg // to the agent of now
	agent   *agent
	audio   *relay
	offer   description // the caller's
	truth   Call
	place   int // of truth in exchange.told, -1 beyond its bound
}

// leg is one party's dialog (RFC 3261 s.12).
type leg struct {
	call          *call
	agent         *agent // of an agent's leg
	callID        string
	local, remote string // From and To of our requests, with tags
	tag           string // ours
	target        string // Request-URI
	addr          netip.AddrPort
	seq           uint32 // of our requests
	branch        string // of our INVITE
	invite        *message
	last          []byte // our last response to its INVITE
	lastSeq       uint32 // of that INVITE
	final, acked  bool   // of our response
	abandoned     bool   // our INVITE is to be cancelled, or is
	provisional   bool   // it may be: a response has come (RFC 3261 s.9.1)
	sdp           uint64 // version
	law           description
}

// invite takes an INVITE: a new call, a repetition, or a re-INVITE.
func (x *exchange) invite(m *message) {
	l := x.legs[m.callID]
	switch {
	case l != nil && m.toTag == "":
		if l.invite != nil && m.cseq == l.lastSeq && l.last != nil {
			x.send(l.last, m.from)
		}
		return
	case l != nil:
		x.reinvite(l, m)
		return
	case m.toTag != "":
		x.reply(m, 481, "Call/Transaction Does Not Exist", "")
		return
	case len(x.legs) >= 2*mostCalls || x.timers.length() > mostHeld/2:
		x.reply(m, 503, "Too many calls", x.name(), "Retry-After: 5")
		return
	}
	offer, err := describe(m.request.Body())
	if err == nil && x.cfg.Transcode && !slices.Contains(offer.laws, pcmu) {
		err = errors.New("with transcode callers need PCMU")
	}
	if err != nil || m.contact == "" {
		x.reply(m, 488, "Not Acceptable Here", x.name())
		return
	}
	l = &leg{callID: m.callID, tag: x.name(), target: m.contact, addr: m.from, invite: m, lastSeq: m.cseq}
	l.local = oneLine(m.request.To().Value()) + ";tag=" + l.tag
	l.remote = oneLine(m.request.From().Value())
	at := x.micros(m.arrived)
	c := &call{number: x.calls, phase: arriving, caller: l, offer: offer, place: -1, truth: Call{Caller: m.caller, Invited: at, Trying: Never,
		Offered: Never, AgentRang: Never, Ringing: Never, AgentAnswered: Never, Answered: Never, Bye: Never, ByeSent: Never, PaceToCaller: Pace{First: Never}, PaceToAgent: Pace{First: Never}}}
	x.calls++
	l.call = c
	x.legs[m.callID] = l
	if len(x.told) < mostTold {
		c.place = len(x.told)
		x.told = append(x.told, c.truth)
	} else {
		x.tally.Untold++
	}
	refusal := x.refusal(c.number)
	x.later(m.arrived.Add(x.cfg.InviteDelay), func() { x.admit(c, refusal) })
}

// refusal draws whether a call is refused; 0 when it is not. The seed and the number of
// the call decide, not what else is going on.
func (x *exchange) refusal(number uint64) int {
	drawn := rand.New(rand.NewPCG(x.cfg.Seed, 1<<62|number)).Float64()
	for _, r := range x.cfg.Refuse {
		if drawn < r.Share {
			return r.Status
		}
		drawn -= r.Share
	}
	return 0
}

func (x *exchange) admit(c *call, refusal int) {
	if c.phase != arriving {
		return
	}
	c.truth.Trying = x.micros(time.Now())
	x.respond(c.caller, 100, "Trying", nil)
	if refusal != 0 {
		x.refuse(c, refusal, "Refused")
		return
	}
	c.phase = waiting
	x.queue = append(x.queue, c)
	x.dispatch()
}

// respond answers the leg's INVITE, and keeps the answer for those who repeat it. A final
// one is repeated until it is acknowledged (RFC 3261 s.13.3.1.4, 17.2.1).
func (x *exchange) respond(l *leg, status int, reason string, body []byte) {
	l.last = responseTo(l.invite, status, reason, l.tag, []string{x.contact()}, body)
	x.send(l.last, l.invite.from)
	if status < 200 {
		return
	}
	l.final, l.acked = true, false
	x.repeatFinal(l, l.lastSeq, t1, time.Now().Add(giveUp))
}

func (x *exchange) repeatFinal(l *leg, seq uint32, wait time.Duration, until time.Time) {
	x.later(time.Now().Add(wait), func() {
		switch {
		case l.acked || l.lastSeq != seq:
		case time.Now().After(until):
			x.hangUp(l.call, nil)
		default:
			x.send(l.last, l.invite.from)
			x.repeatFinal(l, seq, min(2*wait, t2), until)
		}
	})
}

// refuse ends a call that no agent has answered.
func (x *exchange) refuse(c *call, status int, reason string) {
	c.truth.Status, c.truth.Answered = status, x.micros(time.Now())
	x.respond(c.caller, status, reason, nil)
	x.withdraw(c)
	x.end(c)
}

// ack takes an ACK; only that of a final response matters.
func (x *exchange) ack(m *message) {
	if l := x.legs[m.callID]; l != nil && l.invite != nil && m.cseq == l.lastSeq {
		l.acked = true
	}
}

// cancel takes a CANCEL (RFC 3261 s.9.2).
func (x *exchange) cancel(m *message) {
	l := x.legs[m.callID]
	if l == nil || l.invite == nil {
		x.reply(m, 481, "Call/Transaction Does Not Exist", x.name())
		return
	}
	x.reply(m, 200, "OK", l.tag)
	if !l.final && l == l.call.caller {
		x.refuse(l.call, 487, "Request Terminated")
	}
}

// reinvite answers a re-INVITE for itself; the other party is not told. Audio follows an
// address that has changed.
func (x *exchange) reinvite(l *leg, m *message) {
	c := l.call
	d, err := describe(m.request.Body())
	switch {
	case c.phase != talking:
		x.reply(m, 481, "Call/Transaction Does Not Exist", "")
		return
	case l.invite != nil && m.cseq == l.lastSeq:
		x.send(l.last, m.from)
		return
	case err != nil:
		x.reply(m, 488, "Not Acceptable Here", "")
		return
	}
	p := c.audio.caller
	if l != c.caller {
		p = c.audio.agent
	}
	p.speakTo(d.addr)
	l.law.direction = answered(d.direction)
	l.sdp++
	l.invite, l.lastSeq = m, m.cseq
	x.respond(l, 200, "OK", l.law.write(p.addr, l.sdp))
}

// bye takes a BYE.
func (x *exchange) bye(m *message) {
	l := x.legs[m.callID]
	if l == nil {
		x.reply(m, 481, "Call/Transaction Does Not Exist", "")
		return
	}
	// No audio leaves for this party after the 200: what it has heard when the 200 comes is
	// all that is in the account.
	if a := l.call.audio; a != nil {
		if l == l.call.caller {
			a.toCaller.stop()
		} else if l == l.call.offered {
			a.toAgent.stop()
		}
	}
	x.reply(m, 200, "OK", "")
	if l.call.truth.Bye == Never {
		l.call.truth.Bye = x.micros(m.arrived)
	}
	l.acked = true
	switch {
	case l == l.call.caller && (l.call.phase == talking || !l.final):
		x.hangUp(l.call, l)
	case l == l.call.offered && l.call.phase == talking:
		x.hangUp(l.call, l)
	case l == l.call.offered && l.call.phase == answering:
		x.refuse(l.call, 480, "Agent has hung up")
	}
}

// hangUp ends a call that is up: by says who has hung up, nil when we do.
func (x *exchange) hangUp(c *call, by *leg) {
	switch c.phase {
	case talking:
	case ending, over:
		return
	default:
		x.refuse(c, 487, "Request Terminated")
		return
	}
	c.phase = ending
	parties := []*leg{c.caller, c.offered}
	flows := []*flow{c.audio.toCaller, c.audio.toAgent}
	left := 0
	for i, l := range parties {
		if l == by {
			continue
		}
		left++
		from := time.Now()
		if c.truth.Bye != Never {
			from = x.started.Add(time.Duration(c.truth.Bye) * time.Microsecond)
		}
		x.later(from.Add(x.cfg.ByeDelay), func() {
			flows[i].stop()
			c.truth.ByeSent = x.micros(time.Now())
			x.sendBye(l, func(int, *message) {
				if left--; left == 0 {
					x.end(c)
				}
			})
		})
	}
}

func (x *exchange) sendBye(l *leg, done func(int, *message)) {
	l.seq++
	x.request(l, "BYE", l.seq, "z9hG4bK"+x.name(), nil, nil, done)
}

// end closes the books on a call. Its legs answer to repetitions for a while.
func (x *exchange) end(c *call) {
	if c.phase == over {
		return
	}
	c.phase = over
	x.queue = slices.DeleteFunc(x.queue, func(d *call) bool { return c == d })
	if c.audio != nil {
		c.audio.close()
	}
	x.account(c)
	x.sums[0].add(c.truth.ToCaller)
	x.sums[1].add(c.truth.ToAgent)
	x.release(c.agent)
	c.agent = nil
	x.later(time.Now().Add(linger), func() {
		delete(x.legs, c.caller.callID)
		if c.offered != nil {
			delete(x.legs, c.offered.callID)
		}
	})
}

// account writes down what is known of a call.
func (x *exchange) account(c *call) {
	if c.audio != nil {
		c.truth.ToCaller, c.truth.ToAgent = c.audio.toCaller.truth(), c.audio.toAgent.truth()
		c.truth.PaceToCaller, c.truth.PaceToAgent = c.audio.toCaller.told(x), c.audio.toAgent.told(x)
	}
	if c.place >= 0 {
		x.told[c.place] = c.truth
	}
}

// userAddress writes a SIP address for From of a call to an agent.
func (x *exchange) userAddress(user, tag string) string {
	u := sip.Uri{Scheme: "sip", User: user, Host: x.sip.addr.Addr().String()}
	return fmt.Sprintf("<%s>;tag=%s", u.String(), tag)
}
