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
	"github.com/dialtone-cc/dialtone/server/core/limit"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// tenancy is one tenant at work: its configuration, its desk, its registrations.
type tenancy struct {
	conf     tenant.Tenant
	queues   map[core.QueueID]tenant.Queue
	agents   map[core.AgentID]tenant.Agent
	numbers  map[string]tenant.Number
	bindings map[core.AgentID]registrar.Set
	desk     *acd.Center
	calls    int // live
	tags     map[core.InteractionID][]string
	saved    map[core.AgentID]agentRecord // as last written
	shown    map[core.AgentID]acd.State   // as counted in the gauges
	tallies  map[core.QueueID]*tally
	arrivals *limit.Table[core.TenantID]
	matching bool
	portAt   core.Time // the desk gives out nothing before: no media port was free

	// What other nodes hold.
	bound     map[core.AgentID]map[core.NodeID]registrar.Set // by the node that took the REGISTER
	others    map[core.InteractionID]*call.Call              // calls that they anchor
	offers    map[core.InteractionID]offerRecord
	committed map[string][]byte                   // records that the desk's owner writes, as last seen
	posted    map[core.InteractionID]postedRecord // their CDRs on the way
}

func newTenancy(conf tenant.Tenant) *tenancy {
	t := &tenancy{
		queues: map[core.QueueID]tenant.Queue{}, agents: map[core.AgentID]tenant.Agent{},
		numbers: map[string]tenant.Number{}, bindings: map[core.AgentID]registrar.Set{},
		desk: acd.New(), tags: map[core.InteractionID][]string{}, saved: map[core.AgentID]agentRecord{},
		shown: map[core.AgentID]acd.State{}, tallies: map[core.QueueID]*tally{},
		bound: map[core.AgentID]map[core.NodeID]registrar.Set{}, others: map[core.InteractionID]*call.Call{},
		offers: map[core.InteractionID]offerRecord{}, committed: map[string][]byte{}, posted: map[core.InteractionID]postedRecord{},
	}
	t.configure(conf)
	return t
}

func (t *tenancy) configure(conf tenant.Tenant) {
	t.conf = conf
	rate := float64(conf.Limits.CallsPerSecond)
	t.arrivals = limit.New[core.TenantID](rate, rate, 1)
}

// agentRecord is what is written of an agent beside its configuration. What it does is
// not: that follows from the records of the calls, so no crash can leave an agent busy
// with a call that is gone.
type agentRecord struct {
	Status      acd.Status `json:"status"`
	Reason      string     `json:"reason,omitempty"`
	IdleSince   core.Time  `json:"idle_since,omitzero"`
	OfferedAt   core.Time  `json:"offered_at,omitzero"`
	WrapUpUntil core.Time  `json:"wrap_up_until,omitzero"`
}

func agentKey(id core.AgentID) string        { return "agents/" + string(id) }
func outboxKey(id core.InteractionID) string { return "outbox/" + string(id) }
func callKey(id core.InteractionID) string   { return "calls/" + string(id) }

func recordOf(a acd.Agent) agentRecord {
	r := agentRecord{Status: a.Status, Reason: a.Reason, IdleSince: a.IdleSince, OfferedAt: a.OfferedAt}
	if a.State == acd.WrapUp {
		r.WrapUpUntil = a.WrapUpUntil
	}
	return r
}

// changed returns those of the agents whose record is not as it was last written down,
// and takes note of the new one.
func (t *tenancy) changed(agents []core.AgentID) []core.AgentID {
	var all []core.AgentID
	for _, id := range agents {
		if a, ok := t.desk.Agent(id); ok && recordOf(a) != t.saved[id] {
			t.saved[id] = recordOf(a)
			all = append(all, id)
		}
	}
	return all
}

// agentOps writes the records of a line's agents as they are at this moment. An agent's
// record can go with several lines, so what waited in one must not undo what another wrote.
func (n *Node) agentOps(l *line) []core.Op {
	var ops []core.Op
	for _, id := range l.agents {
		var value []byte
		if t, ok := n.tenants[l.tenant]; ok {
			if r, ok := t.saved[id]; ok {
				value = encode(r)
			}
		}
		ops = append(ops, core.Op{Key: agentKey(id), Value: value})
	}
	l.agents = nil
	return ops
}

// tellAgents tells listeners what agents do now, and counts it.
func (n *Node) tellAgents(t *tenancy, agents []core.AgentID) []commit.Waiting {
	var waiting []commit.Waiting
	for _, id := range agents {
		a, ok := t.desk.Agent(id)
		if !ok {
			continue
		}
		n.show(t, id, shownAs(a))
		waiting = append(waiting, commit.Waiting{Urgent: true, Patience: linger, Effect: core.Publish{
			Tenant: t.conf.ID, Kind: "agent.state", Data: AgentNotice{Agent: id, Status: a.Status,
				Reason: a.Reason, State: a.State, Since: a.Since, Interaction: a.Interaction}}})
	}
	return waiting
}

// AgentNotice is what listeners are told of an agent.
type AgentNotice struct {
	Agent       core.AgentID       `json:"agent"`
	Status      acd.Status         `json:"status"`
	Reason      string             `json:"reason,omitempty"`
	State       acd.State          `json:"state"`
	Since       core.Time          `json:"state_since"`
	Interaction core.InteractionID `json:"interaction,omitempty"`
}

// shownAs is the word under which an agent is counted: what it does, or why it is away.
func shownAs(a acd.Agent) acd.State {
	if a.State == acd.Idle && a.Status != acd.Ready {
		return acd.State(a.Status)
	}
	return a.State
}

