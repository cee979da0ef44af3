package node

import (
	"maps"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// postedRecord is a CDR below outbox/, with the process that is to deliver it.
type postedRecord struct {
	core.CDR
	Incarnation core.Revision `json:"incarnation,omitempty"`
}

func (n *Node) self() core.Member { return core.Member{ID: n.cfg.ID, Incarnation: n.incarnation} }

// heir returns who acts for what a process has written.
func (n *Node) heir(node core.NodeID, incarnation core.Revision, id core.InteractionID) (core.NodeID, bool) {
	if n.alone() || n.cfg.Plant == "two-heirs" && !n.view.Alive(node, incarnation) {
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
	if who, known := n.heir(c.Node, c.Incarnation, id); !known || who != n.cfg.ID || n.cfg.Plant == "calls-not-taken-over" {
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
	if n.cfg.Plant == "place-reset-at-takeover" {
		c.ArrivedAt, c.QueuedAt = now, now
	}
	s := t.standing(id)
	t.matching = true // nobody else gets the agent or the place meanwhile
	defer func() { t.matching = false }()
	if a, ok := t.desk.Agent(s.Agent); ok && a.Interaction == id && (a.State == acd.Reserved || a.State == acd.Ringing) {
		_ = t.desk.Release(now, s.Agent, acd.Withdrawn, 0)
	}
	t.desk.Leave(now, id)
	delete(t.others, id)
	out = n.takeCall(now, t, c, out)
	if s.Agent != "" { // what it does now is not what was shown of it
		out = append(out, releaseAll(n.tellAgents(t, []core.AgentID{s.Agent}))...)
	}
	if o, ok := t.offers[id]; ok && n.calls[id] != nil {
		out = n.accept(now, t, id, o, out)
	}
	return out
}

// redeliver hands a CDR to the records store whose anchor is gone before it could.
func (n *Node) redeliver(t *tenancy, id core.InteractionID, out []core.Effect) []core.Effect {
	p := t.posted[id]
	if n.cfg.Plant == "cdr-not-inherited" {
		return out
	}
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

// usurp is the plant "takes-over-unclaimed": a silent node's calls are taken before a claim.
func (n *Node) usurp(now core.Time, of core.Member, out []core.Effect) []core.Effect {
	for _, id := range slices.Sorted(maps.Keys(n.tenants)) {
		t := n.tenants[id]
		for _, k := range slices.Sorted(maps.Keys(t.others)) {
			if c := t.others[k]; c.Node == of.ID {
				delete(t.others, k)
				out = n.takeCall(now, t, c, out)
			}
		}
	}
	return out
}

// farewell is the plant "fenced-says-bye".
func (n *Node) farewell(out []core.Effect) []core.Effect {
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		n.calls[id].EachLeg(func(l *leg.Leg) {
			if l.State == leg.Confirmed {
				out = append(out, core.SendRequest{Txn: core.TxnID(n.rand.Branch()), To: l.Dialog.Target(), Request: l.Dialog.Request(core.BYE)})
			}
		})
	}
	return out
}
