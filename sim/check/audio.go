package check

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Audio: two parties that are connected hear each other within a bound, unless one holds;
// the party that is held hears audio of the queue instead (jambonz/sbc-outbound#123), and
// so does a caller who waits.
type Audio struct {
	named
	calm
	lossless bool
	restart  core.Time // the last one
	slack    core.Millis
	pairs    map[string]*pair // by the caller's name
	heard    map[string]Hears // by Call-ID: audio may come before the ACK
	ended    map[string]bool  // by Call-ID: a BYE left, and may be lost a few times
	owed     map[string]bool  // by Call-ID: the phone left the offer to the node, and its answer, in the ACK, has not come
	order    []*pair
}

type pair struct {
	caller, agent end
	since         core.Time // when both ends took the form they have now
	joined        core.Time // since when the agent is there
	spoke         bool      // an agent has been there
}

type end struct {
	Talking
	known bool
}

// NewAudio returns the checker.
func NewAudio(s *Setup) *Audio {
	return &Audio{named: "audio", lossless: s.Lossless, slack: 2000 + s.Slack, pairs: map[string]*pair{}, heard: map[string]Hears{}, ended: map[string]bool{}, owed: map[string]bool{}}
}

// See follows both ends of each call.
func (c *Audio) See(at core.Time, fact Fact) error {
	if _, crash := fact.(Crashed); crash {
		for _, p := range c.order {
			if p.spoke && !c.late(at, p.joined, c.slack) {
				p.agent, p.spoke = end{}, false // perhaps this was not written down
			}
		}
	}
	c.calm.see(at, fact)
	switch f := fact.(type) {
	case Restarted:
		c.restart = at
	case Talking:
		c.talking(at, f)
	case Hears:
		c.heard[f.CallID] = f
		for _, p := range c.order {
			if p.end(f.CallID) != nil {
				p.since = at // a call that ends falls silent before its BYE has left
			}
		}
	case Sent:
		// A message that changes a call is on its way: its effect may need a moment.
		c.touched(at, f.Request, f.Response)
		if f.Request != nil && f.Request.Method == core.BYE {
			c.ended[f.Request.CallID] = true
		}
	case Received:
		c.touched(at, f.Request, f.Response)
		c.answerDue(f.Request)
	}
	for _, p := range c.order {
		if err := c.judge(at, p); err != nil {
			return err
		}
	}
	return nil
}

// answerDue notes who owes an answer: until it comes the node can't know where to send.
func (c *Audio) answerDue(q *core.Request) {
	switch {
	case q == nil:
	case q.Method == core.INVITE:
		c.owed[q.CallID] = len(q.Body) == 0
	case q.Method == core.ACK:
		delete(c.owed, q.CallID)
	}
}

func (c *Audio) touched(at core.Time, q *core.Request, r *core.Response) {
	callID := ""
	switch {
	case q != nil && q.Method != core.OPTIONS:
		callID = q.CallID
	case r != nil && r.Method != core.OPTIONS:
		callID = r.CallID
	}
	for _, p := range c.order {
		if p.end(callID) != nil {
			p.since = at
		}
	}
}

func (c *Audio) talking(at core.Time, f Talking) {
	p := c.pairs[f.Caller]
	if p == nil {
		if !f.Up {
			return
		}
		p = &pair{}
		c.pairs[f.Caller] = p
		c.order = append(c.order, p)
	}
	e := &p.caller
	if f.Far.Agent != "" {
		e = &p.agent
	}
	if e.CallID != f.CallID {
		if !f.Up {
			return // an earlier agent of this caller
		}
		*e = end{}
	}
	e.Talking, e.known = f, true
	if f.Up && f.Far.Agent != "" && !p.spoke {
		p.spoke, p.joined = true, at
	}
	p.since = at
	if f.Far.Agent == "" && !f.Up {
		delete(c.pairs, f.Caller)
		c.order = removed(c.order, p)
	}
}

func removed(all []*pair, p *pair) []*pair {
	kept := all[:0]
	for _, q := range all {
		if q != p {
			kept = append(kept, q)
		}
	}
	return kept
}

func (p *pair) end(callID string) *end {
	switch {
	case p.caller.known && p.caller.CallID == callID:
		return &p.caller
	case p.agent.known && p.agent.CallID == callID:
		return &p.agent
	}
	return nil
}

func (c *Audio) judge(at core.Time, p *pair) error {
	a, b := &p.caller, &p.agent
	bound := c.slack
	if !c.lossless && c.restart != 0 && at < c.restart.Add(time.Minute) {
		bound += 8000 // an ACK that is lost is asked for again and again, ever more seldom
	}
	if c.ended[a.CallID] || c.ended[b.CallID] {
		return nil
	}
	if !c.lossless && (c.owed[a.CallID] || c.owed[b.CallID]) {
		return nil // the ACK was lost, and is sent again only when the 200 is
	}
	if heard := c.heard[a.CallID]; a.Up && !b.Up && !p.spoke && !a.Hold && !a.Busy && c.late(at, p.since, bound+2000) &&
		heard.File == "" && !heard.Joined {
		return broken("%s waits in silence (since %s)", a.Far, p.since)
	}
	if !a.Up || !b.Up || a.Busy || b.Busy || !c.late(at, p.since, bound) {
		return nil
	}
	for _, x := range [2][2]*end{{a, b}, {b, a}} {
		listener, speaker := x[0], x[1]
		heard := c.heard[listener.CallID]
		switch {
		case listener.Hold: // who holds need not hear anything
		case speaker.Hold:
			if heard.File == "" {
				return broken("%s is held by %s and hears no music (since %s)", listener.Far, speaker.Far, p.since)
			}
		case speaker.Sends && heard.Voice != speaker.CallID:
			return broken("%s does not hear %s (since %s; hears file %q, voice of %q)",
				listener.Far, speaker.Far, p.since, heard.File, heard.Voice)
		case speaker.Sends && !heard.Readable:
			return broken("%s gets audio of %s in a format or at a port that it did not agree to", listener.Far, speaker.Far)
		}
	}
	return nil
}
