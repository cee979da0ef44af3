package node

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/commit"
	"github.com/dialtone-cc/dialtone/server/core/leg"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// env is what a call of the tenant may use now.
func (n *Node) env(now core.Time, t *tenancy) *call.Env {
	return &call.Env{
		Env: leg.Env{Now: now, Rand: n.rand, Contact: n.contact,
			Policy:   &leg.Policy{KeepaliveEvery: n.cfg.KeepaliveEvery, KeepaliveTries: n.cfg.KeepaliveTries},
			Withdraw: func(core.TxnID) bool { return false }, Plant: n.cfg.Plant},
		Node: core.Member{ID: n.cfg.ID, Incarnation: n.incarnation}, Domain: t.conf.Domain, Desk: t.desk,
		QueueOf:   func(id core.QueueID) (tenant.Queue, bool) { q, ok := t.queues[id]; return q, ok },
		Ring:      n.cfg.RingTimeout,
		IdleAfter: core.Millis(n.cfg.IdleAfter.Milliseconds()),
	}
}

func (n *Node) contact(t core.Transport) core.URI {
	at, ok := n.cfg.Contact[t]
	if !ok {
		t, at = core.UDP, n.cfg.Contact[core.UDP]
	}
	u := core.URI{Scheme: "sip", User: "dialtone", Host: at.Addr().String(), Port: at.Port()}
	if t != core.UDP {
		u.Params = ";transport=" + string(t)
	}
	return u
}

// withLeg does something to the call that a leg belongs to.
func (n *Node) withLeg(now core.Time, id core.LegID, out []core.Effect, f func(*call.Call, *call.Env)) []core.Effect {
	return n.withCall(now, id.Interaction(), out, f)
}

// withCall is the one way to a call: it does something to it and carries out what follows,
// in this order: what depends on nothing leaves, the rest lines up behind the commit of
// the call's record, then the desk may match anew, and the record is written.
func (n *Node) withCall(now core.Time, id core.InteractionID, out []core.Effect, f func(*call.Call, *call.Env)) []core.Effect {
	c, ok := n.calls[id]
	if !ok {
		return out
	}
	t := n.tenants[c.Tenant]
	env := n.env(now, t)
	key := subject{c.Tenant, callKey(c.ID)}
	env.Withdraw = func(txn core.TxnID) (done bool) {
		if env.Held, done = commit.Without(env.Held, txn); done {
			return true // of this very step
		}
		if l, ok := n.lines[key]; ok && l.Withdraw(txn) {
			delete(n.asked, txn)
			return true
		}
		return false
	}
	was := phaseOf(c)
	f(c, env)
	out = n.carry(now, t, c, env, key, was, out)
	out = n.match(now, t, out)
	out = n.commit(now, c, key, out)
	if n.underway[id] && !c.Recovering() {
		out = n.rescued(now, c.Tenant, id, out)
	}
	return out
}

// commit writes the call's record if it changed. While a port is being opened it waits:
// the media edge answers at once, and one commit then carries what led to the port and what
// follows from it. So a caller and the agent who is free for it cost one commit, not two.
func (n *Node) commit(now core.Time, c *call.Call, key subject, out []core.Effect) []core.Effect {
	if l, ok := n.lines[key]; ok && !c.Opening() {
		return n.flush(now, l, out)
	}
	return out
}

// before is what a call was like before a step, for the counters.
type before struct {
	phase    call.Phase
	answered bool
	queued   bool
}

func phaseOf(c *call.Call) before {
	return before{c.Phase, c.AnsweredAt != 0, c.QueuedAt != 0}
}

// carry carries out what a step left in its Env.
func (n *Node) carry(now core.Time, t *tenancy, c *call.Call, env *call.Env, key subject, was before, out []core.Effect) []core.Effect {
	n.index(c, was)
	t.count(n, c, was)
	out = append(out, env.Free...)
	for _, eff := range env.Free {
		n.expect(eff)
	}
	for _, w := range env.Held {
		n.expect(w.Effect)
	}
	if env.CDR != nil {
		n.outbox[c.ID] = &parcel{cdr: env.CDR, key: key.key}
	}
	l := n.line(key, func() any {
		if c.Phase == call.Ended && n.outbox[c.ID] == nil {
			return nil
		}
		return c
	})
	if env.NoPort {
		t.portAt = now.Add(portPause)
		n.timers.set(timer{kind: portTimer, tenant: t.conf.ID}, t.portAt)
	}
	if env.Touched {
		agents := n.declaredBy(t, env.Agents)
		// Of a call whose CDR is filed, the end of the last leg is not worth a write of its own:
		// the record goes when the CDR is delivered.
		if c.Phase != call.Ended || env.CDR != nil || n.outbox[c.ID] == nil || len(agents)+len(env.Held) > 0 {
			l.Touch(now, env.With...)
		}
		l.agents = append(l.agents, agents...)
		if len(env.If) > 0 {
			l.guard(env.If...)
			l.promise = made
		}
	}
	waiting := env.Held
	for i := range waiting {
		waiting[i].Patience = patience(c, waiting[i].Effect)
	}
	for _, p := range env.Tell {
		waiting = append(waiting, commit.Waiting{Effect: p, Urgent: true, Patience: linger})
	}
	waiting = append(waiting, n.tellAgents(t, env.Agents)...)
	if env.CDR != nil {
		waiting = append(waiting, commit.Waiting{Effect: core.Deliver{CDR: env.CDR}, Patience: linger})
		if n.cfg.Plant == "cdr-twice" {
			again := *env.CDR
			again.ID = n.rand.Interaction(now)
			waiting = append(waiting, commit.Waiting{Effect: core.Deliver{CDR: &again}})
		}
	}
	n.deskTimer(t)
	return l.Add(now, waiting, out)
}

