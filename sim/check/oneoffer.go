package check

import "github.com/dialtone-cc/dialtone/server/core"

// OneOffer: an agent is rung for, and talks to, one interaction at a time. An agent with
// two phones may be rung on both for the same caller. An INVITE counts until the node
// gave it up (CANCEL, BYE), or it was refused, or it ended. One that nothing was heard of
// can't be cancelled yet (RFC 3261 s.9.1): it is no clash as long as it is silent, and must
// be given up soon after it is not. Section C of the field's failures: asterisk/asterisk#176,
// signalwire/freeswitch#2540.
type OneOffer struct {
	named
	calm
	slack  core.Millis
	live   map[party][]*offered
	byTxn  map[core.TxnID]*offered
	double []double
}

// double is a silent offer that was heard of after the next one was made.
type double struct {
	a, b  *offered
	since core.Time
	far   Far
}

type offered struct {
	callID string
	txn    core.TxnID
	caller string // user part of From: which interaction this is
	heard  bool
	over   bool
}

// NewOneOffer returns the checker.
func NewOneOffer(s *Setup) *OneOffer {
	return &OneOffer{named: "one-offer", slack: 1000 + s.Slack, live: map[party][]*offered{}, byTxn: map[core.TxnID]*offered{}}
}

// See follows the INVITEs to agents.
func (c *OneOffer) See(at core.Time, fact Fact) error {
	c.calm.see(at, fact)
	switch f := fact.(type) {
	case Sent:
		if err := c.sent(f); err != nil {
			return err
		}
	case Received:
		c.received(at, f)
	case TxnFailed:
		if o := c.byTxn[f.Txn]; o != nil {
			o.over = true
		}
	}
	kept := c.double[:0]
	for _, d := range c.double {
		if d.a.over || d.b.over {
			continue
		}
		if c.late(at, d.since, c.slack) {
			return broken("%s rings for %s and for %s since %s", d.far, d.a.caller, d.b.caller, d.since)
		}
		kept = append(kept, d)
	}
	c.double = kept
	return nil
}

func (c *OneOffer) sent(f Sent) error {
	if f.Request == nil || f.Far.Agent == "" {
		return nil
	}
	who := f.Far.party()
	if !fresh(f.Request) {
		o := c.find(who, f.Request.CallID)
		if o == nil {
			return nil
		}
		if f.Request.Method == core.CANCEL || f.Request.Method == core.BYE {
			o.over = true
		}
		c.byTxn[f.Txn] = o // an in-dialog request that fails ends the dialog
		return nil
	}
	caller := f.Request.From.URI.User
	kept := c.live[who][:0]
	var clash *offered
	for _, o := range c.live[who] {
		if o.over {
			continue
		}
		kept = append(kept, o)
		if o.caller != caller && o.heard {
			clash = o
		}
	}
	o := &offered{callID: f.Request.CallID, txn: f.Txn, caller: caller}
	c.live[who] = append(kept, o)
	c.byTxn[f.Txn] = o
	if clash != nil {
		return broken("%s is offered %s while the offer of %s (Call-ID %s) is neither cancelled, refused nor ended",
			f.Far, caller, clash.caller, clash.callID)
	}
	return nil
}

func (c *OneOffer) received(at core.Time, f Received) {
	if f.Far.Agent == "" {
		return
	}
	switch {
	case f.Request != nil && f.Request.Method == core.BYE:
		if o := c.find(f.Far.party(), f.Request.CallID); o != nil {
			o.over = true
		}
	case f.Response != nil:
		o := c.find(f.Far.party(), f.Response.CallID)
		if o == nil {
			return
		}
		// A refusal of a re-INVITE does not end a dialog (RFC 3261 s.14.1), but 481 and 408 do.
		gone := f.Response.Status == 481 || f.Response.Status == 408
		refused := f.Response.Status >= 300 && f.Txn == o.txn
		if gone || refused {
			o.over = true
		}
		if !o.heard {
			o.heard = true
			for _, other := range c.live[f.Far.party()] {
				if other.heard && !other.over && !o.over && other.caller != o.caller {
					c.double = append(c.double, double{o, other, at, f.Far})
				}
			}
		}
	}
}

func (c *OneOffer) find(who party, callID string) *offered {
	for _, o := range c.live[who] {
		if o.callID == callID {
			return o
		}
	}
	return nil
}
