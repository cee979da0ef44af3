package call

import (
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// Speaks reports whether a request comes from the peer of that leg's dialog (s.12.2.2). As
// long as our INVITE is open several peers may speak, each with a tag of its own.
func (c *Call) Speaks(id core.LegID, req *core.Request) bool {
	l := c.leg(id)
	if l == nil || l.Dialog.CallID != req.CallID {
		return false
	}
	tag := l.Dialog.Remote.Tag()
	return tag == req.From.Tag() || tag == "" || l.State == leg.Cancelling || l.State == leg.Proceeding
}

// Request takes a request inside one of the call's dialogs.
func (c *Call) Request(env *Env, id core.LegID, ev core.RequestReceived) {
	l := c.leg(id)
	if l == nil {
		return
	}
	switch ev.Request.Method {
	case core.ACK:
		c.react(env, l, l.Acknowledge(&env.Env, ev.Request))
	case core.CANCEL:
		c.react(env, l, l.Cancel(&env.Env, ev.Txn, ev.Request, ev.From))
	default:
		c.react(env, l, l.Request(&env.Env, ev.Txn, ev.Request, ev.From))
	}
	c.settle(env)
}

// Response takes a response to a request of one of the call's legs.
func (c *Call) Response(env *Env, id core.LegID, ev core.ResponseReceived) {
	if l := c.leg(id); l != nil {
		c.react(env, l, l.Response(&env.Env, ev.Txn, ev.Response, ev.From))
		c.settle(env)
	}
}

// Failed takes the end of a transaction without a final response.
func (c *Call) Failed(env *Env, id core.LegID, ev core.TransactionFailed) {
	if l := c.leg(id); l != nil {
		c.react(env, l, l.Failed(&env.Env, ev.Txn, ev.Cause))
		c.settle(env)
	}
}

// HangUp ends the call on somebody's order.
func (c *Call) HangUp(env *Env, reason core.EndReason) {
	if c.Phase != Ending && c.Phase != Ended {
		c.end(env, c.result(core.Failed), reason, core.System, 0)
		c.settle(env)
	}
}

// held writes a hold or its end into the timeline and the desk.
func (c *Call) held(env *Env, l *leg.Leg) {
	if c.Phase != Bridged {
		return
	}
	defer c.deskHeld(env)
	if l.HoldNoted == l.Holds() {
		return
	}
	l.HoldNoted = l.Holds()
	what := core.Resumed
	if l.Holds() {
		what = core.Held
	}
	c.note(env, core.Moment{What: what, Party: l.Party, Agent: c.Agent.Agent})
}
