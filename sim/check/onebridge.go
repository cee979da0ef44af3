package check

import "github.com/dialtone-cc/dialtone/server/core"

// OneBridge: a voice reaches exactly the party it belongs to: one caller hears one agent
// and that agent hears that caller. Nobody hears a stranger, another tenant least of all.
type OneBridge struct {
	named
	caller map[string]string // Call-ID -> the user part that names the interaction
	heard  map[string]hearing
}

type hearing struct {
	far   Far
	voice string
}

// NewOneBridge returns the checker.
func NewOneBridge(*Setup) *OneBridge {
	return &OneBridge{named: "one-bridge", caller: map[string]string{}, heard: map[string]hearing{}}
}

// See follows who hears whom.
func (c *OneBridge) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Talking:
		c.caller[f.CallID] = f.Caller
		if !f.Up {
			delete(c.heard, f.CallID)
		}
	case Hears:
		return c.hears(f)
	}
	return nil
}

func (c *OneBridge) hears(f Hears) error {
	if f.Voice == "" {
		delete(c.heard, f.CallID)
		return nil
	}
	if f.Speaker.Tenant != f.Far.Tenant {
		return broken("%s of tenant %s hears %s of tenant %s", f.Far, f.Far.Tenant, f.Speaker, f.Speaker.Tenant)
	}
	if (f.Speaker.Agent == "") == (f.Far.Agent == "") {
		return broken("%s hears %s: two callers, or two agents", f.Far, f.Speaker)
	}
	if a, b := c.caller[f.CallID], c.caller[f.Voice]; a != b {
		return broken("%s, who is in the call of %s, hears %s, who is in the call of %s", f.Far, a, f.Speaker, b)
	}
	c.heard[f.CallID] = hearing{f.Far, f.Voice}
	listeners := 0
	for _, h := range c.heard { // a count: the order of the visit does not matter
		if h.voice == f.Voice {
			listeners++
		}
	}
	if listeners > 1 {
		return broken("the voice of %s is heard in %d dialogs", f.Speaker, listeners)
	}
	return nil
}
