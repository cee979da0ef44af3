package check

import "github.com/dialtone-cc/dialtone/server/core"

// Sequence: the CSeq of the node's requests strictly increases in each dialog, through
// restarts too (RFC 3261 s.12.2.1.1, signalwire/freeswitch#1833); ACK and CANCEL carry
// the number of their INVITE.
type Sequence struct {
	named
	crashes int
	last    map[side]uint32
	invites map[side]map[uint32]bool
}

// NewSequence returns the checker.
func NewSequence(*Setup) *Sequence {
	return &Sequence{named: "cseq", last: map[side]uint32{}, invites: map[side]map[uint32]bool{}}
}

// See follows the node's requests.
func (c *Sequence) See(_ core.Time, fact Fact) error {
	if _, crash := fact.(Crashed); crash {
		c.crashes++
	}
	f, ok := fact.(Sent)
	if !ok || f.Request == nil {
		return nil
	}
	r := f.Request
	s := side{r.CallID, r.From.Tag()}
	switch r.Method {
	case core.ACK, core.CANCEL:
		// After a crash an INVITE is cancelled that was written down and perhaps never left.
		if unseen := len(c.invites[s]) == 0 && c.crashes > 0; !c.invites[s][r.CSeq] && !unseen {
			return broken("%s to %s (Call-ID %s) has CSeq %d, which no INVITE had", r.Method, f.Far, r.CallID, r.CSeq)
		}
		return nil
	case core.INVITE:
		if c.invites[s] == nil {
			c.invites[s] = map[uint32]bool{}
		}
		c.invites[s][r.CSeq] = true
	}
	if before, known := c.last[s]; known && r.CSeq <= before {
		return broken("%s to %s (Call-ID %s) has CSeq %d after %d", r.Method, f.Far, r.CallID, r.CSeq, before)
	}
	c.last[s] = r.CSeq
	return nil
}
