package check

import "github.com/dialtone-cc/dialtone/server/core"

// Tags: the node's To tag is the same in every response of a dialog (RFC 3261 s.8.2.6.2,
// s.12.1.1), and a tag that a peer sent comes back unchanged.
type Tags struct {
	named
	crashes int
	invite  map[side]tagged
	asked   map[core.TxnID]string
}

type tagged struct {
	tag     string
	crashes int
	final   bool
}

// NewTags returns the checker.
func NewTags(*Setup) *Tags {
	return &Tags{named: "tags", invite: map[side]tagged{}, asked: map[core.TxnID]string{}}
}

// See follows responses.
func (c *Tags) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Crashed:
		c.crashes++
	case Received:
		if f.Request != nil && f.Txn != "" {
			c.asked[f.Txn] = f.Request.To.Tag()
		}
	case Sent:
		r := f.Response
		if r == nil || r.Status == 100 {
			return nil
		}
		if want := c.asked[f.Txn]; want != "" {
			if r.To.Tag() != want {
				return broken("%d to %s (Call-ID %s) has To tag %q, the request had %q", r.Status, r.Method, r.CallID, r.To.Tag(), want)
			}
			return nil
		}
		if r.To.Tag() == "" {
			return broken("%d to %s (Call-ID %s) has no To tag", r.Status, r.Method, r.CallID)
		}
		if r.Method != core.INVITE {
			return nil
		}
		s := side{r.CallID, r.From.Tag()}
		before, known := c.invite[s]
		if known && before.tag != r.To.Tag() && (before.final || before.crashes == c.crashes) {
			return broken("%d to INVITE (Call-ID %s) has To tag %q, an earlier response had %q", r.Status, r.CallID, r.To.Tag(), before.tag)
		}
		// A provisional response promises nothing that a restart must keep.
		c.invite[s] = tagged{r.To.Tag(), c.crashes, r.Status/100 == 2}
	}
	return nil
}
