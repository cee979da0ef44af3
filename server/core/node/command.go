package node

import (
	"crypto/subtle"
	"maps"
	"net/netip"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/commit"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

func unavailable(why string) *core.Problem {
	return &core.Problem{Kind: core.Unavailable, Detail: why}
}

func absent() *core.Problem {
	return &core.Problem{Kind: core.NotFound, Detail: "there is no such resource"}
}

func invalid(fields []core.FieldError) *core.Problem {
	return &core.Problem{Kind: core.Invalid, Detail: "the request has members with values that are not allowed", Fields: fields}
}

// asked is one command on its way: who asks, and what becomes of it.
type asked struct {
	core.Commanded
	now      core.Time
	operator bool
	tenant   *tenancy // nil: none, or none that the key may see
	out      []core.Effect
}

// answer replies at once: nothing was written.
func (a *asked) answer(value any, problem *core.Problem) {
	a.out = append(a.out, core.Reply{Token: a.Token, Value: value, Problem: problem})
}

// after returns the reply as an effect that waits for a commit.
func (a *asked) after(value any) []commit.Waiting {
	return []commit.Waiting{{Effect: core.Reply{Token: a.Token, Value: value}}}
}

// command finds out whose key was shown and carries the command out. What belongs to
// another tenant is looked up in the asker's own tables, so it can only be absent.
func (n *Node) command(now core.Time, e core.Commanded, out []core.Effect) []core.Effect {
	a := &asked{Commanded: e, now: now, out: out}
	a.operator = n.cfg.Operator != "" && subtle.ConstantTimeCompare([]byte(e.Key), []byte(n.cfg.Operator)) == 1
	id, known := n.keys[e.Key]
	if a.operator {
		id = e.Tenant
	}
	a.tenant = n.tenants[id]
	switch {
	case !a.operator && !known:
		a.answer(nil, &core.Problem{Kind: core.Unauthorized, Detail: "the API key is missing or not valid"})
	case n.life == Restoring:
		a.answer(nil, unavailable("the node is starting; try again in a moment"))
	case n.passes(a):
	default:
		n.do(a)
	}
	return a.out
}

// passes hands a command on that another node is to decide: the owner of the tenant's shard
// whatever changes its configuration or an agent, the anchor what ends a call. What only
// looks is answered here: each node sees everything.
func (n *Node) passes(a *asked) bool {
	var by core.Member
	var known bool
	switch c := a.Do.(type) {
	case command.CreateTenant:
		by, known = n.decider(c.Tenant.ID)
	case command.ChangeTenant:
		by, known = n.decider(c.ID)
	case command.DeleteTenant:
		by, known = n.decider(c.ID)
	case command.PutQueue, command.PutAgent, command.PutNumber, command.DeleteQueue, command.DeleteAgent, command.DeleteNumber, command.SetStatus:
		if a.tenant == nil {
			return false
		}
		by, known = n.decider(a.tenant.conf.ID)
	case command.HangUp:
		if a.tenant == nil || a.tenant.others[c.ID] == nil {
			return false
		}
		o := a.tenant.others[c.ID]
		by, known = core.Member{ID: o.Node, Incarnation: o.Incarnation}, true
	default:
		return false
	}
	if known && by.ID == n.cfg.ID {
		return false
	}
	record, there := n.view.Node(by.ID)
	if !known || !there {
		a.answer(nil, unavailable("the node that decides for this tenant has gone; another takes its place at this moment: try again"))
		return true
	}
	a.out = append(a.out, core.Reply{Token: a.Token, Elsewhere: record.HTTP})
	return true
}

// decider is the owner of a tenant's shard.
func (n *Node) decider(id core.TenantID) (core.Member, bool) {
	if n.alone() {
		return n.self(), true
	}
	owner, _, ok := n.view.Owner(cluster.ShardOf(id))
	return owner, ok
}

// do sorts commands: the operator's, those that ask who is there, the tenant's own.
func (n *Node) do(a *asked) {
	switch c := a.Do.(type) {
	case command.WhoAmI:
		who := command.Identity{Operator: a.operator}
		if a.tenant != nil {
			who.Tenant = a.tenant.conf.ID
		} else if a.operator && a.Tenant != "" {
			a.answer(nil, absent())
			return
		}
		a.answer(who, nil)
		return
	case command.CreateTenant:
		n.operatorOnly(a, func() { n.createTenant(a, c) })
		return
	case command.ChangeTenant:
		n.operatorOnly(a, func() { n.changeTenant(a, c) })
		return
	case command.GetTenant:
		n.operatorOnly(a, func() { n.getTenant(a, c.ID) })
		return
	case command.DeleteTenant:
		n.operatorOnly(a, func() { n.deleteTenant(a, c.ID) })
		return
	case command.ListTenants:
		n.operatorOnly(a, func() {
			a.answer(page(n.tenants, c.Range, func(t *tenancy) tenant.Tenant { return shown(t.conf) }), nil)
		})
		return
	}
	switch {
	case a.tenant != nil:
		n.doTenant(a)
	case a.Tenant == "":
		a.answer(nil, &core.Problem{Kind: core.Invalid, Detail: "the operator's key names no tenant: send the header Dialtone-Tenant with a tenant's id"})
	default:
		a.answer(nil, absent())
	}
}

// operatorOnly hides the operator's resources from tenants as if they did not exist.
func (n *Node) operatorOnly(a *asked, f func()) {
	if !a.operator {
		a.answer(nil, absent())
		return
	}
	f()
}

// shown is a tenant without what nobody may read back.
func shown(t tenant.Tenant) tenant.Tenant {
	t.Keys = nil
	return t
}

func (n *Node) createTenant(a *asked, c command.CreateTenant) {
	conf := c.Tenant.WithDefaults() // a limit of zero means the default, not "nothing"
	conf.Keys = []core.KeyHash{c.Key}
	if fields := conf.Valid(); len(fields) > 0 {
		a.answer(nil, invalid(fields))
		return
	}
	_, sameID := n.tenants[conf.ID]
	_, sameDomain := n.domains[conf.Domain]
	if sameID && n.writes(conf.ID) || sameDomain && n.writes(n.domains[conf.Domain]) {
		a.answer(nil, unavailable("a tenant with this id or domain is being written down at this moment: try again")) // it may not survive
		return
	}
	if sameID || sameDomain {
		a.answer(nil, &core.Problem{Kind: core.Exists, Detail: "a tenant with this id or domain exists"})
		return
	}
	t := n.addTenant(conf)
	a.out = n.write(a.now, subject{conf.ID, tenantKey}, t.conf, a.after(shown(conf)), a.out)
}

func (n *Node) changeTenant(a *asked, c command.ChangeTenant) {
	t, ok := n.tenants[c.ID]
	if !ok {
		a.answer(nil, absent())
		return
	}
	conf := t.conf
	if c.Domain != nil {
		conf.Domain = *c.Domain
	}
	if c.Name != nil {
		conf.Name = *c.Name
	}
	if c.Limits != nil {
		conf.Limits = *c.Limits
		conf = conf.WithDefaults()
	}
	if c.Sources != nil {
		conf.Sources = nil
		for _, s := range *c.Sources {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				a.answer(nil, invalid([]core.FieldError{{Pointer: "/sources", Detail: "each must be an address range such as 192.0.2.0/24"}}))
				return
			}
			conf.Sources = append(conf.Sources, p)
		}
	}
	if fields := conf.Valid(); len(fields) > 0 {
		a.answer(nil, invalid(fields))
		return
	}
	if other, taken := n.domains[conf.Domain]; taken && other != c.ID {
		a.answer(nil, &core.Problem{Kind: core.Exists, Detail: "another tenant has this domain"})
		return
	}
	if conf.Domain != t.conf.Domain && len(t.agents) > 0 {
		a.answer(nil, &core.Problem{Kind: core.InUse, Detail: "agents' passwords are bound to the domain: delete the agents first, or make a new tenant"})
		return
	}
	n.addTenant(conf)
	a.out = n.write(a.now, subject{c.ID, tenantKey}, conf, a.after(shown(conf)), a.out)
}

