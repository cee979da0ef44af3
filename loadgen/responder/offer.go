package responder

import (
	"slices"
	"time"
)

// dispatch offers waiting calls to free agents, the longest wait to the longest idle.
func (x *exchange) dispatch() {
	for len(x.queue) > 0 {
		a := x.nextFree()
		if a == nil {
			return
		}
		c := x.queue[0]
		x.queue = x.queue[1:]
		x.offerTo(c, a)
	}
}

// offerTo rings an agent's phone.
func (x *exchange) offerTo(c *call, a *agent) {
	if c.audio == nil {
		r, err := x.openRelay(c.number)
		if err != nil { // no ports left
			x.release(a)
			x.refuse(c, 503, "No ports")
			return
		}
		c.audio = r
		c.audio.caller.speakTo(c.offer.addr)
	}
	l := &leg{call: c, agent: a, callID: x.name() + "@responder", tag: x.name(), target: a.target, addr: a.addr, seq: 1, branch: "z9hG4bK" + x.name()}
	l.local, l.remote = x.userAddress(c.truth.Caller, l.tag), "<"+a.target+">"
	l.law = description{laws: c.offer.laws, events: c.offer.events, direction: "sendrecv"}
	if x.cfg.Transcode {
		l.law.laws = []int{pcma}
	}
	c.phase, c.agent, c.offered = offering, a, l
	x.legs[l.callID] = l
	c.truth.Offers++
	if c.truth.Offered == Never {
		c.truth.Offered = x.micros(time.Now())
	}
	x.request(l, "INVITE", 1, l.branch, l.law.write(c.audio.agent.addr, 1),
		func(m *message) { x.rings(l, m) }, func(status int, m *message) { x.decided(l, status, m) })
	x.later(time.Now().Add(ringMax), func() {
		if c.offered == l && c.phase == offering {
			x.withdraw(c)
			c.phase = waiting
			x.queue = slices.Insert(x.queue, 0, c)
			x.dispatch()
		}
	})
}

// rings takes a provisional response of an agent's phone.
func (x *exchange) rings(l *leg, m *message) {
	c := l.call
	l.provisional = true
	if l.abandoned {
		x.sendCancel(l)
		return
	}
	if m.response.StatusCode == 100 || c.offered != l || c.truth.Agent == c.agent.user {
		return
	}
	c.truth.Agent, c.truth.AgentRang = c.agent.user, x.micros(m.arrived)
	x.later(m.arrived.Add(x.cfg.RingDelay), func() {
		if !c.caller.final && c.truth.Ringing == Never {
			c.truth.Ringing = x.micros(time.Now())
			x.respond(c.caller, 180, "Ringing", nil)
		}
	})
}

// decided takes the final response of an agent's phone; m is nil when none has come.
func (x *exchange) decided(l *leg, status int, m *message) {
	c := l.call
	var d description
	if m != nil {
		if status < 300 {
			l.remote = oneLine(m.response.To().Value())
			if m.contact != "" {
				l.target = m.contact
			}
		}
		x.acknowledge(l, m)
	}
	if status < 300 {
		var err error
		if d, err = describe(m.response.Body()); err == nil && !l.abandoned && c.offered == l && c.phase == offering {
			x.picksUp(c, l, d, m)
			return
		}
		// It has crossed our CANCEL, or speaks nothing that we do.
		x.sendBye(l, func(int, *message) {})
	}
	x.later(time.Now().Add(linger), func() { delete(x.legs, l.callID) })
	if l.abandoned || c.offered != l || c.phase != offering {
		x.release(l.agent)
		return
	}
	// That agent rests for a second: without, it and we would do nothing else.
	x.later(time.Now().Add(time.Second), func() { x.release(l.agent) })
	c.agent, c.offered, c.phase = nil, nil, waiting
	x.queue = slices.Insert(x.queue, 0, c)
	x.dispatch()
}

// picksUp connects the two, when AnswerDelay is over.
func (x *exchange) picksUp(c *call, l *leg, d description, m *message) {
	c.phase = answering
	c.truth.Agent, c.truth.AgentAnswered = c.agent.user, x.micros(m.arrived)
	c.audio.agent.speakTo(d.addr)
	l.final = true
	x.later(m.arrived.Add(x.cfg.AnswerDelay), func() {
		if c.phase != answering {
			return
		}
		c.phase = talking
		c.caller.law = description{laws: d.laws[:1], events: c.offer.events, direction: answered(c.offer.direction)}
		if x.cfg.Transcode {
			c.caller.law.laws = []int{pcmu}
		}
		c.caller.sdp++
		body := c.caller.law.write(c.audio.caller.addr, c.caller.sdp)
		c.audio.toCaller.start()
		c.audio.toAgent.start()
		c.truth.Status, c.truth.Answered = 200, x.micros(time.Now())
		x.respond(c.caller, 200, "OK", body)
	})
}

// withdraw takes the offer back from an agent's phone; the agent is free when it has
// answered that.
func (x *exchange) withdraw(c *call) {
	l := c.offered
	if l == nil || l.abandoned {
		return
	}
	l.abandoned = true
	c.agent, c.offered = nil, nil
	switch {
	case l.final: // it has picked up
		x.sendBye(l, func(int, *message) {
			x.release(l.agent)
			x.later(time.Now().Add(linger), func() { delete(x.legs, l.callID) })
		})
	case l.provisional:
		x.sendCancel(l)
	}
}

func (x *exchange) sendCancel(l *leg) {
	if l.seq > 1 { // sent
		return
	}
	l.seq++
	x.request(l, "CANCEL", 1, l.branch, nil, nil, func(int, *message) {})
}
