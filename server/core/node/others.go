package node

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/commit"
)

// offerRecord reserves an agent for a call of another anchor (CLUSTER.md, "An offer across
// nodes"). It stands until the anchor accepts it or the desk's owner takes it back.
type offerRecord struct {
	Agent core.AgentID `json:"agent"`
	At    core.Time    `json:"at"`

	revision core.Revision // 0: not committed, as far as this node knows
}

// overruledPause is how long a desk gives out nothing after its decision was refused.
const overruledPause = 100 * time.Millisecond

// offerPatience is how long an anchor has to accept an offer.
const offerPatience = 5 * time.Second

const offerPrefix = "offers/"

func offerKey(id core.InteractionID) string { return offerPrefix + string(id) }

// other takes the record of a call that another node anchors, nil when it is gone, and
// brings the desk in line with it. So every node's desk shows the same, up to what is on
// its way, and an owner that dies has successors that need to learn nothing.
func (n *Node) other(now core.Time, t *tenancy, id core.InteractionID, c *call.Call, out []core.Effect) []core.Effect {
	was := t.standing(id)
	old := t.others[id]
	if c == nil {
		delete(t.others, id)
	} else {
		t.others[id] = c
		out = n.retell(t, old, c, out)
		if c.LacksPort(old) { // as where this node is the anchor: see portPause
			t.portAt = now.Add(portPause)
			n.timers.set(timer{kind: portTimer, tenant: t.conf.ID}, t.portAt)
		}
	}
	last := c
	if c == nil {
		last = old
	}
	return n.unwanted(now, t, id, n.follow(now, t, id, was, last, out))
}

// unwanted takes back what was offered to a call that waits no more, at once: its agent is
// free for the next.
func (n *Node) unwanted(now core.Time, t *tenancy, id core.InteractionID, out []core.Effect) []core.Effect {
	o, ok := t.offers[id]
	if !ok || !n.ours(t) || t.standing(id).Waits {
		return out
	}
	if o.revision == 0 { // on its way, or not even that: if it is committed all the same, it comes here again
		delete(t.offers, id)
		return out
	}
	return n.takeBack(now, t, id, out)
}

// offered takes an offer's record, nil when it is gone.
func (n *Node) offered(now core.Time, t *tenancy, id core.InteractionID, o *offerRecord, out []core.Effect) []core.Effect {
	was := t.standing(id)
	if o == nil {
		delete(t.offers, id)
		n.timers.set(timer{offerTimer, t.conf.ID, string(id)}, core.Never)
	} else {
		t.offers[id] = *o
		n.timers.set(timer{offerTimer, t.conf.ID, string(id)}, o.At.Add(offerPatience))
	}
	if _, mine := n.calls[id]; mine {
		if o != nil {
			return n.accept(now, t, id, *o, out)
		}
		return out
	}
	return n.unwanted(now, t, id, n.follow(now, t, id, was, t.others[id], out))
}

// standing is what the desk is to know of a call that another node anchors.
func (t *tenancy) standing(id core.InteractionID) call.Standing {
	var s call.Standing
	if c := t.others[id]; c != nil {
		s = c.Standing()
	}
	if o, ok := t.offers[id]; ok && s.Agent == "" && s.Waits {
		s.Agent, s.State = o.Agent, acd.Reserved
	}
	return s
}

