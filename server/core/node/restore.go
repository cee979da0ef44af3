package node

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// storedAgent is an agent's configuration as it is written down.
type storedAgent struct {
	tenant.Agent
	Credentials []tenant.Credential `json:"credentials,omitempty"`
}

func stored(a tenant.Agent) storedAgent {
	s := storedAgent{a, a.Credentials}
	s.Password = ""
	return s
}

const (
	tenantKey    = "config/tenant"
	queuePrefix  = "config/queues/"
	agentPrefix  = "config/agents/"
	numberPrefix = "config/numbers/"
)

// restore takes up what the store held. Configuration comes first, calls last, since they
// find their agents and queues there. A record that cannot be read is reported and left
// alone: it may be of a newer version.
func (n *Node) restore(now core.Time, e core.Restored, out []core.Effect) []core.Effect {
	if n.life != Restoring {
		return out
	}
	n.life, n.incarnation, n.born = Serving, e.Incarnation, e.Incarnation
	n.view = cluster.New(n.cfg.ID, n.incarnation)
	byTenant := map[core.TenantID][]core.Entry{}
	for _, e := range e.Entries {
		if e.Tenant != "" {
			byTenant[e.Tenant] = append(byTenant[e.Tenant], e)
			continue
		}
		if err := n.view.Take(core.Change{Key: e.Key, Value: e.Value, Revision: e.Revision}); err != nil {
			out = append(out, unreadable("", e.Key, err))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byTenant)) {
		all := byTenant[id]
		slices.SortFunc(all, func(a, b core.Entry) int {
			if c := rank(a.Key) - rank(b.Key); c != 0 {
				return c
			}
			return strings.Compare(a.Key, b.Key)
		})
		for _, e := range all {
			var err error
			if out, err = n.take(now, e, out); err != nil {
				out = append(out, unreadable(id, e.Key, err))
			}
		}
		if t, ok := n.tenants[id]; ok {
			n.deskTimer(t)
			out = n.match(now, t, out)
		}
	}
	return out
}

// rank is the order in which kinds of records are taken up.
func rank(key string) int {
	for i, p := range []string{tenantKey, queuePrefix, agentPrefix, numberPrefix, "bindings/", "agents/", "outbox/", "calls/", offerPrefix} {
		if strings.HasPrefix(key, p) {
			return i
		}
	}
	return 100
}

func (n *Node) take(now core.Time, e core.Entry, out []core.Effect) ([]core.Effect, error) {
	if e.Key == tenantKey {
		conf, err := decodeOf(e.Value, func(t tenant.Tenant) bool { return t.ID == e.Tenant })
		if err == nil {
			n.addTenant(conf)
		}
		return out, err
	}
	t, ok := n.tenants[e.Tenant]
	if !ok {
		return out, errNoTenant
	}
	kind, id, _ := strings.Cut(e.Key, "/")
	if kind == "config" || kind == "agents" {
		t.committed[e.Key] = e.Value
	}
	switch kind {
	case "config":
		return out, n.takeConfig(t, e)
	case "bindings":
		return n.takeBindings(now, t, id, e, out)
	case "agents":
		r, err := decode[agentRecord](e.Value)
		if err == nil {
			t.saved[core.AgentID(id)] = r
			n.takeAgent(now, t, core.AgentID(id), r)
		}
		return out, err
	case "outbox":
		p, err := decodeOf(e.Value, func(p postedRecord) bool { return p.Tenant == e.Tenant && string(p.ID) == id })
		if err == nil {
			n.view.Anchored(e.Tenant, e.Key, cluster.Process{ID: p.Node, Incarnation: p.Incarnation})
			t.posted[p.ID] = p
			out = n.redeliver(t, p.ID, out)
		}
		return out, err
	case "calls":
		c, err := call.Decode(e.Value)
		if err == nil {
			err = c.Valid()
		}
		if err == nil && (c.Tenant != e.Tenant || string(c.ID) != id) {
			err = errOtherKey
		}
		if err != nil {
			return out, err
		}
		n.view.Anchored(e.Tenant, e.Key, cluster.Process{ID: c.Node, Incarnation: c.Incarnation})
		if who, known := n.heir(c.Node, c.Incarnation, c.ID); !known || who != n.cfg.ID {
			t.others[c.ID] = c
			return n.follow(now, t, c.ID, call.Standing{}, c, out), nil
		}
		return n.takeCall(now, t, c, out), nil
	case "offers":
		o, err := decode[offerRecord](e.Value)
		if o.revision = e.Revision; err == nil {
			out = n.offered(now, t, core.InteractionID(id), &o, out)
		}
		return out, err
	}
	return out, nil
}

func (n *Node) takeBindings(now core.Time, t *tenancy, id string, e core.Entry, out []core.Effect) ([]core.Effect, error) {
	set, err := decode[registrar.Set](e.Value)
	if err != nil {
		return out, err
	}
	agent, by, several := strings.Cut(id, "/")
	if !several { // as a node wrote them that was alone: they are this one's now
		by = string(n.cfg.ID)
		out = n.remove(now, subject{e.Tenant, e.Key}, nil, out)
		out = n.write(now, subject{e.Tenant, bindingsKey(core.AgentID(agent), n.cfg.ID)}, set, nil, out)
	}
	t.bind(core.AgentID(agent), core.NodeID(by), set)
	n.merge(now, t, core.AgentID(agent))
	return out, nil
}

