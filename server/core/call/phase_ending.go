package call

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// end is the only way out of a call. Who is still there is hung up, the agent is given
// back, the media is closed; the CDR is filed when the media has been measured, and the
// record goes when the last leg is closed: until then a successor must know whom to
// hang up.
func (c *Call) end(env *Env, result core.Result, reason core.EndReason, by core.Party, status int) {
	q850 := cause(reason)
	if status == 0 {
		status = 480
	}
	was := c.Phase
	c.Phase, c.EndedAt = Ending, env.Now
	c.Termination = &core.Termination{Result: result, Reason: reason, HungUpBy: by, Q850: q850}
	env.Desk.Leave(env.Now, c.ID)
	c.Caller.HangUp(&env.Env, status, q850)
	if c.AnsweredAt == 0 && c.Caller.Status >= 300 {
		c.Termination.SIPStatus = c.Caller.Status
	}
	c.report(&c.Caller)
	c.closeMedia(env, c.Caller.ID)
	switch was {
	case Offering:
		agent := c.Offer.Agent
		c.note(env, core.Moment{What: core.OfferFailed, Agent: agent, Detail: "withdrawn"})
		c.retire(env, 487)
		env.Desk.Release(env.Now, agent, acd.Withdrawn, 0)
		env.Agents = append(env.Agents, agent)
	case Bridged:
		agent := c.Agent.Agent
		if env.Plant != "no-bye-other-leg" {
			c.Agent.HangUp(&env.Env, 487, q850)
		}
		c.report(c.Agent)
		c.closeMedia(env, c.Agent.ID)
		wrapUp := seconds(c.queue(env).WrapUpS)
		if env.Plant == "wrapup-skipped" {
			wrapUp = 0
		}
		env.Desk.Release(env.Now, agent, acd.Done, wrapUp)
		env.Agents = append(env.Agents, agent)
	}
	c.Offer, c.OverflowAt = nil, 0
	c.note(env, core.Moment{What: core.Ended, Party: by, Detail: string(reason)})
	env.Touched = true
}

// cause returns the Q.850 cause of an end.
func cause(r core.EndReason) int {
	switch r {
	case core.QueueFull, core.NoMedia, core.StoreAway:
		return 42 // switching equipment congestion
	case core.MaxWait:
		return 19 // no answer from user
	case core.NobodyThere:
		return 20 // subscriber absent
	case core.NoCodec:
		return 88 // incompatible destination
	case core.CallerSilent, core.AgentSilent, core.CallerLost, core.AgentLost, core.NoAck:
		return 27 // destination out of order
	case core.InternalError, core.QueueGone, core.TenantGone:
		return 41 // temporary failure
	}
	return 16 // normal call clearing
}

// report adds a leg to the CDR, or brings its entry up to date.
func (c *Call) report(l *leg.Leg) {
	r := core.LegReport{ID: l.ID, Party: l.Party, Agent: l.Agent, SIPCallID: l.Dialog.CallID,
		Codec: l.Codec.Name, SIPStatus: l.Status}
	if l.Dialog.Peer.Addr.IsValid() {
		r.Peer = l.Dialog.Peer.Addr.String()
	}
	for i := range c.Reports {
		if c.Reports[i].ID == l.ID {
			r.Audio = c.Reports[i].Audio
			c.Reports[i] = r
			return
		}
	}
	c.Reports = append(c.Reports, r)
}

// finish files the CDR of an ending call, and ends it when nothing is left open.
func (c *Call) finish(env *Env) {
	if c.Phase != Ending || len(c.open) > 0 {
		return
	}
	if !c.Filed {
		c.Filed = true
		env.CDR = c.CDR()
		env.Touched = true
	}
	over := c.Caller.State == leg.Gone && len(c.Fading) == 0
	if over && (c.Agent == nil || c.Agent.State == leg.Gone) {
		c.Phase = Ended
		env.Touched = true
	}
}

// CDR returns the call's record as it stands; of a live call EndedAt is zero.
func (c *Call) CDR() *core.CDR {
	r := &core.CDR{ID: c.ID, Tenant: c.Tenant, Node: c.Node, Media: "voice", Caller: c.From, Called: c.To,
		Queue: c.Queue, ArrivedAt: c.ArrivedAt, QueuedAt: c.QueuedAt, AnsweredAt: c.AnsweredAt, EndedAt: c.EndedAt,
		Timeline: slices.Clone(c.Timeline), Legs: slices.Clone(c.Reports)}
	if c.Agent != nil && c.AnsweredAt != 0 {
		r.Agent = c.Agent.Agent
	}
	if c.Termination != nil {
		r.Termination = *c.Termination
	}
	slices.SortFunc(r.Legs, func(a, b core.LegReport) int { return cmpLeg(a.ID, b.ID) })
	return r
}

// cmpLeg orders legs by their number: the texts have a common head.
func cmpLeg(a, b core.LegID) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	if a < b {
		return -1
	}
	return 1
}
