package node

import (
	"maps"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/commit"
	"github.com/dialtone-cc/dialtone/server/core/digest"
	"github.com/dialtone-cc/dialtone/server/core/leg"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// A record that has this many answers waiting for the store takes no more.
const maxHeld = 64

func bindingsKey(id core.AgentID, by core.NodeID) string {
	return "bindings/" + string(id) + "/" + string(by)
}

// register takes a REGISTER (s.10.3). An unknown agent, an unknown tenant and a wrong
// password are challenged alike.
func (n *Node) register(now core.Time, e core.RequestReceived, out []core.Effect) []core.Effect {
	req := e.Request
	if !n.registers.Take(now, sourceOf(e.From)) {
		return n.refuse(e, 503, out, leg.RetryAfter(2))
	}
	if n.life == Restoring {
		return n.refuse(e, 503, out, leg.RetryAfter(2))
	}
	t, realm := n.tenantOf(req.URI.Host), req.URI.Host
	if t != nil {
		realm = t.conf.Domain
	}
	user, outcome := n.auth.Verify(now, req, realm, func(user string) []tenant.Credential {
		if t == nil {
			return nil
		}
		return t.agents[core.AgentID(user)].Credentials
	})
	switch {
	case outcome == digest.Malformed:
		return n.refuse(e, 400, out)
	case outcome != digest.OK:
		return n.refuse(e, 401, out, n.auth.ChallengeFor(now, req, realm, outcome == digest.Stale)...)
	case user != req.To.URI.User: // who may register one address may not register another's
		return n.refuse(e, 403, out)
	}
	agent := core.AgentID(user)
	s := subject{t.conf.ID, bindingsKey(agent, n.cfg.ID)}
	if l, ok := n.lines[s]; ok && l.Held() >= maxHeld {
		return n.refuse(e, 503, out, leg.RetryAfter(5))
	}
	limits := registrar.Limits{Min: n.cfg.MinExpires, Max: n.cfg.MaxExpires, Default: n.cfg.MaxExpires}
	before := len(t.bindings[agent].Live(now))
	next, resp, changed := t.bindings[agent].Register(now, req, e.From, limits, n.rand.Tag())
	answer := []commit.Waiting{{Effect: core.Respond{Txn: e.Txn, To: e.From, Response: resp}}}
	if !changed {
		return append(out, answer[0].Effect)
	}
	out = n.setBindings(now, t, agent, next, answer, out)
	if len(next.Live(now)) > 0 && n.ours(t) {
		out = n.cameBack(now, t, agent, before == 0, out)
	}
	return out
}

// setBindings stores what this node now says of an agent's bindings, next being those of
// all nodes.
func (n *Node) setBindings(now core.Time, t *tenancy, id core.AgentID, next registrar.Set, after []commit.Waiting, out []core.Effect) []core.Effect {
	own := t.bound[id][n.cfg.ID].Took(now, n.self(), t.bindings[id], next)
	return n.setOwn(now, t, id, own, after, out)
}

// setOwn writes this node's bindings of an agent.
func (n *Node) setOwn(now core.Time, t *tenancy, id core.AgentID, own registrar.Set, after []commit.Waiting, out []core.Effect) []core.Effect {
	t.bind(id, n.cfg.ID, own)
	s := subject{t.conf.ID, bindingsKey(id, n.cfg.ID)}
	if len(own) == 0 {
		out = n.remove(now, s, after, out)
	} else {
		out = n.write(now, s, own, after, out)
	}
	return n.rebind(now, t, id, out)
}

// bind notes what a node says of an agent's bindings.
func (t *tenancy) bind(id core.AgentID, by core.NodeID, set registrar.Set) {
	if len(set) == 0 {
		if delete(t.bound[id], by); len(t.bound[id]) == 0 {
			delete(t.bound, id)
		}
		return
	}
	if t.bound[id] == nil {
		t.bound[id] = map[core.NodeID]registrar.Set{}
	}
	t.bound[id][by] = set
}

// merge makes of what all nodes say where the agent is reached, and reports whether that
// changed whether it is.
func (n *Node) merge(now core.Time, t *tenancy, id core.AgentID) (changed bool) {
	var sets []registrar.Set
	due := core.Never
	for _, by := range slices.Sorted(maps.Keys(t.bound[id])) {
		sets = append(sets, t.bound[id][by])
		due = min(due, t.bound[id][by].Deadline())
	}
	next := registrar.Merge(now, sets...)
	if !n.alone() {
		next = next.Detached(n.view.Alive)
	}
	n.gauges.Bindings += len(next) - len(t.bindings[id])
	n.remember(t.conf.ID, id, next)
	if t.bindings[id] = next; len(next) == 0 {
		delete(t.bindings, id)
	}
	n.timers.set(timer{bindingTimer, t.conf.ID, string(id)}, due)
	a, ok := t.desk.Agent(id)
	t.desk.SetReachable(now, id, len(next) > 0)
	return ok && a.Reachable != (len(next) > 0)
}

// rebind is merge with what follows for the agent: one whose last phone is gone.
func (n *Node) rebind(now core.Time, t *tenancy, id core.AgentID, out []core.Effect) []core.Effect {
	if !n.merge(now, t, id) {
		return out
	}
	if a, _ := t.desk.Agent(id); !a.Reachable && n.ours(t) {
		t.wentAway(now, id, a)
	}
	return n.agentChanged(now, t, id, nil, out)
}

// wentAway logs an agent out whose last phone is gone, when the phone is how it logs in.
// Who said by the API why it is not ready stays so: a phone that comes back must not end
// a lunch.
func (t *tenancy) wentAway(now core.Time, id core.AgentID, a acd.Agent) {
	given := false // by an offer that failed, not by the person
	for _, o := range []acd.Outcome{acd.NoAnswer, acd.Rejected, acd.Busy, acd.Unreachable} {
		given = given || a.Reason == o.Reason()
	}
	if t.agents[id].ReadyOnRegister && (a.Status == acd.Ready || a.Status == acd.NotReady && given) {
		t.desk.SetStatus(now, id, acd.LoggedOut, "")
	}
}

// cameBack makes an agent ready whose phone registers: when that is how it logs in and
// this is its first phone, or when only its phone was the reason that it was not, also if
// the phone merely refreshes: it shows that it is there.
func (n *Node) cameBack(now core.Time, t *tenancy, id core.AgentID, first bool, out []core.Effect) []core.Effect {
	a, _ := t.desk.Agent(id)
	lost := a.Status == acd.NotReady && a.Reason == string(acd.Unreachable)
	if lost || first && a.Status == acd.LoggedOut && t.agents[id].ReadyOnRegister {
		t.desk.SetStatus(now, id, acd.Ready, "")
		return n.agentChanged(now, t, id, nil, out)
	}
	return out
}

// bindingsDue removes what has expired.
func (n *Node) bindingsDue(now core.Time, tenant core.TenantID, id core.AgentID, out []core.Effect) []core.Effect {
	t, ok := n.tenants[tenant]
	if !ok {
		return out
	}
	own := t.bound[id][n.cfg.ID]
	for _, by := range slices.Sorted(maps.Keys(t.bound[id])) {
		if left, changed := t.bound[id][by].Expire(now); changed {
			t.bind(id, by, left)
		}
	}
	if left, changed := own.Expire(now); changed {
		return n.setOwn(now, t, id, left, nil, out)
	}
	return n.rebind(now, t, id, out)
}

// flowClosed forgets what could be reached only over a connection that is gone.
func (n *Node) flowClosed(now core.Time, flow core.FlowID, out []core.Effect) []core.Effect {
	over := n.flows[flow]
	delete(n.flows, flow)
	for _, who := range over {
		t, ok := n.tenants[who.tenant]
		if !ok {
			continue
		}
		id := core.AgentID(who.key)
		if left, changed := t.bound[id][n.cfg.ID].Drop(flow); changed {
			out = n.setOwn(now, t, id, left, nil, out)
		}
	}
	return out
}

// remember notes which agents are reached over which connection.
func (n *Node) remember(t core.TenantID, id core.AgentID, bindings registrar.Set) {
	for _, b := range bindings {
		who := subject{t, string(id)}
		if b.Peer.Transport != core.UDP && b.Peer.Flow != "" && !slices.Contains(n.flows[b.Peer.Flow], who) {
			n.flows[b.Peer.Flow] = append(n.flows[b.Peer.Flow], who)
		}
	}
}

// withdrawOffer takes back what an agent is being offered: it has logged out.
func (n *Node) withdrawOffer(now core.Time, t *tenancy, id core.AgentID, out []core.Effect) []core.Effect {
	a, ok := t.desk.Agent(id)
	if !ok || a.State != acd.Reserved && a.State != acd.Ringing {
		return out
	}
	return n.withCall(now, a.Interaction, out, func(c *call.Call, env *call.Env) { c.TakeBack(env) })
}
