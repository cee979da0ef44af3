package call

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// Standing is what a desk is to know of a call: whether it waits, and who is with it. Each
// node keeps every tenant's desk; of calls that others anchor it learns by their records.
type Standing struct {
	Waits bool
	Entry acd.Entry // while it waits
	Agent core.AgentID
	State acd.State // of the agent: Reserved, Ringing, Talking or Held
}

// Standing reads it off the call's record.
func (c *Call) Standing() Standing {
	s := Standing{Waits: c.Phase == Queued || c.Phase == Offering}
	if s.Waits {
		s.Entry = acd.Entry{ID: c.ID, Queue: c.Queue, Priority: c.Priority, Skills: c.Skills, ArrivedAt: c.ArrivedAt, QueuedAt: c.QueuedAt}
	}
	switch {
	case c.Phase == Offering:
		s.Agent, s.State = c.Offer.Agent, acd.Reserved
		if c.Agent != nil && c.Agent.State == leg.Proceeding {
			s.State = acd.Ringing
		}
	case c.Phase == Bridged:
		s.Agent, s.State = c.Agent.Agent, acd.Talking
		if c.Caller.Holds() || c.Agent.Holds() {
			s.State = acd.Held
		}
	}
	return s
}

// OutcomeOf returns how the last offer to an agent failed.
func (c *Call) OutcomeOf(agent core.AgentID) acd.Outcome {
	for i := len(c.Timeline) - 1; i >= 0; i-- {
		if m := c.Timeline[i]; m.What == core.OfferFailed && m.Agent == agent {
			switch m.Detail {
			case "busy":
				return acd.Busy
			case "rejected":
				return acd.Rejected
			case "unreachable":
				return acd.Unreachable
			case "no_answer":
				return acd.NoAnswer
			}
			break
		}
	}
	return acd.Withdrawn
}

// WrapUp returns how long an agent of the call wraps up, by the rule of its queue.
func (c *Call) WrapUp(env *Env) time.Duration { return seconds(c.queue(env).WrapUpS) }

// LacksPort reports whether an offer has failed for lack of a media port since the record
// was as before; nil: at all.
func (c *Call) LacksPort(before *Call) bool {
	known := 0
	if before != nil {
		known = len(before.Timeline)
	}
	for _, m := range c.Timeline[min(known, len(c.Timeline)):] {
		if m.What == core.OfferFailed && m.Detail == "no_media_port" {
			return true
		}
	}
	return false
}
