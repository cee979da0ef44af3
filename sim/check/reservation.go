package check

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Reservation: no agent is named by the committed records (calls and offers) of two
// interactions. For a moment it may be, where one process ends a call and gives its agent
// to the next: the two records are two commits.
type Reservation struct {
	named
	calm
	slack  core.Millis
	of     map[owned]core.AgentID
	by     map[party][]owned
	double []doubled // in the order in which they began
}

type doubled struct {
	party
	since core.Time
}

// NewReservation returns the checker.
func NewReservation(s *Setup) *Reservation {
	return &Reservation{named: "one-reservation", slack: 2000 + s.Slack, of: map[owned]core.AgentID{}, by: map[party][]owned{}}
}

// See follows the records.
func (c *Reservation) See(at core.Time, fact Fact) error {
	c.calm.see(at, fact)
	f, ok := fact.(Reserved)
	if ok {
		c.reserved(at, f)
	}
	for _, d := range c.double {
		if c.late(at, d.since, c.slack) {
			all := c.by[d.party]
			return broken("agent %s of %s is reserved for %s and for %s since %s", d.agent, d.tenant, all[0].id, all[1].id, d.since)
		}
	}
	return nil
}

func (c *Reservation) reserved(at core.Time, f Reserved) {
	id := owned{f.Tenant, f.Interaction}
	was := c.of[id]
	if was == f.Agent {
		return
	}
	if was != "" {
		who := party{f.Tenant, was}
		kept := c.by[who][:0]
		for _, o := range c.by[who] {
			if o != id {
				kept = append(kept, o)
			}
		}
		c.by[who] = kept
		if len(kept) < 2 {
			c.double = slices.DeleteFunc(c.double, func(d doubled) bool { return d.party == who })
		}
	}
	delete(c.of, id)
	if f.Agent == "" {
		return
	}
	who := party{f.Tenant, f.Agent}
	c.of[id] = f.Agent
	c.by[who] = append(c.by[who], id)
	if len(c.by[who]) == 2 {
		c.double = append(c.double, doubled{who, at})
	}
}
