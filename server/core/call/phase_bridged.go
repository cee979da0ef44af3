package call

import (
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// bridge joins the caller and the agent who has answered.
func (c *Call) bridge(env *Env) {
	agent := c.Offer.Agent
	c.Offer, c.Phase, c.OverflowAt = nil, Bridged, 0
	c.AnsweredAt = env.Now
	env.Desk.Leave(env.Now, c.ID)
	_ = env.Desk.Progress(env.Now, agent, acd.Talking)
	env.Agents = append(env.Agents, agent)
	env.Touched = true
	c.note(env, core.Moment{What: core.Answered, Agent: agent})
	c.deskHeld(env)
}

func (c *Call) agentReported(env *Env, r leg.Report) {
	switch r {
	case leg.HungUp:
		c.end(env, core.Completed, core.AgentHangup, core.Callee, 0)
	case leg.Lost, leg.Unacked:
		c.end(env, core.Completed, core.AgentLost, core.System, 0)
	case leg.Silent:
		c.end(env, core.Completed, core.AgentSilent, core.System, 0)
	case leg.Changed:
		c.held(env, c.Agent)
	}
}

// deskHeld tells the desk whether either party holds the other.
func (c *Call) deskHeld(env *Env) {
	state := acd.Talking
	if c.Caller.Holds() || c.Agent.Holds() {
		state = acd.Held
	}
	if a, ok := env.Desk.Agent(c.Agent.Agent); ok && a.State != state {
		_ = env.Desk.Progress(env.Now, c.Agent.Agent, state)
		env.Agents = append(env.Agents, c.Agent.Agent)
	}
}
