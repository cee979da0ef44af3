package acd

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// A Center compares groups, not individuals: the entries of one queue with one requirement
// are a line, the agents with the same queues and the same skills are a team. Whether a
// team fits a line is worked out once, when either comes to be. An event then costs one
// change in a sorted order and one look at a board, whatever the number of entries, agents
// and queues; an agent's state is never told to each of its queues (asterisk#1215, #1972).

// line is the entries of one queue that require the same.
type line struct {
	number  int
	queue   *queue
	sig     string // signature of need
	need    []level
	waiting order[*entry] // those that may be matched, by entryPlace
	entries int           // waiting, and those that are with an agent now
	fits    set           // numbers of the teams that fit
	fresh   bool          // is in Center.freshLines
}

// entry is an interaction that waits, or is offered and not yet answered.
type entry struct {
	Entry
	place place
	line  *line
}

// arrival is the entry's place in its queue by arrival alone.
func (e *entry) arrival() place { return place{at: e.ArrivedAt, id: string(e.ID)} }

// queue is one configured queue.
type queue struct {
	tenant.Queue
	ageing  time.Duration
	need    []level
	sig     string // signature of need
	lines   map[string]*line
	order   []*line       // the lines as they came to be
	teams   []*team       // those that list the queue
	arrived order[*entry] // all entries, by arrival
}

// team is the agents that have the same queues and skills: what fits one fits all.
type team struct {
	number  int
	sig     string
	queues  []core.QueueID // sorted
	skills  []level
	members int
	idle    order[*member] // the available, by idle clock
	turns   order[*member] // the available, by last offer
	fits    set            // numbers of the lines that fit
	fresh   bool           // is in Center.freshTeams

	ready, busy, notReady int // as in Count
	staffed               int // logged in and reachable
}

// member is one agent.
type member struct {
	Agent
	team *team
}

func (m *member) idlePlace() place { return place{at: m.IdleSince, id: string(m.ID)} }
func (m *member) turnPlace() place { return place{at: m.OfferedAt, id: string(m.ID)} }
func (m *member) endPlace() place  { return place{at: m.WrapUpUntil, id: string(m.ID)} }

// available reports whether the agent may be offered an interaction.
func (m *member) available() bool {
	return m.Status == Ready && m.State == Idle && m.Reachable
}

// lineFor returns the line of a queue for an entry's own required skills.
func (c *Center) lineFor(q *queue, skills map[string]int) *line {
	need, sig := q.need, q.sig
	if len(skills) > 0 {
		need = both(need, levels(skills))
		sig = signature(need)
	}
	if l := q.lines[sig]; l != nil {
		return l
	}
	if len(c.lines)-len(c.freeLines) >= max(c.sweepAt, 4*len(c.queues)) {
		c.sweep()
	}
	l := &line{queue: q, sig: sig, need: need}
	l.number, c.freeLines = number(&c.lines, c.freeLines, l)
	q.lines[sig] = l
	q.order = append(q.order, l)
	for _, t := range q.teams {
		link(t, l)
	}
	return l
}

// leastLines is how many lines are kept at least, empty or not.
const leastLines = 1024

// sweep drops the lines without entries. Lines are kept when they run empty, since the next
// caller most likely requires the same; what callers require may change for ever, though,
// and lines must not pile up. Waiting for the number to double makes the cost vanish.
func (c *Center) sweep() {
	for _, l := range c.lines {
		if l != nil && l.entries == 0 {
			c.dropLine(l)
		}
	}
	c.sweepAt = max(leastLines, 2*(len(c.lines)-len(c.freeLines)))
}

func (c *Center) dropLine(l *line) {
	q := l.queue
	for _, t := range q.teams {
		t.fits.drop(l.number)
	}
	delete(q.lines, l.sig)
	q.order = slices.DeleteFunc(q.order, func(x *line) bool { return x == l })
	c.lines[l.number] = nil
	c.freeLines = append(c.freeLines, l.number)
}

// teamFor returns the team of an agent's queues and skills.
func (c *Center) teamFor(a tenant.Agent) *team {
	queues := slices.Compact(slices.Sorted(slices.Values(a.Queues)))
	skills := levels(a.Skills)
	names := make([]level, len(queues))
	for i, q := range queues {
		names[i].skill = string(q)
	}
	sig := signature(names) + "/ " + signature(skills)
	if t := c.bySig[sig]; t != nil {
		return t
	}
	t := &team{sig: sig, queues: queues, skills: skills}
	t.number, c.freeTeams = number(&c.teams, c.freeTeams, t)
	c.bySig[sig] = t
	for _, id := range queues {
		if q := c.queues[id]; q != nil {
			c.join(t, q)
		}
	}
	return t
}

// join makes a team serve a queue that it lists.
func (c *Center) join(t *team, q *queue) {
	q.teams = append(q.teams, t)
	for _, l := range q.order {
		link(t, l)
	}
}

// dropTeam forgets a team that has no members.
func (c *Center) dropTeam(t *team) {
	for _, id := range t.queues {
		q := c.queues[id]
		if q == nil {
			continue
		}
		for _, l := range q.order {
			l.fits.drop(t.number)
		}
		q.teams = slices.DeleteFunc(q.teams, func(x *team) bool { return x == t })
	}
	delete(c.bySig, t.sig)
	c.teams[t.number] = nil
	c.freeTeams = append(c.freeTeams, t.number)
}

// link notes on both sides that a team of the line's queue fits the line, if it does.
func link(t *team, l *line) {
	if covers(t.skills, l.need) {
		t.fits.add(l.number)
		l.fits.add(t.number)
	}
}

// number puts x into a free place of list and returns which, and the free places left.
func number[T any](list *[]*T, free []int, x *T) (int, []int) {
	if n := len(free); n > 0 {
		(*list)[free[n-1]] = x
		return free[n-1], free[:n-1]
	}
	*list = append(*list, x)
	return len(*list) - 1, free
}
