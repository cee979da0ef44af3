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
	setup  *Setup
	talked map[string]core.Time // Call-ID of an agent's dialog -> when its 200 was read
	until  map[party]core.Time
}

// heldBack is how long the BYE of the node may wait for its commit, or the agent's cross
// that of the caller, while the wrap-up already counts.
const heldBack = core.Time(700 * time.Millisecond)

// NewWrapUp returns the checker.
func NewWrapUp(s *Setup) *WrapUp {
	return &WrapUp{named: "wrap-up", setup: s, talked: map[string]core.Time{}, until: map[party]core.Time{}}
}

// See follows the ends of conversations.
func (c *WrapUp) See(at core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Hears:
		if f.Far.Agent != "" && f.Voice != "" { // a bridge, not only an answer
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
		if until := c.until[f.Far.party()]; fresh(r) && at < until {
			return broken("%s is offered %s in the wrap-up time, which lasts until %s", f.Far, r.From.URI.User, until)
		}
	}
	return nil
}

func (c *WrapUp) ended(at core.Time, far Far, callID string) {
	if _, spoke := c.talked[callID]; !spoke || far.Agent == "" {
		return
	}
	delete(c.talked, callID)
	// The configured time counts from the end; its queue is one of the agent's.
	least := c.setup.shortest(far.Tenant, far.Agent, wrapUp)
	c.until[far.party()] = at.Add(least)
}
