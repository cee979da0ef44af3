package check

import "github.com/dialtone-cc/dialtone/server/core"

// Ring: an agent's phone is rung for no longer than the ring timeout, and not at all once
// the caller has left (signalwire/freeswitch#2529, livekit/sip#106).
type Ring struct {
	named
	calm
	setup *Setup
	rings []ring
	taken map[string]bool      // Call-ID of a caller that was told 200: a CANCEL comes too late
	gone  map[string]core.Time // caller's name -> when its BYE or CANCEL reached the node
}

type ring struct {
	callID, caller string
	txn            core.TxnID
	since          core.Time
	most           core.Millis
	far            Far
	heard          core.Time // first provisional response: before it no CANCEL may be sent (RFC 3261 s.9.1)
}

// NewRing returns the checker.
func NewRing(s *Setup) *Ring {
	return &Ring{named: "ring", setup: s, gone: map[string]core.Time{}, taken: map[string]bool{}}
}

// See follows the INVITEs to agents until each is over.
func (c *Ring) See(at core.Time, fact Fact) error {
	defer c.calm.see(at, fact)
	switch f := fact.(type) {
	case Crashed:
		c.rings = c.rings[:0] // what becomes of them is a matter of the recovery
		for who, left := range c.gone {
			if !c.late(at, left, 2000+c.setup.Slack) {
				delete(c.gone, who) // perhaps it was not written down that this caller left
			}
		}
	case Sent:
		if r := f.Response; r != nil && r.Method == core.INVITE && r.Status/100 == 2 {
			c.taken[r.CallID] = true
		}
		r := f.Request
		if r == nil || f.Far.Agent == "" {
			return nil
		}
		switch {
		case fresh(r):
			most := c.setup.longest(f.Far.Tenant, f.Far.Agent, ringTimeout)
			c.rings = append(c.rings, ring{callID: r.CallID, caller: r.From.URI.User, txn: f.Txn,
				since: at, most: core.Millis(most.Milliseconds()) + 1000 + c.setup.Slack, far: f.Far})
		case r.Method == core.CANCEL || r.Method == core.BYE || r.Method == core.ACK:
			c.over(r.CallID)
		}
	case Received:
		c.provisional(at, f)
		switch {
		case f.Response != nil && f.Response.Method == core.INVITE && f.Response.Status >= 200:
			c.over(f.Response.CallID)
		case f.Request != nil && f.Far.Agent == "" &&
			(f.Request.Method == core.BYE || f.Request.Method == core.CANCEL && !c.taken[f.Request.CallID]):
			if _, known := c.gone[f.Request.From.URI.User]; !known {
				c.gone[f.Request.From.URI.User] = at
			}
		}
	case TxnFailed:
		for _, r := range c.rings {
			if r.txn == f.Txn {
				c.over(r.callID)
				break
			}
		}
	}
	for _, r := range c.rings {
		if r.heard == 0 || !c.late(at, r.heard, 1000+c.setup.Slack) {
			continue
		}
		if c.late(at, r.since, r.most) {
			return broken("%s rings for %s since %s: longer than the ring timeout", r.far, r.caller, r.since)
		}
		if left, ok := c.gone[r.caller]; ok && c.late(at, max(left, r.since), 1000+c.setup.Slack) {
			return broken("%s rings for %s, who left at %s", r.far, r.caller, left)
		}
	}
	return nil
}

func (c *Ring) provisional(at core.Time, f Received) {
	for i := range c.rings {
		if r := &c.rings[i]; f.Response != nil && f.Response.CallID == r.callID && r.heard == 0 {
			r.heard = at
		}
	}
}

func (c *Ring) over(callID string) {
	kept := c.rings[:0]
	for _, r := range c.rings {
		if r.callID != callID {
			kept = append(kept, r)
		}
	}
	c.rings = kept
}