func (n *Node) show(t *tenancy, id core.AgentID, s acd.State) {
	if was, ok := t.shown[id]; ok {
		n.gauges.Agents[string(was)]--
	}
	if s == "" {
		delete(t.shown, id)
		return
	}
	t.shown[id] = s
	n.gauges.Agents[string(s)]++
}

// agentChanged writes, tells and matches after a change of an agent outside any call.
func (n *Node) agentChanged(now core.Time, t *tenancy, id core.AgentID, after []commit.Waiting, out []core.Effect) []core.Effect {
	changed := n.declaredBy(t, []core.AgentID{id})
	waiting := append(n.tellAgents(t, []core.AgentID{id}), after...)
	l := n.line(subject{t.conf.ID, agentKey(id)}, func() any { return t.record(id) })
	// Somebody who is told of a change must find it after a crash, also when it waits in the
	// line of a call: then it is written here once more.
	if len(changed)+len(after) > 0 {
		l.Touch(now)
	}
	out = l.Add(now, waiting, out)
	out = n.flush(now, l, out)
	n.deskTimer(t)
	return n.match(now, t, out)
}

// record is what is to be written of an agent; nil when there is none any more.
func (t *tenancy) record(id core.AgentID) any {
	if r, ok := t.saved[id]; ok {
		return r
	}
	return nil
}

func (n *Node) deskTimer(t *tenancy) {
	n.timers.set(timer{kind: deskTimer, tenant: t.conf.ID}, t.desk.Deadline())
}

// deskDue ends wrap-ups, each agent's own.
func (n *Node) deskDue(now core.Time, id core.TenantID, out []core.Effect) []core.Effect {
	t, ok := n.tenants[id]
	if !ok {
		return out
	}
	for _, agent := range t.desk.Expire(now) {
		out = n.agentChanged(now, t, agent, nil, out)
	}
	n.deskTimer(t)
	return n.match(now, t, out)
}

// valid checks that what the desk sees agents do is what the calls say.
func (t *tenancy) valid(n *Node) error {
	if err := t.desk.Valid(); err != nil {
		return fmt.Errorf("tenant %s: %w", t.conf.ID, err)
	}
	calls := 0
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		if n.calls[id].Tenant == t.conf.ID {
			calls++
		}
	}
	if calls != t.calls {
		return fmt.Errorf("tenant %s: counts %d live calls, has %d", t.conf.ID, t.calls, calls)
	}
	for _, id := range slices.Sorted(maps.Keys(t.agents)) {
		a, ok := t.desk.Agent(id)
		if !ok {
			return fmt.Errorf("agent %s is not at the desk", id)
		}
		busy := a.State != acd.Idle && a.State != acd.WrapUp
		if !busy {
			continue
		}
		c, ok := n.calls[a.Interaction]
		if t.others[a.Interaction] != nil {
			if t.standing(a.Interaction).Agent != id {
				return fmt.Errorf("agent %s is %s with %s of another node, whose record does not name it", id, a.State, a.Interaction)
			}
			continue
		}
		if !ok {
			return fmt.Errorf("agent %s is %s with %s, which is gone", id, a.State, a.Interaction)
		}
		named := c.Phase == call.Offering && c.Offer.Agent == id || c.Phase == call.Bridged && c.Agent.Agent == id
		if !named {
			return fmt.Errorf("agent %s is %s with %s, which is %s and does not name it", id, a.State, c.ID, c.Phase)
		}
	}
	return nil
}

// view is an agent as the API shows it.
func (t *tenancy) view(now core.Time, conf tenant.Agent) command.AgentView {
	a, _ := t.desk.Agent(conf.ID)
	conf.Password, conf.Credentials = "", nil
	return command.AgentView{Agent: conf, Status: a.Status, Reason: a.Reason, State: a.State,
		StateSince: a.Since, Interaction: a.Interaction, Registered: len(t.bindings[conf.ID].Live(now))}
}

// everything lists the keys of all records of a tenant without live calls, itself last.
func (t *tenancy) everything() []string {
	var keys []string
	for _, id := range slices.Sorted(maps.Keys(t.queues)) {
		keys = append(keys, queuePrefix+string(id))
	}
	for _, id := range slices.Sorted(maps.Keys(t.agents)) {
		keys = append(keys, agentPrefix+string(id), agentKey(id))
		for _, by := range slices.Sorted(maps.Keys(t.bound[id])) {
			keys = append(keys, bindingsKey(id, by))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(t.numbers)) {
		keys = append(keys, numberPrefix+id)
	}
	return append(keys, tenantKey)
}

// writes reports whether a write of the tenant is on its way.
func (n *Node) writes(id core.TenantID) bool {
	for _, token := range slices.Sorted(maps.Keys(n.inflight)) {
		if n.inflight[token].tenant == id {
			return true
		}
	}
	return false
}

func (n *Node) dropTenant(t *tenancy) {
	for _, id := range slices.Sorted(maps.Keys(t.agents)) {
		n.show(t, id, "")
		n.gauges.Bindings -= len(t.bindings[id])
		n.timers.set(timer{bindingTimer, t.conf.ID, string(id)}, core.Never)
	}
	n.timers.set(timer{kind: deskTimer, tenant: t.conf.ID}, core.Never)
	n.timers.set(timer{kind: portTimer, tenant: t.conf.ID}, core.Never)
	delete(n.domains, t.conf.Domain)
	for _, k := range t.conf.Keys {
		delete(n.keys, k)
	}
	delete(n.tenants, t.conf.ID)
}
