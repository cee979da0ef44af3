package check

import "github.com/dialtone-cc/dialtone/server/core"

// OneFinal: a transaction of a peer gets at most one final response (a 2xx to INVITE may
// be repeated) and nothing provisional after it (RFC 3261 s.17.2).
type OneFinal struct {
	named
	crashes int
	final   map[core.TxnID]told
}

// NewOneFinal returns the checker.
func NewOneFinal(*Setup) *OneFinal {
	return &OneFinal{named: "one-final", final: map[core.TxnID]told{}}
}

// See follows responses.
func (c *OneFinal) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Crashed:
		c.crashes++
	case Sent:
		r := f.Response
		if r == nil {
			return nil
		}
		before, answered := c.final[f.Txn]
		// A restart forgets what it need not know: a refusal, and re-INVITEs.
		forgotten := before.crashes != c.crashes && (before.status/100 != 2 || r.Method != core.INVITE || r.CSeq != 1 || r.Status == 481)
		if answered && !forgotten {
			repeat := before.status == r.Status && r.Method == core.INVITE && r.Status/100 == 2
			if !repeat {
				return broken("%s (Call-ID %s, CSeq %d) of %s is answered %d after %d", r.Method, r.CallID, r.CSeq, f.Far, r.Status, before.status)
			}
		}
		if r.Status >= 200 {
			c.final[f.Txn] = told{r.Status, c.crashes}
		}
	}
	return nil
}
