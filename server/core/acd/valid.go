package acd

import (
	"fmt"
	"maps"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Valid checks the invariants above Center and names the first that does not hold. It
// visits everything: for the simulator and for tests.
func (c *Center) Valid() error {
	for _, check := range []func() error{c.validEntries, c.validAgents, c.validGroups, c.validOrders, c.validMatch} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func broken(invariant int, format string, args ...any) error {
	return fmt.Errorf("acd: invariant %d: %s", invariant, fmt.Sprintf(format, args...))
}

// validEntries checks 1, 2 and 4.
func (c *Center) validEntries() error {
	arrived := 0
	for _, id := range slices.Sorted(maps.Keys(c.queues)) {
		q := c.queues[id]
		arrived += q.arrived.n
		if len(q.lines) != len(q.order) {
			return broken(1, "queue %q has %d lines by requirement and %d in order", id, len(q.lines), len(q.order))
		}
	}
	if arrived != len(c.entries) {
		return broken(1, "%d entries wait, the queues hold %d", len(c.entries), arrived)
	}
	for _, id := range slices.Sorted(maps.Keys(c.entries)) {
		e := c.entries[id]
		q := c.queues[e.Queue]
		if q == nil || e.line.queue != q || q.lines[e.line.sig] != e.line || c.lines[e.line.number] != e.line {
			return broken(1, "entry %s of queue %q is in no line of it", id, e.Queue)
		}
		if _, _, in := find(&q.arrived, e.arrival()); !in {
			return broken(1, "entry %s is not in queue %q", id, e.Queue)
		}
		if !slices.Equal(e.line.need, both(levels(q.Skills), levels(e.Skills))) || e.place != entryPlace(e.Entry, q.ageing) {
			return broken(1, "entry %s is in the wrong line or place", id)
		}
		m := c.serving[id]
		if _, _, in := find(&e.line.waiting, e.place); in == (m != nil) {
			return broken(2, "entry %s can be matched: %t, is with an agent: %t", id, in, m != nil)
		}
		if m != nil && m.State != Reserved && m.State != Ringing {
			return broken(4, "entry %s waits while agent %q is %s with it", id, m.ID, m.State)
		}
	}
	return nil
}

// validAgents checks 3, 5, 6 and 9.
func (c *Center) validAgents() error {
	serving, ends, available := 0, 0, 0
	sums := make([]team, len(c.teams))
	for _, id := range slices.Sorted(maps.Keys(c.agents)) {
		m := c.agents[id]
		if m.State.withCall() != (m.Interaction != "") {
			return broken(3, "agent %q is %s with interaction %q", id, m.State, m.Interaction)
		}
		if m.Interaction != "" {
			serving++
			if c.serving[m.Interaction] != m {
				return broken(3, "agent %q is not the one who has %s", id, m.Interaction)
			}
		}
		if m.team == nil || c.teams[m.team.number] != m.team {
			return broken(5, "agent %q is in no team", id)
		}
		_, _, idle := find(&m.team.idle, m.idlePlace())
		_, _, turn := find(&m.team.turns, m.turnPlace())
		if idle != m.available() || turn != m.available() {
			return broken(5, "agent %q is available: %t, is listed: %t and %t", id, m.available(), idle, turn)
		}
		if m.available() {
			available++
		}
		if _, _, in := find(&c.ends, m.endPlace()); (m.State == WrapUp) != (m.WrapUpUntil != 0) || in != (m.State == WrapUp) {
			return broken(6, "agent %q is %s until %s, is listed: %t", id, m.State, m.WrapUpUntil, in)
		}
		if m.State == WrapUp {
			ends++
		}
		sum := member{Agent: m.Agent, team: &sums[m.team.number]}
		sum.tally(1)
		sum.team.members++
	}
	for _, t := range c.teams {
		if t == nil {
			continue
		}
		if available -= t.idle.n; t.idle.n != t.turns.n {
			return broken(5, "team %d lists %d agents by idle clock and %d by last offer", t.number, t.idle.n, t.turns.n)
		}
		s := sums[t.number]
		if s.ready != t.ready || s.busy != t.busy || s.notReady != t.notReady || s.staffed != t.staffed || s.members != t.members || t.members == 0 {
			return broken(9, "team %d counts %d+%d+%d of %d, has %d+%d+%d of %d", t.number, t.ready, t.busy, t.notReady, t.members, s.ready, s.busy, s.notReady, s.members)
		}
	}
	switch {
	case serving != len(c.serving):
		return broken(3, "%d agents have an interaction, %d are listed", serving, len(c.serving))
	case ends != c.ends.n || ends > 0 && c.Deadline() == core.Never:
		return broken(6, "%d agents are in wrap-up, %d are listed", ends, c.ends.n)
	case available != 0:
		return broken(5, "%d more agents are available than listed", available)
	}
	return nil
}

// validGroups checks 7.
func (c *Center) validGroups() error {
	for _, t := range c.teams {
		for _, l := range c.lines {
			if t == nil || l == nil {
				continue
			}
			_, lists := slices.BinarySearch(t.queues, l.queue.ID)
			fits := lists && covers(t.skills, l.need)
			if t.fits.has(l.number) != fits || l.fits.has(t.number) != fits {
				return broken(7, "team %d fits line %d: %t, noted: %t and %t", t.number, l.number, fits, t.fits.has(l.number), l.fits.has(t.number))
			}
		}
	}
	return nil
}

// validOrders checks 8.
func (c *Center) validOrders() error {
	filledLines, filledTeams, turns := 0, 0, 0
	for n, l := range c.lines {
		if l == nil {
			if c.heads.filled.has(n) {
				return broken(8, "line %d is gone and still shown", n)
			}
			continue
		}
		if err := l.waiting.valid(); err != nil {
			return broken(8, "line %d: %v", n, err)
		}
		if err := shows(&c.heads, n, &l.waiting, &filledLines); err != nil {
			return err
		}
	}
	for n, t := range c.teams {
		if t == nil {
			if c.idle.filled.has(n) || c.turns.filled.has(n) {
				return broken(8, "team %d is gone and still shown", n)
			}
			continue
		}
		if err := t.idle.valid(); err != nil {
			return broken(8, "team %d: %v", n, err)
		}
		if err := t.turns.valid(); err != nil {
			return broken(8, "team %d: %v", n, err)
		}
		if err := shows(&c.idle, n, &t.idle, &filledTeams); err != nil {
			return err
		}
		if err := shows(&c.turns, n, &t.turns, &turns); err != nil {
			return err
		}
	}
	if filledLines != c.heads.heads.n || filledTeams != c.idle.heads.n || turns != c.turns.heads.n {
		return broken(8, "a board shows what is empty")
	}
	for _, id := range slices.Sorted(maps.Keys(c.queues)) {
		if err := c.queues[id].arrived.valid(); err != nil {
			return broken(8, "queue %q: %v", id, err)
		}
	}
	for _, o := range []*order[int]{&c.heads.heads, &c.idle.heads, &c.turns.heads} {
		if err := o.valid(); err != nil {
			return broken(8, "board: %v", err)
		}
	}
	if err := c.ends.valid(); err != nil {
		return broken(8, "wrap-ups: %v", err)
	}
	return nil
}

// shows checks that a board shows the first element of a collection, and counts it.
func shows[V any](b *board, number int, o *order[V], filled *int) error {
	if b.filled.has(number) != (o.n > 0) {
		return broken(8, "collection %d has %d elements, shown: %t", number, o.n, b.filled.has(number))
	}
	if o.n == 0 {
		return nil
	}
	*filled++
	if _, _, in := find(&b.heads, o.first().place); !in || b.places[number] != o.first().place {
		return broken(8, "collection %d begins with %v, shown: %v", number, o.first().place, b.places[number])
	}
	return nil
}

// validMatch checks 10: what fits is either taken or due to be tried by the next Match.
func (c *Center) validMatch() error {
	for _, l := range c.lines {
		for _, t := range c.teams {
			if l == nil || t == nil || l.fresh || t.fresh || l.waiting.n == 0 || t.idle.n == 0 {
				continue
			}
			if l.fits.has(t.number) {
				return broken(10, "entry %s waits while agent %q fits", l.waiting.first().value.ID, t.idle.first().value.ID)
			}
		}
	}
	return nil
}

// find is order.find for an order that may be empty.
func find[V any](o *order[V], p place) (block, index int, found bool) {
	if o.n == 0 {
		return 0, 0, false
	}
	return o.find(p)
}
