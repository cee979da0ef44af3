package check

import "github.com/dialtone-cc/dialtone/server/core"

// Outcome: a caller's INVITE has one outcome, also when CANCEL and 200 cross (RFC 3261
// s.9.2): the caller is told 200 or a refusal, never both.
type Outcome struct {
	named
	crashes int
	told    map[string]told
}

type told struct {
	status  int
	crashes int // how many crashes there were before
}

// NewOutcome returns the checker.
func NewOutcome(*Setup) *Outcome { return &Outcome{named: "one-outcome", told: map[string]told{}} }

// See remembers the first final response of each call.
func (c *Outcome) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Crashed:
		c.crashes++
	case Sent:
		r := f.Response
		if r == nil || f.Far.Agent != "" || r.Method != core.INVITE || r.Status < 200 || r.CSeq != 1 {
			return nil
		}
		before, known := c.told[r.CallID]
		if !known {
			c.told[r.CallID] = told{r.Status, c.crashes}
			return nil
		}
		// A refusal needs no record, so a retransmission that reaches the next process
		// is a new call to it; a 200 does.
		forgotten := before.status >= 300 && before.crashes != c.crashes
		if before.status/100 != r.Status/100 && !forgotten {
			return broken("%s (Call-ID %s) was told %d and then %d", f.Far, r.CallID, before.status, r.Status)
		}
	}
	return nil
}
