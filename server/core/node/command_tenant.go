package node

import (
	"fmt"
	"maps"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/commit"
	"github.com/dialtone-cc/dialtone/server/core/digest"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// What one tenant may configure: its configuration is in every node's memory and in etcd.
const (
	maxQueues  = 5_000
	maxAgents  = 20_000
	maxNumbers = 20_000
)

func tooMany(what string, most int) *core.Problem {
	return &core.Problem{Kind: core.Limited, Detail: fmt.Sprintf("a tenant has at most %d %s: delete some first", most, what)}
}

// doTenant carries out a command inside one tenant.
func (n *Node) doTenant(a *asked) {
	t := a.tenant
	switch c := a.Do.(type) {
	case command.PutQueue:
		n.putQueue(a, t, c.Queue)
	case command.PutAgent:
		n.putAgent(a, t, c.Agent)
	case command.PutNumber:
		n.putNumber(a, t, c.Number)
	case command.GetQueue:
		get(a, t.queues, c.ID, func(q tenant.Queue) any { return q })
	case command.GetAgent:
		get(a, t.agents, c.ID, func(g tenant.Agent) any { return t.view(a.now, g) })
	case command.GetNumber:
		get(a, t.numbers, c.Number, func(m tenant.Number) any { return m })
	case command.DeleteQueue:
		n.deleteQueue(a, t, c.ID)
	case command.DeleteAgent:
		n.deleteAgent(a, t, c.ID)
	case command.DeleteNumber:
		n.deleteNumber(a, t, c.Number)
	case command.ListQueues:
		a.answer(page(t.queues, c.Range, func(q tenant.Queue) tenant.Queue { return q }), nil)
	case command.ListAgents:
		a.answer(page(t.agents, c.Range, func(g tenant.Agent) command.AgentView { return t.view(a.now, g) }), nil)
	case command.ListNumbers:
		a.answer(page(t.numbers, c.Range, func(m tenant.Number) tenant.Number { return m }), nil)
	case command.SetStatus:
		n.setStatus(a, t, c)
	case command.GetRealtime:
		get(a, t.queues, c.Queue, func(q tenant.Queue) any { return t.realtime(a.now, q.ID) })
	case command.ListLive:
		a.answer(n.listLive(t, c.Range), nil)
	case command.GetInteraction:
		n.getInteraction(a, t, c.ID)
	case command.HangUp:
		n.hangUp(a, t, c.ID)
	default:
		a.answer(nil, absent())
	}
}

// get answers one value of a table, or that there is none.
func get[K comparable, V any](a *asked, table map[K]V, id K, show func(V) any) {
	v, ok := table[id]
	if !ok {
		a.answer(nil, absent())
		return
	}
	a.answer(show(v), nil)
}

// page cuts a window out of a table, ordered by id.
func page[K ~string, V, S any](table map[K]V, r command.Range, show func(V) S) command.Page[S] {
	p := command.Page[S]{Data: []S{}}
	for _, id := range slices.Sorted(maps.Keys(table)) {
		if string(id) <= r.After {
			continue
		}
		if len(p.Data) >= max(r.Limit, 1) {
			p.More = true
			break
		}
		p.Data = append(p.Data, show(table[id]))
	}
	return p
}

func (n *Node) putQueue(a *asked, t *tenancy, q tenant.Queue) {
	if fields := q.Valid(); len(fields) > 0 {
		a.answer(nil, invalid(fields))
		return
	}
	if o := q.Overflow; o != nil && o.Queue != "" {
		if _, ok := t.queues[o.Queue]; !ok {
			a.answer(nil, invalid([]core.FieldError{{Pointer: "/overflow/queue", Detail: "must be the id of a queue that exists"}}))
			return
		}
	}
	_, exists := t.queues[q.ID]
	if !exists && len(t.queues) >= maxQueues {
		a.answer(nil, tooMany("queues", maxQueues))
		return
	}
	n.addQueue(t, q)
	a.out = n.write(a.now, subject{t.conf.ID, queuePrefix + string(q.ID)}, q, a.after(command.Put[tenant.Queue]{Value: q, Created: !exists}), a.out)
	a.out = n.match(a.now, t, a.out)
}

func (n *Node) putAgent(a *asked, t *tenancy, g tenant.Agent) {
	old, exists := t.agents[g.ID]
	fields := g.Valid()
	for _, q := range g.Queues {
		if _, ok := t.queues[q]; !ok {
			fields = append(fields, core.FieldError{Pointer: "/queues", Detail: "each must be the id of a queue that exists"})
			break
		}
	}
	if len(fields) > 0 {
		a.answer(nil, invalid(fields))
		return
	}
	if !exists && len(t.agents) >= maxAgents {
		a.answer(nil, tooMany("agents", maxAgents))
		return
	}
	g.Credentials = old.Credentials
	if g.Password != "" {
		g.Credentials = digest.Credentials(string(g.ID), t.conf.Domain, g.Password)
		g.Password = ""
	}
	n.addAgent(t, g)
	value := command.Put[command.AgentView]{Value: t.view(a.now, g), Created: !exists}
	a.out = n.write(a.now, subject{t.conf.ID, agentPrefix + string(g.ID)}, stored(g), a.after(value), a.out)
	a.out = n.match(a.now, t, a.out)
}

func (n *Node) putNumber(a *asked, t *tenancy, m tenant.Number) {
	fields := m.Valid()
	if _, ok := t.queues[m.Queue]; !ok {
		fields = append(fields, core.FieldError{Pointer: "/queue", Detail: "must be the id of a queue that exists"})
	}
	if len(fields) > 0 {
		a.answer(nil, invalid(fields))
		return
	}
	_, exists := t.numbers[m.Number]
	if !exists && len(t.numbers) >= maxNumbers {
		a.answer(nil, tooMany("numbers", maxNumbers))
		return
	}
	t.numbers[m.Number] = m
	a.out = n.write(a.now, subject{t.conf.ID, numberPrefix + m.Number}, m, a.after(command.Put[tenant.Number]{Value: m, Created: !exists}), a.out)
}

func (n *Node) deleteQueue(a *asked, t *tenancy, id core.QueueID) {
	if _, ok := t.queues[id]; !ok {
		a.answer(nil, absent())
		return
	}
	if n.queueUsed(t, id) {
		a.answer(nil, &core.Problem{Kind: core.InUse, Detail: "a number, an agent, another queue's overflow or a live interaction names this queue"})
		return
	}
	delete(t.queues, id)
	delete(t.tallies, id)
	t.desk.DropQueue(id)
	a.out = n.remove(a.now, subject{t.conf.ID, queuePrefix + string(id)}, a.after(nil), a.out)
}

func (n *Node) queueUsed(t *tenancy, id core.QueueID) bool {
	for _, number := range slices.Sorted(maps.Keys(t.numbers)) {
		if t.numbers[number].Queue == id {
			return true
		}
	}
	for _, agent := range slices.Sorted(maps.Keys(t.agents)) {
		if slices.Contains(t.agents[agent].Queues, id) {
			return true
		}
	}
	for _, other := range slices.Sorted(maps.Keys(t.queues)) {
		if o := t.queues[other].Overflow; o != nil && o.Queue == id {
			return true
		}
	}
	for _, c := range slices.Sorted(maps.Keys(t.tags)) {
		if n.calls[c].Queue == id {
			return true
		}
	}
	return false
}

func (n *Node) deleteAgent(a *asked, t *tenancy, id core.AgentID) {
	if _, ok := t.agents[id]; !ok {
		a.answer(nil, absent())
		return
	}
	if at, _ := t.desk.Agent(id); at.State != acd.Idle && at.State != acd.WrapUp {
		a.answer(nil, &core.Problem{Kind: core.InUse, Detail: "the agent is in an interaction: hang it up first"})
		return
	}
	bound := slices.Sorted(maps.Keys(t.bound[id]))
	n.dropAgent(t, id)
	// The status and the bindings go through lines of their own, so that a write of theirs
	// that is still on its way cannot outlive this one.
	a.out = n.remove(a.now, subject{t.conf.ID, agentKey(id)}, nil, a.out)
	for _, by := range bound {
		a.out = n.remove(a.now, subject{t.conf.ID, bindingsKey(id, by)}, nil, a.out)
	}
	a.out = n.remove(a.now, subject{t.conf.ID, agentPrefix + string(id)}, a.after(nil), a.out)
	n.deskTimer(t)
}

// dropAgent forgets an agent.
func (n *Node) dropAgent(t *tenancy, id core.AgentID) {
	n.show(t, id, "")
	n.gauges.Bindings -= len(t.bindings[id])
	n.timers.set(timer{bindingTimer, t.conf.ID, string(id)}, core.Never)
	t.desk.DropAgent(id)
	delete(t.agents, id)
	delete(t.bindings, id)
	delete(t.bound, id)
	delete(t.saved, id)
}

func (n *Node) deleteNumber(a *asked, t *tenancy, number string) {
	if _, ok := t.numbers[number]; !ok {
		a.answer(nil, absent())
		return
	}
	delete(t.numbers, number)
	a.out = n.remove(a.now, subject{t.conf.ID, numberPrefix + number}, a.after(nil), a.out)
}

func (n *Node) setStatus(a *asked, t *tenancy, c command.SetStatus) {
	conf, ok := t.agents[c.Agent]
	if !ok {
		a.answer(nil, absent())
		return
	}
	switch {
	case c.Status != acd.Ready && c.Status != acd.NotReady && c.Status != acd.LoggedOut:
		a.answer(nil, invalid([]core.FieldError{{Pointer: "/status", Detail: "must be ready, not_ready or logged_out"}}))
		return
	case len(c.Reason) > 64:
		a.answer(nil, invalid([]core.FieldError{{Pointer: "/reason", Detail: "must have at most 64 characters"}}))
		return
	}
	t.desk.SetStatus(a.now, c.Agent, c.Status, c.Reason)
	if c.Status != acd.Ready {
		a.out = n.withdrawOffer(a.now, t, c.Agent, a.out)
	}
	after := []commit.Waiting{{Effect: core.Reply{Token: a.Token, Value: t.view(a.now, conf)}}}
	a.out = n.agentChanged(a.now, t, c.Agent, after, a.out)
}

// interaction is a live call as the API shows it.
func interaction(c *call.Call) command.Interaction {
	i := command.Interaction{Phase: string(c.Phase), CDR: *c.CDR()}
	if c.Filed {
		i.Phase = string(call.Ended)
	}
	if i.Agent == "" && c.Offer != nil {
		i.Agent = c.Offer.Agent
	}
	return i
}

func (n *Node) listLive(t *tenancy, r command.Range) command.Page[command.Interaction] {
	live := make(map[core.InteractionID]*call.Call, len(t.tags))
	for _, id := range slices.Sorted(maps.Keys(t.tags)) {
		// One whose CDR is delivered is among the ended, even if a phone has not said good-bye.
		if c := n.calls[id]; !c.Filed || n.outbox[id] != nil {
			live[id] = c
		}
	}
	for _, id := range slices.Sorted(maps.Keys(t.others)) {
		if c := t.others[id]; !c.Filed {
			live[id] = c
		}
	}
	return page(live, r, interaction)
}

func (n *Node) getInteraction(a *asked, t *tenancy, id core.InteractionID) {
	c, ok := n.calls[id]
	if ok && (c.Tenant == t.conf.ID || n.cfg.Plant == "tenant-leak") {
		a.answer(interaction(c), nil)
		return
	}
	if o := t.others[id]; o != nil {
		a.answer(interaction(o), nil)
		return
	}
	// One that has ended is found here until the records store has it, so that there is no
	// moment at which it is nowhere.
	if p, ok := n.outbox[id]; ok && p.cdr.Tenant == t.conf.ID && n.cfg.Plant != "ended-nowhere" {
		a.answer(command.Interaction{Phase: string(call.Ended), CDR: *p.cdr}, nil)
		return
	}
	if p, ok := t.posted[id]; ok {
		a.answer(command.Interaction{Phase: string(call.Ended), CDR: p.CDR}, nil)
		return
	}
	a.answer(nil, absent())
}

func (n *Node) hangUp(a *asked, t *tenancy, id core.InteractionID) {
	c, ok := n.calls[id]
	if !ok || c.Tenant != t.conf.ID || c.Termination != nil {
		a.answer(nil, absent())
		return
	}
	a.out = n.withCall(a.now, id, a.out, func(c *call.Call, env *call.Env) {
		c.HangUp(env, core.APIHangup)
		env.Held = append(env.Held, commit.Waiting{Effect: core.Reply{Token: a.Token, Value: interaction(c)}, Urgent: true})
	})
}
