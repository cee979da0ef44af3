package check

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Place: within a queue, the agent is offered the waiting entry of the highest priority,
// ageing included, and among equals the first to arrive; an entry keeps its place through
// refusals, overflow and restarts (signalwire/freeswitch#2511). A quadratic model: each
// offer of each CDR is compared with every other entry that waited at that instant. The
// instants come from the timelines; priority, skills and arrival from outside.
type Place struct {
	named
	calm
	setup   *Setup
	trouble core.Time            // when the trouble that lasts began
	arrived map[string]core.Time // Call-ID -> INVITE at the node
	taken   map[string]core.Time // Call-ID -> 200 to it
	done    []entry
	crashes []crash
}

type entry struct {
	id      core.InteractionID
	tenant  core.TenantID
	arrived core.Time
	number  *tenant.Number
	waits   []wait
	offers  []place
}

// crash is the end of a process; what happened after sure may not have been written down.
type crash struct{ at, sure core.Time }

type wait struct {
	queue    core.QueueID
	from, to core.Time
}

type place struct {
	at    core.Time
	queue core.QueueID
	agent core.AgentID
}

// blur is how close instants may be in either order: the reading of a clock and a commit
// lie between the decision and its trace, among several nodes more than one of each.
func (c *Place) blur() core.Time {
	if c.setup.Nodes > 1 {
		return core.Time(200+c.setup.Slack) * 1e6
	}
	return core.Time(50 * time.Millisecond)
}

// NewPlace returns the checker.
func NewPlace(s *Setup) *Place {
	return &Place{named: "place", setup: s, arrived: map[string]core.Time{}, taken: map[string]core.Time{}}
}

// See collects entries.
func (c *Place) See(at core.Time, fact Fact) error {
	if d, ok := fact.(Disturbed); ok && d.On && c.troubles == 0 {
		c.trouble = at
	}
	switch f := fact.(type) {
	case Crashed:
		sure := at - core.Time(2000+c.setup.Slack)*1e6
		if c.troubles > 0 {
			sure = min(sure, c.trouble)
		}
		c.crashes = append(c.crashes, crash{at, sure})
	case Received:
		if r := f.Request; r != nil && fresh(r) && f.Far.Agent == "" {
			if _, known := c.arrived[r.CallID]; !known {
				c.arrived[r.CallID] = at
			}
		}
	case Sent:
		if r := f.Response; r != nil && r.Method == core.INVITE && r.Status/100 == 2 && f.Far.Agent == "" {
			if _, known := c.taken[r.CallID]; !known {
				c.taken[r.CallID] = at
			}
		}
	case Recorded:
		if !f.Again {
			c.done = append(c.done, c.entry(f.CDR))
		}
	}
	c.calm.see(at, fact)
	return nil
}

func (c *Place) entry(d *core.CDR) entry {
	e := entry{id: d.ID, tenant: d.Tenant, arrived: d.ArrivedAt, number: c.setup.number(d.Tenant, d.Called)}
	for _, leg := range d.Legs {
		if at, known := c.arrived[leg.SIPCallID]; known && leg.Party == core.Caller && !c.forgotten(leg.SIPCallID, at, d.ArrivedAt) {
			e.arrived = at
		}
	}
	var queue core.QueueID
	var since core.Time
	stop := func(at core.Time) {
		if since != 0 && at > since {
			e.waits = append(e.waits, wait{queue, since, at})
		}
		since = 0
	}
	for _, m := range d.Timeline {
		switch m.What {
		case core.Queued, core.OverflowedTo:
			stop(m.At)
			if m.Queue != "" {
				queue = m.Queue
			}
			since = m.At
		case core.Offered:
			stop(m.At)
			e.offers = append(e.offers, place{m.At, queue, m.Agent})
		case core.OfferFailed, core.Recovered:
			stop(m.At)
			since = m.At
		case core.Answered:
			stop(m.At)
			queue = ""
		case core.Ended:
			// Who hears the announcement before the end has left the queue already.
			if q := c.setup.queue(d.Tenant, queue); q != nil && q.Overflow != nil && q.Overflow.Announce != "" {
				stop(m.At - core.Time(6*time.Second))
			}
			stop(m.At)
			queue = ""
		}
	}
	return e
}

// forgotten reports whether the process that got the INVITE first died before it said 200:
// nothing was promised, and a repetition of the INVITE is a new call to the next process.
func (c *Place) forgotten(callID string, first, arrived core.Time) bool {
	taken, ok := c.taken[callID]
	for _, crash := range c.crashes {
		if first <= crash.at && crash.at <= arrived && (!ok || taken > crash.at) {
			return true
		}
	}
	return false
}

// End compares all pairs.
func (c *Place) End(core.Time) error {
	for i := range c.done {
		for _, o := range c.done[i].offers {
			for j := range c.done {
				if i != j && c.ahead(&c.done[j], &c.done[i], o) {
					a, b := &c.done[j], &c.done[i]
					return broken("agent %s was offered %s (arrived %s) at %s, while %s (arrived %s) waited before it in queue %s",
						o.agent, b.id, b.arrived, o.at, a.id, a.arrived, o.queue)
				}
			}
		}
	}
	return nil
}

// ahead reports whether a waited, fitted and ranked above b when b was offered to o.agent.
func (c *Place) ahead(a, b *entry, o place) bool {
	if a.tenant != b.tenant || a.number == nil || b.number == nil {
		return false
	}
	q := c.setup.queue(a.tenant, o.queue)
	g := c.setup.agent(a.tenant, o.agent)
	if q == nil || g == nil || !fits(q.Skills, g.Skills) || !fits(a.number.Skills, g.Skills) {
		return false
	}
	for _, earlier := range a.offers {
		if earlier.agent == o.agent && earlier.at < o.at {
			return false // this agent had its chance; others go first for a while
		}
	}
	waited := false
	for _, w := range a.waits {
		start, end := w.from+c.blur(), w.to-c.blur()
		if q.WelcomeFirst || q.Welcome != "" {
			start += core.Time(6 * time.Second)
		}
		for _, crash := range c.crashes { // between a crash and its recovery nobody waits for certain
			if crash.at >= w.from && crash.at <= o.at {
				start = core.Never
			}
			if crash.at >= w.from && crash.at <= w.to {
				end = min(end, crash.sure)
			}
		}
		waited = waited || w.queue == o.queue && start < o.at && o.at < end
	}
	return waited && rank(q, a)+c.blur() < rank(q, b)
}

// rank is lower for those who come first. Waiting for the ageing time equals one step of
// priority, so a step is that much of an earlier arrival; without ageing it is a lifetime.
func rank(q *tenant.Queue, e *entry) core.Time {
	step := core.Time(q.AgeingS * float64(time.Second))
	if q.AgeingS == 0 {
		step = core.Time(10_000 * time.Hour)
	}
	return e.arrived - core.Time(e.number.Priority)*step
}

func fits(need, have map[string]int) bool {
	for skill, least := range need { // a conjunction: the order of the visit does not matter
		if have[skill] < least {
			return false
		}
	}
	return true
}