// follow carries a change of a call's standing to the desk. The desk may know it already:
// its owner reserves an agent before anybody sees it.
func (n *Node) follow(now core.Time, t *tenancy, id core.InteractionID, was call.Standing, last *call.Call, out []core.Effect) []core.Effect {
	is := t.standing(id)
	if n.cfg.Plant == "idle-while-talking" && is.State == acd.Talking {
		is.Agent = ""
	}
	var agents []core.AgentID
	if was.Agent != "" && was.Agent != is.Agent {
		agents = append(agents, was.Agent)
		if a, ok := t.desk.Agent(was.Agent); ok && a.Interaction == id {
			switch a.State {
			case acd.Reserved, acd.Ringing:
				outcome := acd.Withdrawn
				if last != nil {
					outcome = last.OutcomeOf(was.Agent)
				}
				_ = t.desk.Release(now, was.Agent, outcome, 0)
			case acd.Talking, acd.Held:
				var wrapUp time.Duration
				if last != nil {
					wrapUp = last.WrapUp(n.env(now, t))
				}
				_ = t.desk.Release(now, was.Agent, acd.Done, wrapUp)
			}
		}
	}
	moved := was.Waits && is.Waits && (was.Entry.Queue != is.Entry.Queue || was.Entry.QueuedAt != is.Entry.QueuedAt)
	if was.Waits && !is.Waits || moved {
		t.desk.Leave(now, id)
	}
	if is.Waits && !t.desk.Waiting(id) {
		_ = t.desk.Requeue(now, is.Entry) // its queue may be gone: then its anchor ends it
	}
	if is.Agent != "" {
		a, ok := t.desk.Agent(is.Agent)
		if ok && (a.Interaction != id || t.desk.Progress(now, is.Agent, is.State) != nil) {
			_ = t.desk.Restore(now, acd.Agent{ID: is.Agent, State: is.State, Since: now, Interaction: id})
		}
		if ok && (was.Agent != is.Agent || was.State != is.State) {
			agents = append(agents, is.Agent)
		}
	}
	for _, agent := range agents {
		out = n.agentChanged(now, t, agent, nil, out)
	}
	n.deskTimer(t)
	return n.match(now, t, out)
}

// retell tells this node's listeners what has happened to a call elsewhere.
func (n *Node) retell(t *tenancy, old, c *call.Call, out []core.Effect) []core.Effect {
	known := 0
	if old != nil {
		known = len(old.Timeline)
	}
	for _, m := range c.Timeline[min(known, len(c.Timeline)):] {
		out = append(out, core.Publish{Tenant: c.Tenant, Kind: "interaction." + string(m.What),
			Data: call.Notice{Interaction: c.ID, Queue: c.Queue, Moment: m}})
	}
	return out
}

// offer writes down that an agent is reserved for a call of another anchor.
func (n *Node) offer(now core.Time, t *tenancy, r acd.Reservation, out []core.Effect) []core.Effect {
	o := offerRecord{Agent: r.Agent, At: now}
	t.offers[r.Interaction] = o
	l := n.line(subject{t.conf.ID, offerKey(r.Interaction)}, func() any {
		if o, ok := t.offers[r.Interaction]; ok {
			return o
		}
		return nil // it was taken back before it could be made
	})
	l.Touch(now)
	l.guard(n.epoch(t)...)
	waiting := n.tellAgents(t, []core.AgentID{r.Agent})
	for i := range waiting {
		waiting[i].Patience = 0 // a caller waits for it
	}
	out = l.Add(now, waiting, out)
	return n.flush(now, l, out)
}

// takeBack removes an offer that was not accepted, if it still stands: its anchor may be
// accepting it at this moment, and only one of the two commits.
func (n *Node) takeBack(now core.Time, t *tenancy, id core.InteractionID, out []core.Effect) []core.Effect {
	o, ok := t.offers[id]
	if !ok || o.revision == 0 || !n.ours(t) || n.cfg.Plant == "offer-never-back" {
		return out
	}
	n.timers.set(timer{offerTimer, t.conf.ID, string(id)}, now.Add(offerPatience))
	l := n.line(subject{t.conf.ID, offerKey(id)}, func() any { return nil })
	l.Touch(now)
	l.guard(n.epoch(t)...)
	l.guard(core.Guard{Tenant: t.conf.ID, Key: offerKey(id), Revision: o.revision})
	return n.flush(now, l, out)
}

