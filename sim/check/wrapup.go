package check

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

// WrapUp: after a conversation an agent is left alone for the wrap-up time
// (asterisk/asterisk#1006), through a restart too, unless somebody says ready.
type WrapUp struct {
	named
	calm
	setup  *Setup
	talked map[string]core.Time // Call-ID of an agent's dialog -> when its 200 was read
	until  map[party]rest
}

// heldBack is how long the BYE of the node may wait for its commit, or the agent's cross
// that of the caller, while the wrap-up already counts.
const heldBack = core.Time(700 * time.Millisecond)

// rest is a wrap-up time, with the instant of the bridge that it follows.
type rest struct{ until, bridged core.Time }

// NewWrapUp returns the checker.
func NewWrapUp(s *Setup) *WrapUp {
	return &WrapUp{named: "wrap-up", setup: s, talked: map[string]core.Time{}, until: map[party]rest{}}
}

// See follows the ends of conversations.
func (c *WrapUp) See(at core.Time, fact Fact) error {
	defer c.calm.see(at, fact)
	switch f := fact.(type) {
	case Crashed:
		for id, since := range c.talked { // each by itself: the order of the visit does not matter
			if !c.late(at, since, 2000+c.setup.Slack) {
				delete(c.talked, id) // a bridge that was not written down
			}
		}
		for who, r := range c.until {
			if !c.late(at, r.bridged, 2000+c.setup.Slack) {
				delete(c.until, who)
			}
		}
	case Hears:
		if _, known := c.talked[f.CallID]; f.Far.Agent != "" && f.Voice != "" && !known { // a bridge, not only an answer
			c.talked[f.CallID] = at
		}
	case Asked:
		switch do := f.Do.(type) {
		case command.SetStatus:
			delete(c.until, party{f.Tenant, do.Agent})
		case command.PutAgent:
			delete(c.until, party{f.Tenant, do.Agent.ID})
		case command.DeleteAgent:
			delete(c.until, party{f.Tenant, do.ID})
		}
	case Received:
		if f.Request != nil && f.Request.Method == core.REGISTER {
			delete(c.until, f.Far.party()) // a new binding may make ready
		}
		if f.Request != nil && f.Request.Method == core.BYE {
			c.ended(at-heldBack, f.Far, f.Request.CallID)
		}
	case Sent:
		r := f.Request
		if r == nil || f.Far.Agent == "" {
			return nil
		}
		if r.Method == core.BYE {
			c.ended(at-heldBack, f.Far, r.CallID)
		}
		if until := c.until[f.Far.party()].until; fresh(r) && at < until {
			return broken("%s is offered %s in the wrap-up time, which lasts until %s", f.Far, r.From.URI.User, until)
		}
	}
	return nil
}

func (c *WrapUp) ended(at core.Time, far Far, callID string) {
	bridged, spoke := c.talked[callID]
	if !spoke || far.Agent == "" {
		return
	}
	delete(c.talked, callID)
	// The configured time counts from the end; its queue is one of the agent's.
	least := c.setup.shortest(far.Tenant, far.Agent, wrapUp)
	c.until[far.party()] = rest{at.Add(least), bridged}
}
