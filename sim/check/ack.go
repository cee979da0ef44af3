package check

import "github.com/dialtone-cc/dialtone/server/core"

// Ack: every 2xx to an INVITE of the node, repeated ones included, is answered by an ACK
// (RFC 3261 s.13.2.2.4).
type Ack struct {
	named
	calm
	slack core.Millis
	due   []ackDue
	over  map[string]bool // Call-ID: a BYE was sent or read; who leaves need not be thanked
	lost  map[core.TxnID]bool
}

type ackDue struct {
	dialog side
	cseq   uint32
	since  core.Time
	far    Far
}

// NewAck returns the checker.
func NewAck(s *Setup) *Ack {
	return &Ack{named: "ack", slack: 1000 + s.Slack, over: map[string]bool{}, lost: map[core.TxnID]bool{}}
}

// See keeps a list of answers that wait for their ACK.
func (c *Ack) See(at core.Time, fact Fact) error {
	c.calm.see(at, fact)
	switch f := fact.(type) {
	case Crashed:
		c.due = c.due[:0] // the phone repeats its 200
	case TxnFailed:
		c.lost[f.Txn] = true // a phone that could not be reached and answers all the same
	case Received:
		if f.Request != nil && f.Request.Method == core.BYE {
			c.ended(f.Request.CallID)
		}
		if r := f.Response; r != nil && r.Method == core.INVITE && r.Status/100 == 2 && f.Known && !c.over[r.CallID] && !c.lost[f.Txn] {
			c.due = append(c.due, ackDue{side{r.CallID, r.To.Tag()}, r.CSeq, at, f.Far})
		}
	case Sent:
		if f.Request != nil && f.Request.Method == core.BYE {
			c.ended(f.Request.CallID)
		}
		if r := f.Request; r != nil && r.Method == core.ACK {
			kept := c.due[:0]
			done := false
			for _, d := range c.due {
				// One ACK answers one 2xx: a repeated 2xx wants its own.
				if !done && d.dialog == (side{r.CallID, r.To.Tag()}) && d.cseq == r.CSeq {
					done = true
					continue
				}
				kept = append(kept, d)
			}
			c.due = kept
		}
	}
	for _, d := range c.due {
		if c.late(at, d.since, c.slack) {
			return broken("the 2xx of %s (Call-ID %s, CSeq %d) of %s got no ACK", d.far, d.dialog.callID, d.cseq, d.since)
		}
	}
	return nil
}

func (c *Ack) ended(callID string) {
	c.over[callID] = true
	kept := c.due[:0]
	for _, d := range c.due {
		if d.dialog.callID != callID {
			kept = append(kept, d)
		}
	}
	c.due = kept
}
