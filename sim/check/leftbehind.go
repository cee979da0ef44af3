package check

import "github.com/dialtone-cc/dialtone/server/core"

// LeftBehind: no phone is left in a dialog that the server has forgotten. Where no message
// is lost, no phone ever has to hang up because it hears nothing (livekit/sip#316). What
// a crash cut off before it could be written down is excused.
type LeftBehind struct {
	named
	calm
	slack    core.Millis
	lossless bool
	fresh    map[string]core.Time // Call-ID -> since when the dialog is up
}

// NewLeftBehind returns the checker.
func NewLeftBehind(s *Setup) *LeftBehind {
	return &LeftBehind{named: "left-behind", slack: 2000 + s.Slack, lossless: s.Lossless, fresh: map[string]core.Time{}}
}

// See waits for a phone that gave up.
func (c *LeftBehind) See(at core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Talking:
		if _, known := c.fresh[f.CallID]; f.Up && !known {
			c.fresh[f.CallID] = at
		}
	case Crashed:
		for id, since := range c.fresh { // each by itself: the order of the visit does not matter
			if since != 0 && !c.late(at, since, c.slack) {
				c.fresh[id] = 0
			}
		}
	case GaveUp:
		if since, known := c.fresh[f.CallID]; c.lossless && (!known || since != 0) {
			return broken("%s heard nothing for minutes in a dialog (Call-ID %s) that nobody ended", f.Far, f.CallID)
		}
	}
	c.calm.see(at, fact)
	return nil
}
