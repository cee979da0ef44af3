package check

import "github.com/dialtone-cc/dialtone/server/core"

// Silence: a call one of whose phones was switched off ends within 30 s: no RTP, no answer
// to a keepalive (OpenSIPS/opensips#2530). The end is seen at the other phone, which gets a
// BYE, or in the CDR.
type Silence struct {
	named
	calm
	slack core.Millis
	lost  []lost
	done  map[string]bool // by Call-ID
}

type lost struct {
	far    Far
	callID string
	since  core.Time
}

// NewSilence returns the checker.
func NewSilence(s *Setup) *Silence {
	return &Silence{named: "silence", slack: 30_000 + 2000 + s.Slack, done: map[string]bool{}}
}

// See follows phones that vanish from confirmed dialogs.
func (c *Silence) See(at core.Time, fact Fact) error {
	c.calm.see(at, fact)
	switch f := fact.(type) {
	case Vanished:
		for _, id := range f.CallIDs {
			if !c.done[id] {
				c.lost = append(c.lost, lost{f.Far, id, at})
			}
		}
	case Sent:
		if f.Request != nil && f.Request.Method == core.BYE {
			c.over(f.Request.CallID)
		}
	case Received:
		if f.Request != nil && f.Request.Method == core.BYE {
			c.over(f.Request.CallID)
		}
	case Recorded:
		for _, leg := range f.CDR.Legs {
			c.over(leg.SIPCallID)
		}
	}
	for _, l := range c.lost {
		if c.late(at, l.since, c.slack) {
			return broken("%s was switched off at %s; its dialog (Call-ID %s) still lives", l.far, l.since, l.callID)
		}
	}
	return nil
}

func (c *Silence) over(callID string) {
	c.done[callID] = true
	kept := c.lost[:0]
	for _, l := range c.lost {
		if l.callID != callID {
			kept = append(kept, l)
		}
	}
	c.lost = kept
}
