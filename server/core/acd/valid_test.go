package acd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// crowded returns a center with an entry that waits (w), one that is offered (o) to an agent,
// one that talks (t), an agent in wrap-up, one that is free and one that is away.
func crowded(t *testing.T) *Center {
	t.Helper()
	c := New()
	c.PutQueue(tenant.Queue{ID: "q", MaxWaiting: 9, AgeingS: 60})
	c.PutQueue(tenant.Queue{ID: "r", MaxWaiting: 9})
	for _, id := range []core.AgentID{"offered", "talking", "wrapping", "free", "away"} {
		a := tenant.Agent{ID: id, Queues: []core.QueueID{"q"}}
		if id == "free" || id == "away" {
			a.Queues[0] = "r"
		}
		c.PutAgent(a)
		c.SetReachable(1, id, true)
		c.SetStatus(1, id, Ready, "")
	}
	c.SetStatus(1, "away", NotReady, "lunch")
	for i, id := range []core.InteractionID{"o", "t", "x", "w"} {
		if err := c.Enqueue(2, Entry{ID: id, Queue: "q", ArrivedAt: core.Time(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	c.Match(3)
	for _, id := range []core.AgentID{"talking", "wrapping"} {
		if err := c.Progress(4, id, Talking); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Release(5, "wrapping", Done, 10); err != nil {
		t.Fatal(err)
	}
	if err := c.Valid(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Valid refuses each state that an invariant forbids, and names the invariant.
func TestValidRefuses(t *testing.T) {
	for i, corrupt := range []struct {
		invariant int
		by        func(c *Center)
	}{
		{1, func(c *Center) { delete(c.queues, "q") }},
		{1, func(c *Center) { c.queues["q"].arrived.remove(c.entries["w"].arrival()) }},
		{1, func(c *Center) { c.entries["w"].line = c.lineFor(c.queues["r"], nil) }},
		{1, func(c *Center) { c.entries["w"].place.at++ }},
		{1, func(c *Center) { c.queues["q"].Skills = map[string]int{"de": 1} }},
		{2, func(c *Center) { c.unofferable(c.entries["w"]) }},
		{2, func(c *Center) { delete(c.serving, "o") }},
		{4, func(c *Center) { c.agents["offered"].State = Talking }},
		{3, func(c *Center) { c.agents["talking"].Interaction = "" }},
		{3, func(c *Center) { c.agents["free"].Interaction = "i" }},
		{3, func(c *Center) { c.agents["away"].State, c.agents["away"].Interaction = Ringing, "o" }},
		{3, func(c *Center) { c.serving["nobody"] = c.agents["free"] }},
		{5, func(c *Center) { c.agents["free"].Status = NotReady }},
		{5, func(c *Center) { c.agents["free"].Reachable = false }},
		{5, func(c *Center) { c.agents["away"].Status = Ready }},
		{5, func(c *Center) { c.agents["free"].IdleSince++ }},
		{5, func(c *Center) { c.agents["free"].team.turns = order[*member]{} }},
		{6, func(c *Center) { c.ends = order[*member]{} }},
		{6, func(c *Center) { c.agents["wrapping"].WrapUpUntil++ }},
		{6, func(c *Center) { c.agents["wrapping"].WrapUpUntil = 0 }},
		{6, func(c *Center) { c.agents["away"].WrapUpUntil = 7 }},
		{6, func(c *Center) { c.ends.insert(place{at: 1, id: "free"}, c.agents["free"]) }},
		{7, func(c *Center) { c.agents["free"].team.fits.add(c.entries["w"].line.number) }},
		{7, func(c *Center) { c.entries["w"].line.fits.drop(c.agents["offered"].team.number) }},
		{8, func(c *Center) { c.heads = board{} }},
		{8, func(c *Center) { c.idle.places[c.agents["free"].team.number].at++ }},
		{8, func(c *Center) { c.turns.filled.add(c.agents["offered"].team.number) }},
		{8, func(c *Center) { c.idle.heads.insert(place{at: 99}, 0) }},
		{9, func(c *Center) { c.agents["free"].team.ready++ }},
		{9, func(c *Center) { c.agents["free"].team.staffed-- }},
		{9, func(c *Center) { c.agents["free"].team.members++ }},
		{10, func(c *Center) {
			c.freshTeams, c.agents["offered"].team.fresh = nil, true
			c.Expire(15)
			c.agents["offered"].team.fresh = false
		}},
	} {
		c := crowded(t)
		corrupt.by(c)
		err := c.Valid()
		if want := fmt.Sprintf("invariant %d:", corrupt.invariant); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("corruption %d: %v, want %s", i, err, want)
		}
	}
}