func (n *Node) takeConfig(t *tenancy, e core.Entry) error {
	switch {
	case strings.HasPrefix(e.Key, queuePrefix):
		q, err := decodeOf(e.Value, func(q tenant.Queue) bool { return queuePrefix+string(q.ID) == e.Key })
		if err == nil {
			n.addQueue(t, q)
		}
		return err
	case strings.HasPrefix(e.Key, agentPrefix):
		s, err := decodeOf(e.Value, func(a storedAgent) bool { return agentPrefix+string(a.ID) == e.Key })
		if err == nil {
			s.Agent.Credentials = s.Credentials
			n.addAgent(t, s.Agent)
		}
		return err
	case strings.HasPrefix(e.Key, numberPrefix):
		num, err := decodeOf(e.Value, func(n tenant.Number) bool { return numberPrefix+n.Number == e.Key })
		if err == nil {
			t.numbers[num.Number] = num
		}
		return err
	}
	return nil
}

// takeAgent restores what an agent declared, its idle clock and its wrap-up. Who wraps up
// goes on doing so until the instant that was written down.
func (n *Node) takeAgent(now core.Time, t *tenancy, id core.AgentID, r agentRecord) {
	a, ok := t.desk.Agent(id)
	if !ok {
		return
	}
	a.Status, a.Reason, a.IdleSince, a.OfferedAt, a.State, a.Since = r.Status, r.Reason, r.IdleSince, r.OfferedAt, acd.Idle, now
	if r.WrapUpUntil > now {
		a.State, a.WrapUpUntil = acd.WrapUp, r.WrapUpUntil
	}
	t.desk.Restore(now, a)
	n.show(t, id, shownAs(a))
}

// takeCall takes a live call up. Its legs' tags are known before anything is sent. Of one
// that has ended the CDR may not be delivered, unless it is below outbox/ (as an earlier
// version always put it).
func (n *Node) takeCall(now core.Time, t *tenancy, c *call.Call, out []core.Effect) []core.Effect {
	if c.Filed && n.outbox[c.ID] == nil {
		p := &parcel{cdr: c.CDR(), key: callKey(c.ID)}
		n.outbox[c.ID] = p
		out = append(out, core.Deliver{CDR: p.cdr})
	}
	if c.Phase == call.Ended {
		return out
	}
	n.calls[c.ID] = c
	n.taken[takenKey(c.Caller.Dialog.CallID, c.Caller.Dialog.Remote.Tag())] = c.Caller.ID
	t.calls++
	n.gauges.Calls[string(c.Phase)]++
	n.gauges.Waiting += waits(c.Phase)
	t.matching = true // no reservation before every waiting call has its place again
	out = n.withCall(now, c.ID, out, func(c *call.Call, env *call.Env) { c.Recover(env) })
	t.matching = false
	return out
}

// unreadable says that a record is not understood: it may be of a newer version.
func unreadable(tenant core.TenantID, key string, err error) core.Log {
	return core.Log{Level: 8, Tenant: tenant, Text: "record cannot be read and is left alone", Attrs: []any{"key", key, "error", err.Error()}}
}

type restoreError string

func (e restoreError) Error() string { return string(e) }

const (
	errNoTenant = restoreError("its tenant has no configuration")
	errOtherKey = restoreError("it does not belong under its key")
)

func decode[T any](b []byte) (T, error) {
	var v T
	err := json.Unmarshal(b, &v)
	return v, err
}

// decodeOf decodes a record that says itself whose it is, which must be what its key says.
func decodeOf[T any](b []byte, fits func(T) bool) (T, error) {
	v, err := decode[T](b)
	if err == nil && !fits(v) {
		err = errOtherKey
	}
	return v, err
}

func (n *Node) addTenant(conf tenant.Tenant) *tenancy {
	t, ok := n.tenants[conf.ID]
	if ok {
		delete(n.domains, t.conf.Domain)
		for _, k := range t.conf.Keys {
			delete(n.keys, k)
		}
		t.configure(conf)
	} else {
		t = newTenancy(conf)
		n.tenants[conf.ID] = t
	}
	n.domains[conf.Domain] = conf.ID
	for _, k := range conf.Keys {
		n.keys[k] = conf.ID
	}
	return t
}

func (n *Node) addQueue(t *tenancy, q tenant.Queue) {
	t.queues[q.ID] = q
	t.desk.PutQueue(q)
}

func (n *Node) addAgent(t *tenancy, a tenant.Agent) {
	a.Password = ""
	t.agents[a.ID] = a
	t.desk.PutAgent(a)
	if now, ok := t.desk.Agent(a.ID); ok {
		n.show(t, a.ID, shownAs(now))
	}
}