// accept takes an offer for a call of this node's: the phone rings when the record says so
// and the offer is gone, in one commit.
func (n *Node) accept(now core.Time, t *tenancy, id core.InteractionID, o offerRecord, out []core.Effect) []core.Effect {
	if c := n.calls[id]; c.Phase != call.Queued || !t.desk.Waiting(id) {
		return out // it has ended or moved on: its record says so, and the owner takes the offer back
	}
	a, ok := t.desk.Agent(o.Agent)
	if !ok || a.State != acd.Idle && a.State != acd.WrapUp {
		return out
	}
	_ = t.desk.Restore(now, acd.Agent{ID: o.Agent, State: acd.Reserved, Since: now, Interaction: id})
	contacts := t.bindings[o.Agent].Live(now)
	return n.withCall(now, id, out, func(c *call.Call, env *call.Env) {
		env.If = append(env.If, core.Guard{Tenant: t.conf.ID, Key: offerKey(id), Revision: o.revision})
		env.With = append(env.With, core.Op{Key: offerKey(id)})
		c.Reserved(env, o.Agent, contacts)
	})
}

// acceptAll takes the offers that could not be accepted when they came:
//
//  1. The owner ends a call of its own. Its record waits a moment for company.
//  2. It gives the agent to a call of another anchor, and writes the offer at once.
//  3. The anchor sees the offer, and the agent in the call of 1. When that record has come,
//     it is here again.
func (n *Node) acceptAll(now core.Time, t *tenancy, out []core.Effect) []core.Effect {
	for _, id := range slices.Sorted(maps.Keys(t.offers)) {
		if _, mine := n.calls[id]; mine {
			out = n.accept(now, t, id, t.offers[id], out)
		}
	}
	return out
}

// overruled undoes what a Store promised whose guard did not hold: the offer that it
// accepts was taken back, or another node owns the desk. Nothing of it has left this node:
// the phone has not rung, the API has not answered.
func (n *Node) overruled(now core.Time, l *line, out []core.Effect) []core.Effect {
	t, ok := n.tenants[l.tenant]
	if !ok {
		return out
	}
	// If this node still thinks that it owns the desk, the news is on its way. It would decide
	// the same again meanwhile.
	t.portAt = now.Add(overruledPause)
	n.timers.set(timer{kind: portTimer, tenant: l.tenant}, t.portAt)
	kind, rest, _ := strings.Cut(l.key, "/")
	switch kind {
	case "calls":
		id := core.InteractionID(rest)
		n.stays(id)
		var again []core.Op
		for _, op := range l.sent {
			if op.Key == l.key || strings.HasPrefix(op.Key, outboxKey("")) {
				again = append(again, op)
			}
		}
		l.Refused(again)
		l.agents, l.guards = nil, nil
		if l.promise == none {
			return n.flush(now, l, out)
		}
		l.promise = none
		if n.calls[id] == nil {
			return n.flush(now, l, out) // it has ended meanwhile, and its CDR waits for this record
		}
		return n.withCall(now, id, out, func(c *call.Call, env *call.Env) { c.TakeBack(env) })
	case "offers":
		l.Abandon()
		id := core.InteractionID(rest)
		if o, ok := t.offers[id]; ok && o.revision == 0 { // it never stood
			was := t.standing(id)
			delete(t.offers, id)
			out = n.follow(now, t, id, was, t.others[id], out)
		}
	default:
		for _, w := range l.Abandon() {
			if r, ok := w.Effect.(core.Reply); ok {
				out = append(out, core.Reply{Token: r.Token, Problem: unavailable("another node decides for this tenant now; try again")})
			}
		}
		out = n.reread(now, t, l.key, out)
	}
	return n.flush(now, l, out)
}

// reread takes a record of the desk's as it is committed: what this node wrote was refused.
func (n *Node) reread(now core.Time, t *tenancy, key string, out []core.Effect) []core.Effect {
	out, _ = n.configured(now, t, core.Change{Tenant: t.conf.ID, Key: key, Value: t.committed[key]}, out)
	if id, is := strings.CutPrefix(key, agentKey("")); is {
		if r, err := decode[agentRecord](t.committed[key]); err == nil {
			t.saved[core.AgentID(id)] = r
			out = n.declared(now, t, core.AgentID(id), r, out)
		}
	}
	return out
}

func releaseAll(waiting []commit.Waiting) []core.Effect {
	var out []core.Effect
	for _, w := range waiting {
		out = append(out, w.Effect)
	}
	return out
}