// patience is how long a message of a call may wait for a commit that it shares. A caller
// and a phone that is to ring wait for none. An agent's ACK: the voices are joined already.
// What ends a call: nobody listens any more, and meanwhile its media is measured, so that
// one commit carries the end and the CDR.
func patience(c *call.Call, e core.Effect) time.Duration {
	switch e := e.(type) {
	case core.SendRequest:
		if e.Request.Method == core.ACK && len(e.Request.Body) == 0 {
			return ackPatience
		}
	case core.Reply:
		return 0
	}
	if c.Termination != nil {
		return endPatience
	}
	return 0
}

// index keeps the tables by which a call is found in step with its legs.
func (n *Node) index(c *call.Call, was before) {
	for _, tag := range n.tenants[c.Tenant].tags[c.ID] {
		delete(n.tags, tag)
	}
	tags := n.tenants[c.Tenant].tags
	if c.Phase == call.Ended {
		delete(tags, c.ID)
		delete(n.calls, c.ID)
		delete(n.taken, takenKey(c.Caller.Dialog.CallID, c.Caller.Dialog.Remote.Tag()))
		n.timers.set(timer{callTimer, c.Tenant, string(c.ID)}, core.Never)
		return
	}
	mine := tags[c.ID][:0]
	c.EachLeg(func(l *leg.Leg) {
		tag := l.Dialog.Local.Tag()
		n.tags[tag] = l.ID
		mine = append(mine, tag)
	})
	tags[c.ID] = mine
	at, _ := c.Deadline()
	n.timers.set(timer{callTimer, c.Tenant, string(c.ID)}, at)
}

func takenKey(callID, fromTag string) string { return callID + "\x00" + fromTag }

// expect remembers whose a request of ours is, until its transaction ends.
func (n *Node) expect(eff core.Effect) {
	s, ok := eff.(core.SendRequest)
	if !ok || s.Request.Method == core.ACK || s.Request.Method == core.CANCEL {
		return
	}
	if id, ok := n.tags[s.Request.From.Tag()]; ok {
		n.asked[s.Txn] = id
	}
}

// portPause is how long a tenant's desk gives out nothing after an agent's leg found no
// port. The whole desk, not that call alone: if only the call stood back, another that
// comes after it would get the port that is free next, and with it the agent.
const portPause = time.Second

// match lets the desk give out what it can. Each reservation is carried into its call,
// which may give an agent back at once (no phone left), so it goes on until nothing moves.
func (n *Node) match(now core.Time, t *tenancy, out []core.Effect) []core.Effect {
	// t.matching: a call that is given its reservation comes here again.
	if t.matching || n.watching || now < t.portAt || !n.ours(t) {
		return out
	}
	t.matching = true
	for range 10_000 {
		reserved := t.desk.Match(now)
		if len(reserved) == 0 {
			break
		}
		for _, r := range reserved {
			if _, mine := n.calls[r.Interaction]; !mine {
				out = n.offer(now, t, r, out)
				continue
			}
			contacts := t.bindings[r.Agent].Live(now)
			out = n.withCall(now, r.Interaction, out, func(c *call.Call, env *call.Env) {
				env.If = append(env.If, n.epoch(t)...)
				c.Reserved(env, r.Agent, slices.Clone(contacts))
			})
			if n.cfg.Plant == "double-offer" {
				t.desk.Restore(now, acd.Agent{ID: r.Agent, Status: acd.Ready, State: acd.Idle, Reachable: true})
			}
		}
	}
	t.matching = false
	return out
}

// response finds the leg by our own tag: From is us.
func (n *Node) response(now core.Time, e core.ResponseReceived, out []core.Effect) []core.Effect {
	if e.Response.Status >= 200 {
		delete(n.asked, e.Txn)
	}
	id, ok := n.tags[e.Response.From.Tag()]
	if !ok {
		return out
	}
	return n.withLeg(now, id, out, func(c *call.Call, env *call.Env) { c.Response(env, id, e) })
}

func (n *Node) media(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
	switch e := ev.(type) {
	case core.MediaOpened:
		if n.cfg.MediaAddr.IsValid() {
			e.Local = netip.AddrPortFrom(n.cfg.MediaAddr, e.Local.Port())
		}
		if _, ok := n.calls[e.Leg.Interaction()]; !ok {
			return append(out, core.CloseMedia{Leg: e.Leg}) // nobody waits for it any more
		}
		return n.withLeg(now, e.Leg, out, func(c *call.Call, env *call.Env) { c.MediaOpened(env, e) })
	case core.MediaRefused:
		return n.withLeg(now, e.Leg, out, func(c *call.Call, env *call.Env) { c.MediaRefused(env, e) })
	case core.MediaIdle:
		return n.withLeg(now, e.Leg, out, func(c *call.Call, env *call.Env) { c.MediaIdle(env, e.Leg) })
	case core.MediaResumed:
		return n.withLeg(now, e.Leg, out, func(c *call.Call, env *call.Env) { c.MediaResumed(e.Leg) })
	case core.PlaybackDone:
		return n.withLeg(now, e.Leg, out, func(c *call.Call, env *call.Env) { c.PlaybackDone(env, e) })
	case core.MediaClosed:
		return n.withLeg(now, e.Leg, out, func(c *call.Call, env *call.Env) { c.MediaClosed(env, e) })
	}
	return out
}
