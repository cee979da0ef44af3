package acd

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Center is the ACD of one tenant: its queues, its agents, who waits and who is with whom.
// It is a value without clock, chance or concurrency: equal calls in equal order give equal
// reservations. The caller tells it what happened and asks Match what follows.
//
// Invariants, checked by Valid:
//  1. A waiting entry is in exactly one queue, which is configured, and in the line of its
//     requirement.
//  2. An entry can be matched exactly while no agent is Reserved or Ringing for it.
//  3. An agent has an interaction exactly while Reserved, Ringing, Talking or Held, and no
//     interaction has two agents (asterisk#176).
//  4. An interaction that an agent talks with or holds does not wait.
//  5. An agent can be offered an interaction exactly while Ready, Idle and reachable.
//  6. An agent in WrapUp, and no other, has an instant at which it ends, and Deadline is the
//     earliest of these.
//  7. A team fits a line exactly if it lists the queue and its skills cover the requirement.
//  8. Every order is sorted, and every board shows the first of each collection.
//  9. The counts equal a count.
//  10. After Match no entry that can be matched fits an agent that can be offered one.
type Center struct {
	queues  map[core.QueueID]*queue
	agents  map[core.AgentID]*member
	entries map[core.InteractionID]*entry
	serving map[core.InteractionID]*member // who is Reserved, Ringing, Talking or Held for it

	lines     []*line // by number, nil where free
	freeLines []int
	sweepAt   int     // lines in use that start a sweep
	teams     []*team // by number, nil where free
	freeTeams []int
	bySig     map[string]*team

	heads board          // of lines, by entry
	idle  board          // of teams, by idle clock
	turns board          // of teams, by last offer
	ends  order[*member] // in WrapUp, by its end

	// What may have become possible since the last Match: lines that got an entry, teams
	// that got an agent. All else was tried then (invariant 10).
	freshLines []*line
	freshTeams []*team
}

// New returns a center without queues and agents.
func New() *Center {
	return &Center{
		queues:  make(map[core.QueueID]*queue),
		agents:  make(map[core.AgentID]*member),
		entries: make(map[core.InteractionID]*entry),
		serving: make(map[core.InteractionID]*member),
		bySig:   make(map[string]*team),
		sweepAt: leastLines,
	}
}

// PutQueue adds a queue or changes one. Entries that wait keep their arrival; a new ageing
// or requirement applies to them at once. A lower MaxWaiting sends nobody away.
func (c *Center) PutQueue(cfg tenant.Queue) {
	q := c.queues[cfg.ID]
	if q == nil {
		q = &queue{lines: make(map[string]*line)}
		c.queues[cfg.ID] = q
		q.Queue = cfg
		for _, t := range c.teams {
			if t == nil {
				continue
			}
			if _, lists := slices.BinarySearch(t.queues, cfg.ID); lists {
				c.join(t, q)
			}
		}
	}
	q.Queue = cfg
	q.ageing = time.Duration(cfg.AgeingS * float64(time.Second))
	q.need = levels(cfg.Skills)
	q.sig = signature(q.need)
	for _, block := range q.arrived.blocks {
		for _, it := range block {
			e := it.value
			c.unline(e)
			e.place = entryPlace(e.Entry, q.ageing)
			c.enline(e, c.lineFor(q, e.Skills))
		}
	}
}

// DropQueue removes a queue and returns what waited there, which waits no more, by arrival.
// Agents that ring or talk for the queue are not touched.
func (c *Center) DropQueue(id core.QueueID) []core.InteractionID {
	q := c.queues[id]
	if q == nil {
		return nil
	}
	var gone []core.InteractionID
	for _, block := range q.arrived.blocks {
		for _, it := range block {
			gone = append(gone, it.value.ID)
		}
	}
	for _, id := range gone {
		c.leave(c.entries[id])
	}
	for _, l := range slices.Clone(q.order) {
		c.dropLine(l)
	}
	delete(c.queues, id)
	return gone
}

// PutAgent adds an agent, logged out and unreachable, or changes the queues and skills of
// one. A change applies to the next offer: what the agent has in hand goes on.
func (c *Center) PutAgent(cfg tenant.Agent) {
	t := c.teamFor(cfg)
	m := c.agents[cfg.ID]
	switch {
	case m == nil:
		m = &member{Agent: Agent{ID: cfg.ID, Status: LoggedOut, State: Idle}}
		c.agents[cfg.ID] = m
	case m.team == t:
		return
	default:
		c.lift(m)
		c.quit(m)
	}
	t.members++
	m.team = t
	c.lay(m)
}

// DropAgent removes an agent. What it had in hand is in hand no more; an entry that was
// offered to it can be matched again.
func (c *Center) DropAgent(id core.AgentID) {
	m := c.agents[id]
	if m == nil {
		return
	}
	c.lift(m)
	c.quit(m)
	delete(c.agents, id)
	c.free(m.Interaction)
}

// quit takes an agent out of its team.
func (c *Center) quit(m *member) {
	if m.team.members--; m.team.members == 0 {
		c.dropTeam(m.team)
	}
	m.team = nil
}
