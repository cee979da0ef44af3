package httpapi

import (
	"maps"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// model stands in for the loop and the core: one goroutine, an inbox, tables. Its details of
// 404s name the id on purpose: the edge must not let them through.
type model struct {
	inbox    chan any // core.Commanded, or func() to be run in between
	answer   func(core.Effect)
	operator core.KeyHash
	keys     map[core.KeyHash]core.TenantID
	tenants  map[core.TenantID]*center
	deaf     bool // takes commands and does not answer them
	unheard  []core.Commanded
	ending   bool // every live interaction is being ended already
}

type center struct {
	conf    tenant.Tenant
	queues  map[string]tenant.Queue
	agents  map[string]tenant.Agent
	numbers map[string]tenant.Number
	status  map[string]command.SetStatus
	live    map[string]command.Interaction
}

func newModel(operator string) *model {
	return &model{inbox: make(chan any, 64), operator: core.HashKey(operator),
		keys: map[core.KeyHash]core.TenantID{}, tenants: map[core.TenantID]*center{}}
}

func (m *model) run() {
	for in := range m.inbox {
		switch in := in.(type) {
		case func():
			in()
		case core.Commanded:
			if m.deaf {
				m.unheard = append(m.unheard, in)
				continue
			}
			m.carryOut(in)
		}
	}
}

func (m *model) carryOut(c core.Commanded) {
	value, p := m.command(c)
	m.answer(core.Reply{Token: c.Token, Value: value, Problem: p})
}

// between runs f in the model's goroutine and waits for it.
func (m *model) between(f func()) {
	done := make(chan struct{})
	m.inbox <- func() { f(); close(done) }
	<-done
}

func (m *model) submit(e core.Event) bool {
	select {
	case m.inbox <- e:
		return true
	default:
		return false
	}
}

func no(kind core.ProblemKind, detail string) *core.Problem {
	return &core.Problem{Kind: kind, Detail: detail}
}

func wrong(fields []core.FieldError) *core.Problem {
	return &core.Problem{Kind: core.Invalid, Detail: "not valid", Fields: fields}
}

func (m *model) command(c core.Commanded) (any, *core.Problem) {
	of, known := m.keys[c.Key]
	operator := c.Key == m.operator
	if operator {
		of = c.Tenant
	}
	if !operator && !known {
		return nil, no(core.Unauthorized, "unknown key")
	}
	t := m.tenants[of]
	switch do := c.Do.(type) {
	case command.WhoAmI:
		if operator && of != "" && t == nil {
			return nil, no(core.NotFound, "no tenant "+string(of))
		}
		return command.Identity{Operator: operator, Tenant: of}, nil
	case command.CreateTenant, command.ChangeTenant, command.GetTenant, command.DeleteTenant, command.ListTenants:
		if !operator {
			return nil, no(core.NotFound, "not for you")
		}
		return m.operate(do)
	}
	switch {
	case t != nil:
		if h, hangUp := c.Do.(command.HangUp); hangUp && m.ending {
			return nil, no(core.NotFound, string(h.ID)+" is ending")
		}
		return t.command(c.Do)
	case c.Tenant == "":
		return nil, no(core.Invalid, "send the header Dialtone-Tenant")
	}
	return nil, no(core.NotFound, "no tenant "+string(c.Tenant))
}

func (m *model) operate(do any) (any, *core.Problem) {
	switch c := do.(type) {
	case command.CreateTenant:
		if f := c.Tenant.Valid(); f != nil {
			return nil, wrong(f)
		}
		for id, t := range m.tenants {
			if id == c.Tenant.ID || t.conf.Domain == c.Tenant.Domain {
				return nil, no(core.Exists, "taken")
			}
		}
		c.Tenant.Keys = []core.KeyHash{c.Key}
		m.keys[c.Key] = c.Tenant.ID
		m.tenants[c.Tenant.ID] = &center{conf: c.Tenant, queues: map[string]tenant.Queue{}, agents: map[string]tenant.Agent{},
			numbers: map[string]tenant.Number{}, status: map[string]command.SetStatus{}, live: map[string]command.Interaction{}}
		return c.Tenant, nil
	case command.ChangeTenant:
		t := m.tenants[c.ID]
		if t == nil {
			return nil, no(core.NotFound, "no "+string(c.ID))
		}
		next := t.conf
		if c.Domain != nil {
			next.Domain = *c.Domain
		}
		if c.Name != nil {
			next.Name = *c.Name
		}
		if c.Limits != nil {
			next.Limits = *c.Limits
		}
		if f := next.Valid(); f != nil {
			return nil, wrong(f)
		}
		t.conf = next
		return next, nil
	case command.GetTenant:
		if t := m.tenants[c.ID]; t != nil {
			return t.conf, nil
		}
		return nil, no(core.NotFound, "no "+string(c.ID))
	case command.DeleteTenant:
		t := m.tenants[c.ID]
		if t == nil {
			return nil, no(core.NotFound, "no "+string(c.ID))
		}
		if len(t.live) > 0 {
			return nil, no(core.InUse, "it has live interactions")
		}
		delete(m.tenants, c.ID)
		maps.DeleteFunc(m.keys, func(_ core.KeyHash, of core.TenantID) bool { return of == c.ID })
		return nil, nil
	}
	all := map[string]tenant.Tenant{}
	for id, t := range m.tenants {
		all[string(id)] = t.conf
	}
	return cut(all, do.(command.ListTenants).Range, asIs[tenant.Tenant]), nil
}

func cut[T, S any](table map[string]T, r command.Range, show func(T) S) command.Page[S] {
	var p command.Page[S] // nil Data on purpose: it must reach the client as []
	for _, id := range slices.Sorted(maps.Keys(table)) {
		if id <= r.After {
			continue
		}
		if len(p.Data) == r.Limit {
			p.More = true
			break
		}
		p.Data = append(p.Data, show(table[id]))
	}
	return p
}

func lookup[T any](table map[string]T, id string, show func(T) any) (any, *core.Problem) {
	if v, found := table[id]; found {
		return show(v), nil
	}
	return nil, no(core.NotFound, "there is no "+id)
}

func keep[T, S any](table map[string]T, id string, v T, fields []core.FieldError, show func(T) S) (any, *core.Problem) {
	if fields != nil {
		return nil, wrong(fields)
	}
	_, old := table[id]
	table[id] = v
	return command.Put[S]{Value: show(v), Created: !old}, nil
}

func remove[T any](table map[string]T, id string) (any, *core.Problem) {
	if _, found := table[id]; !found {
		return nil, no(core.NotFound, "there is no "+id)
	}
	delete(table, id)
	return nil, nil
}

func (t *center) command(do any) (any, *core.Problem) {
	switch c := do.(type) {
	case command.PutQueue:
		return keep(t.queues, string(c.Queue.ID), c.Queue, c.Queue.Valid(), asIs[tenant.Queue])
	case command.PutAgent:
		return keep(t.agents, string(c.Agent.ID), c.Agent, c.Agent.Valid(), t.view)
	case command.PutNumber:
		return keep(t.numbers, c.Number.Number, c.Number, c.Number.Valid(), asIs[tenant.Number])
	case command.GetQueue:
		return lookup(t.queues, string(c.ID), func(q tenant.Queue) any { return q })
	case command.GetAgent:
		return lookup(t.agents, string(c.ID), func(a tenant.Agent) any { return t.view(a) })
	case command.GetNumber:
		return lookup(t.numbers, c.Number, func(n tenant.Number) any { return n })
	case command.DeleteQueue:
		for _, n := range t.numbers {
			if n.Queue == c.ID {
				return nil, no(core.InUse, "the number "+n.Number+" leads to it")
			}
		}
		return remove(t.queues, string(c.ID))
	case command.DeleteAgent:
		return remove(t.agents, string(c.ID))
	case command.DeleteNumber:
		return remove(t.numbers, c.Number)
	case command.ListQueues:
		return cut(t.queues, c.Range, asIs[tenant.Queue]), nil
	case command.ListAgents:
		return cut(t.agents, c.Range, t.view), nil
	case command.ListNumbers:
		return cut(t.numbers, c.Range, asIs[tenant.Number]), nil
	default:
		return t.center(do)
	}
}

func (t *center) center(do any) (any, *core.Problem) {
	switch c := do.(type) {
	case command.SetStatus:
		if len(c.Reason) > 64 {
			return nil, wrong([]core.FieldError{{Pointer: "/reason", Detail: "too long"}})
		}
		if _, found := t.agents[string(c.Agent)]; found {
			t.status[string(c.Agent)] = c
		}
		return lookup(t.agents, string(c.Agent), func(a tenant.Agent) any { return t.view(a) })
	case command.GetRealtime:
		return lookup(t.queues, string(c.Queue), func(q tenant.Queue) any {
			return command.Realtime{Queue: q.ID, ServiceLevelRule: "a / b", ServiceLevelTarget: q.ServiceLevelS}
		})
	case command.ListLive:
		return cut(t.live, c.Range, asIs[command.Interaction]), nil
	case command.GetInteraction:
		return lookup(t.live, string(c.ID), func(i command.Interaction) any { return i })
	case command.HangUp:
		v, p := lookup(t.live, string(c.ID), func(i command.Interaction) any { return i })
		delete(t.live, string(c.ID))
		return v, p
	}
	panic("no such command")
}

func (t *center) view(a tenant.Agent) command.AgentView {
	s := t.status[string(a.ID)]
	return command.AgentView{Agent: a, Status: or(s.Status, acd.LoggedOut), Reason: s.Reason, State: acd.Idle}
}

// records is a History in memory.
type records struct {
	err error
	all []core.CDR // ids rising
}

func record(t core.TenantID, id string) core.CDR {
	return core.CDR{ID: core.InteractionID(id), Tenant: t, Node: "node-1", Media: "voice", Caller: "+4930123", Called: "5000",
		Queue: "support", ArrivedAt: 1_700_000_000_000_000_000, EndedAt: 1_700_000_060_000_000_000,
		Termination: core.Termination{Result: core.Abandoned, Reason: core.CallerHangup, HungUpBy: core.Caller, Q850: 16}}
}

func (r *records) of(t core.TenantID, f HistoryFilter) []core.CDR {
	var found []core.CDR
	for _, c := range slices.Backward(r.all) { // the latest first
		if c.Tenant == t && (f.Queue == "" || c.Queue == f.Queue) && (f.Agent == "" || c.Agent == f.Agent) &&
			(f.After == "" || c.ID < f.After) &&
			(f.From == 0 || c.EndedAt >= f.From) && (f.To == 0 || c.EndedAt < f.To) {
			found = append(found, c)
		}
	}
	return found
}
