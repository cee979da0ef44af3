package node

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
)

// postedRecord is a CDR below outbox/, with the process that is to deliver it.
type postedRecord struct {
	core.CDR
	Incarnation core.Revision `json:"incarnation,omitempty"`
}

func (n *Node) self() core.Member { return core.Member{ID: n.cfg.ID, Incarnation: n.incarnation} }

// heir returns who acts for what a process has written.
func (n *Node) heir(node core.NodeID, incarnation core.Revision, id core.InteractionID) (core.NodeID, bool) {
	if n.alone() {
		return n.cfg.ID, true
	}
	return n.view.Resolve(node, incarnation, id)
}

// rescues is how many calls are taken over at a time. A call is under way until its phones
// have answered: hundreds of re-INVITEs at once overflow the socket of a single peer behind
// which all phones are, and each that is lost costs a repetition.
const rescues = 32

// rescuePatience is how long a phone that does not answer holds up the next call.
const rescuePatience = 300 * time.Millisecond

// inherit puts a call whose anchor is gone among those to be taken over, if it falls to
// this node. Who talks comes first.
func (n *Node) inherit(t *tenancy, id core.InteractionID) {
	c := t.others[id]
	if who, known := n.heir(c.Node, c.Incarnation, id); !known || who != n.cfg.ID {
		return
	}
	if n.inherited[id] {
		return
	}
	n.inherited[id] = true
	if s := (subject{t.conf.ID, string(id)}); c.Phase == call.Bridged {
		n.talking = append(n.talking, s)
	} else {
		n.orphans = append(n.orphans, s)
	}
}

// rescue takes over as many calls as may be under way at a time.
func (n *Node) rescue(now core.Time, out []core.Effect) []core.Effect {
	for len(n.underway) < rescues && len(n.talking)+len(n.orphans) > 0 {
		list := &n.talking
		if len(*list) == 0 {
			list = &n.orphans
		}
		s := (*list)[0]
		*list = (*list)[1:]
		t, ok := n.tenants[s.tenant]
		id := core.InteractionID(s.key)
		delete(n.inherited, id)
		if !ok || t.others[id] == nil {
			continue
		}
		out = n.succeed(now, t, id, out)
		if c := n.calls[id]; c != nil && c.Recovering() {
			n.underway[id] = true
			n.timers.set(timer{rescueTimer, s.tenant, s.key}, now.Add(rescuePatience))
		}
	}
	return out
}

// rescued notes that a call's phones have answered, or were given up, and goes on.
func (n *Node) rescued(now core.Time, t core.TenantID, id core.InteractionID, out []core.Effect) []core.Effect {
	delete(n.underway, id)
	n.timers.set(timer{rescueTimer, t, string(id)}, core.Never)
	return n.rescue(now, out)
}

// succeed takes a call over. What the desk knows of it from the record goes first: the call
// says anew what it is to know.
func (n *Node) succeed(now core.Time, t *tenancy, id core.InteractionID, out []core.Effect) []core.Effect {
	c := t.others[id]
	s := t.standing(id)
	t.matching = true // nobody else gets the agent or the place meanwhile
	defer func() { t.matching = false }()
	if a, ok := t.desk.Agent(s.Agent); ok && a.Interaction == id && (a.State == acd.Reserved || a.State == acd.Ringing) {
		_ = t.desk.Release(now, s.Agent, acd.Withdrawn, 0)
	}
	t.desk.Leave(now, id)
	delete(t.others, id)
	out = n.takeCall(now, t, c, out)
	if o, ok := t.offers[id]; ok && n.calls[id] != nil {
		out = n.accept(now, t, id, o, out)
	}
	return out
}

// redeliver hands a CDR to the records store whose anchor is gone before it could.
func (n *Node) redeliver(t *tenancy, id core.InteractionID, out []core.Effect) []core.Effect {
	p := t.posted[id]
	if who, known := n.heir(p.Node, p.Incarnation, id); !known || who != n.cfg.ID || n.outbox[id] != nil {
		return out
	}
	delete(t.posted, id)
	n.outbox[id] = &parcel{cdr: &p.CDR, key: outboxKey(id)}
	return append(out, core.Deliver{CDR: &p.CDR})
}

// declaredBy returns those of the agents whose record this node is to write. The desk's
// owner alone writes them; the others see the same from the calls' records.
func (n *Node) declaredBy(t *tenancy, agents []core.AgentID) []core.AgentID {
	if !n.ours(t) {
		return nil
	}
	return t.changed(agents)
}

// declared takes what the owner has written of an agent. What it does is not in there.
func (n *Node) declared(now core.Time, t *tenancy, id core.AgentID, r agentRecord, out []core.Effect) []core.Effect {
	a, ok := t.desk.Agent(id)
	if !ok {
		return out
	}
	a.Status, a.Reason, a.IdleSince, a.OfferedAt = r.Status, r.Reason, r.IdleSince, r.OfferedAt
	switch {
	case (a.State == acd.Idle || a.State == acd.WrapUp) && r.WrapUpUntil > now:
		a.State, a.WrapUpUntil = acd.WrapUp, r.WrapUpUntil
	case a.State == acd.WrapUp:
		a.State, a.WrapUpUntil = acd.Idle, 0
	}
	_ = t.desk.Restore(now, a)
	n.deskTimer(t)
	return append(out, releaseAll(n.tellAgents(t, []core.AgentID{id}))...)
}
