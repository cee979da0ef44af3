package check

import "github.com/dialtone-cc/dialtone/server/core"

// AfterBye: after a BYE the node sends no request in that dialog but an ACK to a late 2xx.
// A BYE that was heard or sent just before a crash, or while the store was away, may be
// forgotten by the next process: a hang-up is honoured without waiting for the store. Then
// the dialog is tried once more, and the phone says 481.
type AfterBye struct {
	named
	calm
	slack core.Millis
	ended map[string]bye // by Call-ID: each of our dialogs has its own
}

type bye struct {
	by        string
	at        core.Time
	crashed   bool // since then
	answered  bool // a 200 to our INVITE came after it
	forgotten bool
}

// NewAfterBye returns the checker.
func NewAfterBye(s *Setup) *AfterBye {
	return &AfterBye{named: "after-bye", slack: 2000 + s.Slack, ended: map[string]bye{}}
}

// See follows requests in dialogs.
func (c *AfterBye) See(at core.Time, fact Fact) error {
	if _, crash := fact.(Crashed); crash {
		for id, b := range c.ended { // each by itself: the order of the visit does not matter
			b.crashed = true
			b.forgotten = b.forgotten || !c.late(at, b.at, c.slack)
			c.ended[id] = b
		}
	}
	c.calm.see(at, fact)
	switch f := fact.(type) {
	case Received:
		if r := f.Response; r != nil && r.Method == core.INVITE && r.Status/100 == 2 {
			if b, over := c.ended[r.CallID]; over {
				b.answered = true
				c.ended[r.CallID] = b
			}
		}
		// The dialog of a BYE is over for us when we answer it, but nothing in it is
		// worth sending from the instant it is read.
		if f.Request != nil && f.Request.Method == core.BYE {
			c.ended[f.Request.CallID] = bye{by: "the phone", at: at}
		}
	case Sent:
		r := f.Request
		if r == nil || r.Method == core.ACK || r.Method == core.CANCEL || fresh(r) {
			return nil
		}
		before, over := c.ended[r.CallID]
		// A BYE may cross the phone's, and one without an answer is repeated by the next process.
		again := r.Method == core.BYE && (before.crashed || before.answered || before.by == "the phone" && !c.late(at, before.at, c.slack))
		if over && !before.forgotten && !again {
			return broken("%s (CSeq %d) leaves for %s in a dialog (Call-ID %s) that %s ended with BYE at %s",
				r.Method, r.CSeq, f.Far, r.CallID, before.by, before.at)
		}
		if r.Method == core.BYE {
			c.ended[r.CallID] = bye{by: "the node", at: at, forgotten: before.forgotten}
		}
	}
	return nil
}
