package acd

import (
	"math/bits"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Reservation says that an agent is to be offered an interaction.
type Reservation struct {
	Interaction core.InteractionID
	Agent       core.AgentID
	Queue       core.QueueID
}

// Match makes every reservation that is possible now, in the order of the entries' places.
//
// Of all entries that some available agent fits, in whatever queue, the first by place is
// served first, by the agent that its queue's strategy prefers among those that fit. So an
// agent of several queues goes to the entry that has waited longest; no entry passes an
// earlier one that the same agent fits (freeswitch#2511); and an entry that nobody fits
// stands in nobody's way.
//
// A reserved agent is Reserved until Progress or Release. The entry keeps its place.
func (c *Center) Match(now core.Time) []Reservation {
	var made []Reservation
	for { // each round makes a reservation or finds something fresh no longer: it ends
		l, t := c.next()
		if l == nil {
			return made
		}
		m := c.pick(l)
		if m == nil {
			// Agents only become fewer during Match: nobody will fit this line later either.
			l.fresh = false
			if t != nil {
				t.fresh = false
			}
			continue
		}
		e := l.waiting.first().value
		c.unofferable(e)
		c.lift(m)
		m.State, m.Since, m.OfferedAt = Reserved, now, now
		m.Interaction = e.ID
		c.lay(m)
		made = append(made, Reservation{e.ID, m.ID, l.queue.ID})
	}
}

// next returns the line whose first entry comes first among the fresh lines and the lines
// that the fresh teams fit, and the team that led to it, if one did; nil when nothing is
// left to try. What is found to have nothing to give is no longer fresh.
func (c *Center) next() (first *line, by *team) {
	earlier := func(l *line) bool {
		return first == nil || l.waiting.first().compare(first.waiting.first().place) < 0
	}
	lines := c.freshLines[:0]
	for _, l := range c.freshLines {
		if l.fresh = l.fresh && l.waiting.n > 0; !l.fresh {
			continue
		}
		lines = append(lines, l)
		if earlier(l) {
			first = l
		}
	}
	clear(c.freshLines[len(lines):])
	c.freshLines = lines
	teams := c.freshTeams[:0]
	for _, t := range c.freshTeams {
		n := -1
		if t.fresh && t.idle.n > 0 {
			n = c.heads.first(t.fits)
		}
		if t.fresh = n >= 0; !t.fresh {
			continue
		}
		teams = append(teams, t)
		if l := c.lines[n]; earlier(l) {
			first, by = l, t
		}
	}
	clear(c.freshTeams[len(teams):])
	c.freshTeams = teams
	return first, by
}

// pick returns the available agent that a line's queue prefers, nil when none fits.
func (c *Center) pick(l *line) *member {
	switch {
	case l.queue.Strategy == tenant.RoundRobin:
		if n := c.turns.first(l.fits); n >= 0 {
			return c.teams[n].turns.first().value
		}
	case l.queue.Strategy == tenant.MostSkilled && len(l.need) > 0:
		return c.mostSkilled(l)
	default:
		if n := c.idle.first(l.fits); n >= 0 {
			return c.teams[n].idle.first().value
		}
	}
	return nil
}

// mostSkilled returns the available agent with the highest sum of the required
// proficiencies, the longest idle of several.
func (c *Center) mostSkilled(l *line) *member {
	var best *team
	most := 0
	for w := range min(len(l.fits), len(c.idle.filled)) {
		for word := l.fits[w] & c.idle.filled[w]; word != 0; word &= word - 1 {
			t := c.teams[w<<6+bits.TrailingZeros64(word)]
			s := score(t.skills, l.need)
			if best == nil || s > most || s == most && t.idle.first().compare(best.idle.first().place) < 0 {
				best, most = t, s
			}
		}
	}
	if best == nil {
		return nil
	}
	return best.idle.first().value
}
