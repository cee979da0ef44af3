package check

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

func ringTimeout(q *tenant.Queue) float64 { return q.RingTimeoutS }

func wrapUp(q *tenant.Queue) float64 { return q.WrapUpS }

// RONA: an agent who did not answer is not rung again before somebody says that the agent
// is ready: the API, or a phone that registers anew. A restart does not make ready
// (asterisk/asterisk#66).
type RONA struct {
	named
	setup  *Setup
	rings  map[string]rung
	missed map[party]miss
	gone   map[string]bool
	doubts []miss // rung again; the CDR will say whether the first ring ended by the timeout
}

type miss struct {
	at     core.Time
	callID string
	again  core.Time
	far    Far
}

type rung struct {
	since core.Time
	heard core.Time // first provisional response
	who   party
	user  string
	txn   core.TxnID
}

// NewRONA returns the checker.
func NewRONA(s *Setup) *RONA {
	return &RONA{named: "rona", setup: s, rings: map[string]rung{}, missed: map[party]miss{}, gone: map[string]bool{}}
}

// See follows rings that end by the ring timeout.
func (c *RONA) See(at core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Sent:
		return c.sent(at, f)
	case Received:
		c.received(at, f)
	case Crashed:
		clear(c.rings)
	case Asked:
		switch do := f.Do.(type) {
		case command.SetStatus:
			if do.Status != acd.NotReady {
				delete(c.missed, party{f.Tenant, do.Agent})
			}
		case command.PutAgent:
			delete(c.missed, party{f.Tenant, do.Agent.ID})
		case command.DeleteAgent:
			delete(c.missed, party{f.Tenant, do.ID})
		}
	case Recorded:
		return c.recorded(f.CDR)
	case Vanished:
		delete(c.missed, f.Far.party())
	}
	return nil
}

func (c *RONA) sent(at core.Time, f Sent) error {
	r := f.Request
	if r == nil || f.Far.Agent == "" {
		return nil
	}
	who := f.Far.party()
	if fresh(r) {
		if m, missed := c.missed[who]; missed {
			m.again = at
			c.doubts = append(c.doubts, m)
			delete(c.missed, who)
		}
		c.rings[r.CallID] = rung{since: at, who: who, user: r.From.URI.User, txn: f.Txn}
		return nil
	}
	if was, ringing := c.rings[r.CallID]; ringing && r.Method == core.CANCEL {
		delete(c.rings, r.CallID)
		least := c.setup.shortest(f.Far.Tenant, f.Far.Agent, ringTimeout)
		// A CANCEL that meets the first provisional response was decided on long before: such a
		// phone counted as unreachable, and may have been made ready meanwhile.
		rings := was.heard != 0 && was.heard < at
		if rings && at.Sub(was.since) >= least && !c.gone[was.user] && !c.otherAnswered(was) {
			c.missed[who] = miss{at: at, callID: r.CallID, far: f.Far}
		}
	}
	return nil
}

// recorded asks the timeline why a ring ended: an overflow or a hang-up by the API takes an
// offer back at any moment, also when the ring timeout is near.
func (c *RONA) recorded(d *core.CDR) error {
	for _, m := range c.doubts {
		for _, leg := range d.Legs {
			if leg.SIPCallID != m.callID {
				continue
			}
			for _, t := range d.Timeline {
				late := m.at.Sub(t.At)
				if t.What == core.OfferFailed && t.Agent == m.far.Agent && t.Detail == "no_answer" && late >= 0 && late < time.Second {
					return broken("%s did not answer until %s and was rung again at %s, though nobody made the agent ready", m.far, t.At, m.again)
				}
			}
		}
	}
	return nil
}

// otherAnswered reports whether another phone of the same agent still rings or took the
// call: then this CANCEL is not of the ring timeout.
func (c *RONA) otherAnswered(was rung) bool {
	return c.gone[was.user+"/answered"]
}

func (c *RONA) received(at core.Time, f Received) {
	switch {
	case f.Request != nil && f.Far.Agent == "" && (f.Request.Method == core.BYE || f.Request.Method == core.CANCEL):
		c.gone[f.Request.From.URI.User] = true
	case f.Request != nil && f.Request.Method == core.REGISTER:
		// Only a binding that is made anew may make ready, and this checker can't tell.
		delete(c.missed, f.Far.party())
	case f.Response != nil && f.Response.Method == core.INVITE && f.Response.Status < 200:
		if was, ok := c.rings[f.Response.CallID]; ok && was.heard == 0 {
			was.heard = at
			c.rings[f.Response.CallID] = was
		}
	case f.Response != nil && f.Response.Method == core.INVITE && f.Response.Status >= 200:
		if was, ok := c.rings[f.Response.CallID]; ok {
			delete(c.rings, f.Response.CallID)
			if f.Response.Status < 300 {
				c.gone[was.user+"/answered"] = true
			}
		}
	}
}