func (n *Node) getTenant(a *asked, id core.TenantID) {
	t, ok := n.tenants[id]
	if !ok {
		a.answer(nil, absent())
		return
	}
	a.answer(shown(t.conf), nil)
}

// deleteTenant removes a tenant that has no live call, in this order:
//
//  1. Its finished interactions leave the records store: whoever gets its id later must not
//     find them.
//  2. Every record of it is deleted, its own last, so that a crash in between leaves a
//     tenant that can be deleted again.
func (n *Node) deleteTenant(a *asked, id core.TenantID) {
	t, ok := n.tenants[id]
	switch {
	case !ok:
		a.answer(nil, absent())
	case n.busy(t):
		a.answer(nil, busy())
	case n.leaving[id] != nil:
		a.answer(nil, &core.Problem{Kind: core.InUse, Detail: "the tenant is being deleted"})
	default:
		n.leaving[id] = a
		a.out = append(a.out, core.Purge{Tenant: id})
	}
}

func busy() *core.Problem {
	return &core.Problem{Kind: core.InUse, Detail: "the tenant has live interactions, or a change of it is being written: hang up, and try again"}
}

// busy reports whether something of the tenant is under way.
func (n *Node) busy(t *tenancy) bool {
	for _, id := range slices.Sorted(maps.Keys(n.outbox)) {
		if n.outbox[id].cdr.Tenant == t.conf.ID {
			return true
		}
	}
	return t.calls > 0 || n.writes(t.conf.ID)
}

// purged is the second step. Calls may have come meanwhile: then the tenant stays.
func (n *Node) purged(now core.Time, e core.Purged, out []core.Effect) []core.Effect {
	a, ok := n.leaving[e.Tenant]
	if !ok {
		return out
	}
	delete(n.leaving, e.Tenant)
	a.now, a.out = now, out
	t, ok := n.tenants[e.Tenant]
	switch {
	case !ok:
		a.answer(nil, absent())
		return a.out
	case e.Cause != "":
		a.answer(nil, unavailable("the tenant's finished interactions could not be deleted; try again"))
		return append(a.out, core.Log{Level: 8, Tenant: e.Tenant, Text: "finished interactions could not be deleted", Attrs: []any{"cause", e.Cause}})
	case n.busy(t):
		a.answer(nil, busy())
		return a.out
	}
	keys := t.everything()
	n.dropTenant(t)
	for i, key := range keys {
		var after []commit.Waiting
		if i == len(keys)-1 {
			after = a.after(nil)
		}
		a.out = n.remove(now, subject{e.Tenant, key}, after, a.out)
	}
	return a.out
}
