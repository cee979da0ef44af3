package check

import "github.com/dialtone-cc/dialtone/server/core"

// Commit: what a restart would need is in the store before the message that promises it
// leaves: a 200 to an INVITE or a REGISTER, an INVITE to an agent.
type Commit struct{ named }

// NewCommit returns the checker.
func NewCommit(*Setup) *Commit { return &Commit{"output-commit"} }

// See looks at each message that promises something.
func (c *Commit) See(_ core.Time, fact Fact) error {
	f, ok := fact.(Sent)
	if !ok || f.Covered {
		return nil
	}
	if r := f.Response; r != nil && r.Status/100 == 2 && (r.Method == core.INVITE || r.Method == core.REGISTER) {
		return broken("%d to %s (Call-ID %s, CSeq %d) left for %s before a committed record holds it",
			r.Status, r.Method, r.CallID, r.CSeq, f.Far)
	}
	if r := f.Request; r != nil && r.Method == core.INVITE {
		return broken("INVITE (Call-ID %s, CSeq %d) left for %s before a committed record holds it", r.CallID, r.CSeq, f.Far)
	}
	return nil
}
