package check

import (
	"encoding/json"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Conservation: an INVITE that was accepted with 200 ends in exactly one CDR; one that was
// not ends in at most one. A CDR that comes again says the same. Nothing is done for an
// interaction after its CDR (none is resurrected, sipwise/rtpengine#2007).
type Conservation struct {
	named
	crashes  int
	accepted map[string]core.Time // Call-ID of a caller -> when its 200 left
	order    []string
	arrived  map[string]bool
	again    map[string]bool // may have a second CDR
	byCall   map[string]core.InteractionID
	byID     map[core.InteractionID][]byte
	ended    map[string]core.InteractionID // every Call-ID of a finished interaction
}

// NewConservation returns the checker.
func NewConservation(*Setup) *Conservation {
	return &Conservation{named: "conservation", accepted: map[string]core.Time{}, arrived: map[string]bool{}, again: map[string]bool{},
		byCall: map[string]core.InteractionID{}, byID: map[core.InteractionID][]byte{}, ended: map[string]core.InteractionID{}}
}

// See counts INVITEs and CDRs.
func (c *Conservation) See(at core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Received:
		if f.Request != nil && f.Far.Agent == "" && fresh(f.Request) {
			c.arrived[f.Request.CallID] = true
		}
	case Sent:
		return c.sent(at, f)
	case Crashed:
		c.crashes++
	case Recorded:
		return c.recorded(f.CDR)
	}
	return nil
}

func (c *Conservation) sent(at core.Time, f Sent) error {
	if r := f.Response; r != nil && f.Far.Agent == "" && r.Method == core.INVITE && r.Status/100 == 2 {
		if _, known := c.accepted[r.CallID]; !known {
			c.accepted[r.CallID] = at
			c.order = append(c.order, r.CallID)
			id, done := c.ended[r.CallID]
			if done && c.crashes > 0 { // it was refused or ended unheard, and a crash forgot it
				delete(c.ended, r.CallID)
				c.again[r.CallID] = true
			} else if done {
				return broken("the call of %s (Call-ID %s) is accepted after its CDR %s was recorded", f.Far, r.CallID, id)
			}
		}
	}
	if r := f.Request; r != nil && r.Method == core.INVITE {
		if id, done := c.ended[r.CallID]; done {
			return broken("an INVITE for %s leaves (Call-ID %s) after the CDR %s was recorded", f.Far, r.CallID, id)
		}
	}
	return nil
}

func (c *Conservation) recorded(cdr *core.CDR) error {
	text, err := json.Marshal(cdr)
	if err != nil {
		return broken("CDR %s can't be written as JSON: %v", cdr.ID, err)
	}
	if before, again := c.byID[cdr.ID]; again {
		if string(before) != string(text) {
			return broken("CDR %s came twice with different content:\n  %s\n  %s", cdr.ID, before, text)
		}
		return nil
	}
	c.byID[cdr.ID] = text
	callers := 0
	for _, leg := range cdr.Legs {
		c.ended[leg.SIPCallID] = cdr.ID
		if leg.Party != core.Caller {
			continue
		}
		callers++
		// A call that was refused is forgotten by a crash, and its INVITE may come again.
		_, promised := c.accepted[leg.SIPCallID]
		if other, twice := c.byCall[leg.SIPCallID]; twice && !c.again[leg.SIPCallID] && (promised || c.crashes == 0) {
			return broken("Call-ID %s has two CDRs, %s and %s", leg.SIPCallID, other, cdr.ID)
		}
		c.byCall[leg.SIPCallID] = cdr.ID
		if !c.arrived[leg.SIPCallID] {
			return broken("CDR %s is of Call-ID %s, which never arrived", cdr.ID, leg.SIPCallID)
		}
	}
	if callers != 1 {
		return broken("CDR %s has %d caller legs, one expected", cdr.ID, callers)
	}
	return nil
}

// End asks for the CDR of each accepted call.
func (c *Conservation) End(core.Time) error {
	for _, callID := range c.order {
		if _, done := c.byCall[callID]; !done {
			return broken("the call with Call-ID %s was accepted at %s and has no CDR", callID, c.accepted[callID])
		}
	}
	return nil
}
