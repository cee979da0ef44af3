package call

import (
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// Recovering reports whether a phone has not yet answered what its call's new anchor told it.
func (c *Call) Recovering() bool {
	open := c.Opening()
	c.EachLeg(func(l *leg.Leg) { open = open || l.Recovering() })
	return open && c.Phase != Ending && c.Phase != Ended
}

// Recover takes a call up from its record after its node died: who talked goes on talking,
// who waited keeps place and wait clock, who was being rung is offered anew.
//
//  1. The node commits the record of a phase, then lets out what follows from it.
//  2. The node dies, at any point after 1.
//  3. The successor reads the record. The phones know at most what follows from it, so
//     everything that follows is done again or taken back.
func (c *Call) Recover(env *Env) {
	defer c.settle(env)
	env.Touched = true
	if c.Phase == Ending || c.Phase == Ended {
		c.EachLeg(func(l *leg.Leg) { l.Recover(&env.Env, env.Now.Sub(c.ArrivedAt)) })
		return
	}
	c.Node, c.Incarnation, c.Mover = env.Node.ID, env.Node.Incarnation, ""
	c.note(env, core.Moment{What: core.Recovered})
	for i := range c.Fading {
		c.Fading[i].Recover(&env.Env, env.Now.Sub(c.ArrivedAt))
	}
	if c.Caller.Recover(&env.Env, env.Now.Sub(c.ArrivedAt)) {
		c.openMedia(env, c.Caller.ID)
	}
	switch c.Phase {
	case Bridged:
		if c.Agent.Recover(&env.Env, env.Now.Sub(c.ArrivedAt)) {
			c.openMedia(env, c.Agent.ID)
		}
		env.Agents = append(env.Agents, c.Agent.Agent)
		env.Desk.Restore(env.Now, acd.Agent{ID: c.Agent.Agent, State: acd.Talking, Since: c.AnsweredAt, Interaction: c.ID})
		c.deskHeld(env)
		return
	case Offering:
		// The offer's reservation died with the desk; the phone is told by the leg.
		c.note(env, core.Moment{What: core.OfferFailed, Agent: c.Offer.Agent, Detail: "withdrawn"})
		if c.Agent != nil {
			c.Agent.Recover(&env.Env, env.Now.Sub(c.ArrivedAt))
			c.report(c.Agent)
			c.Fading = append(c.Fading, *c.Agent)
		}
		c.Offer, c.Agent, c.Phase = nil, nil, Queued
	case Arriving, Announcing:
		c.end(env, c.result(core.Failed), core.InternalError, core.System, 503)
		return
	}
	if c.Audio.File == "" || !c.Audio.Loop && c.Phase == Queued {
		c.play(c.music(env), true)
	}
	if c.Phase == Queued {
		c.requeue(env)
	}
}
