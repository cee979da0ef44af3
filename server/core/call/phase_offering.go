package call

import (
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
)

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Reserved takes a reservation that the desk made: the agent's phones are rung one after
// the other until one answers, the ring timeout bounds all of them together.
func (c *Call) Reserved(env *Env, agent core.AgentID, contacts registrar.Set) {
	ring := env.Ring
	if ring == 0 {
		ring = seconds(c.queue(env).RingTimeoutS)
	}
	c.Phase = Offering
	if env.Plant == "rings-for-ever" {
		ring = time.Hour
	}
	c.Offer = &Offer{Agent: agent, Contacts: contacts, RingUntil: env.Now.Add(ring)}
	c.note(env, core.Moment{What: core.Offered, Agent: agent, Queue: c.Queue})
	env.Agents = append(env.Agents, agent)
	env.Touched = true
	if len(contacts) == 0 {
		c.withdraw(env, acd.Unreachable, "unreachable")
	} else {
		c.tryNext(env)
	}
	c.settle(env)
}

// tryNext opens media for the next phone of the offer; its INVITE follows.
func (c *Call) tryNext(env *Env) {
	c.Agent = nil
	c.Offer.Leg = c.nextLeg()
	c.openMedia(env, c.Offer.Leg)
}

// invite rings the phone, now that its media has an address.
func (c *Call) invite(env *Env, address netip.AddrPort) {
	b := c.Offer.Contacts[0]
	c.Offer.Contacts = c.Offer.Contacts[1:]
	target, route := b.Reach(env.Node.ID)
	aor := core.URI{Scheme: "sip", User: string(c.Offer.Agent), Host: env.Domain}
	l := leg.NewUAC(&env.Env, leg.Outgoing{
		ID: c.Offer.Leg, Agent: c.Offer.Agent, URI: b.Contact.URI, Target: target, Route: route,
		To: core.Address{URI: aor}, Address: address, Formats: c.formats(),
		From: core.Address{Display: c.Display, URI: core.URI{Scheme: "sip", User: c.From, Host: env.Domain}},
		Fields: []core.Field{
			{Name: "X-Dialtone-Interaction", Value: string(c.ID)},
			{Name: "X-Dialtone-Queue", Value: string(c.Queue)},
		},
	})
	c.Agent = &l
}

// formats lists what the agent's phone may choose from: the caller's codec first, so that
// nothing needs transcoding; the other G.711 law beside it, since that costs a table.
func (c *Call) formats() []sdp.Format {
	first := []sdp.Format{}
	rest := []sdp.Format{}
	for _, f := range append(sdp.G711(), sdp.PassThrough()...) {
		switch {
		case f.Name == c.Caller.Codec.Name:
			f.Payload = c.Caller.Codec.Payload
			first = append(first, f)
		case f.Name == "PCMU" || f.Name == "PCMA":
			if c.common() { // a caller without a codec answers our offer of both laws later, with the ACK
				rest = append(rest, f)
			}
		case f.Name == "TELEPHONE-EVENT":
			rest = append(rest, f)
		}
	}
	return append(first, rest...)
}

// offerReported takes what the ringing phone's leg reports.
func (c *Call) offerReported(env *Env, r leg.Report) {
	switch r {
	case leg.Rang:
		if a, _ := env.Desk.Agent(c.Offer.Agent); a.State == acd.Reserved {
			_ = env.Desk.Progress(env.Now, c.Offer.Agent, acd.Ringing)
			env.Agents = append(env.Agents, c.Offer.Agent)
			c.note(env, core.Moment{What: core.Ringing, Agent: c.Offer.Agent})
		}
	case leg.Accepted:
		c.bridge(env)
	case leg.Refused, leg.HungUp, leg.Lost:
		c.refused(env)
	}
}

// refused goes on to the agent's next phone, or gives the offer up.
func (c *Call) refused(env *Env) {
	status := c.Agent.Status
	if len(c.Offer.Contacts) > 0 && !declined(status) {
		c.part(env, c.Agent)
		c.tryNext(env)
		return
	}
	switch {
	case unfit(status) && !c.common():
		// The caller speaks only what this phone does not. That is nobody's fault but the
		// caller's, and the next agents' phones are not better: they must not pay for it.
		c.withdraw(env, acd.Withdrawn, "no_common_codec")
		c.end(env, core.Failed, core.NoCodec, core.System, 0)
	case status == 486 || status == 600:
		c.withdraw(env, acd.Busy, "busy")
	case declined(status):
		c.withdraw(env, acd.Rejected, "rejected")
	default:
		c.withdraw(env, acd.Unreachable, "unreachable")
	}
}

// unfit says that the phone can do nothing of what was offered (s.21.4.13, s.21.4.26, s.21.6.4).
func unfit(status int) bool { return status == 415 || status == 488 || status == 606 }

// common reports whether the agent's phone was offered what every phone can: G.711.
func (c *Call) common() bool {
	switch c.Caller.Codec.Name {
	case "PCMU", "PCMA", "":
		return true
	}
	return false
}

// declined says that the person refused, so that another phone of the same person is not
// to be rung: RFC 3261 s.21.6, and 480, with which phones say do-not-disturb.
func declined(status int) bool {
	switch status {
	case 403, 480, 486, 600, 603:
		return true
	}
	return false
}

func (c *Call) ringTimeout(env *Env) {
	// The agent is not to blame for an INVITE that the store never let out.
	if c.Agent == nil || c.Agent.TakeBack(&env.Env) {
		c.withdraw(env, acd.Withdrawn, "withdrawn")
		return
	}
	if c.Agent.State == leg.Calling { // not even a provisional response
		c.withdraw(env, acd.Unreachable, "unreachable")
		return
	}
	outcome := acd.NoAnswer
	if env.Plant == "rona-stays-ready" {
		outcome = acd.Withdrawn
	}
	c.withdraw(env, outcome, "no_answer")
}

// withdraw takes the offer back. The call keeps its place and waits on.
func (c *Call) withdraw(env *Env, outcome acd.Outcome, detail string) {
	agent := c.Offer.Agent
	c.note(env, core.Moment{What: core.OfferFailed, Agent: agent, Detail: detail})
	c.retire(env, 487)
	c.Offer, c.Phase = nil, Queued
	if env.Plant != "stuck-reserved" {
		env.Desk.Release(env.Now, agent, outcome, 0)
	}
	env.Agents = append(env.Agents, agent)
	env.Touched = true
}

// retire takes back the agent's leg, in whatever state it is, and its media.
func (c *Call) retire(env *Env, status int) {
	if c.Agent == nil {
		if c.Offer != nil {
			c.closeMedia(env, c.Offer.Leg)
		}
		return
	}
	c.Agent.HangUp(&env.Env, status, 16)
	c.part(env, c.Agent)
}

// part moves the agent's leg to those that only have to end.
func (c *Call) part(env *Env, l *leg.Leg) {
	c.report(l)
	c.closeMedia(env, l.ID)
	c.Fading = append(c.Fading, *l)
	c.Agent = nil
}

// TakeBack withdraws the offer: its agent is no longer to be asked.
func (c *Call) TakeBack(env *Env) {
	if c.Phase == Offering {
		c.withdraw(env, acd.Withdrawn, "withdrawn")
		c.settle(env)
	}
}
