package node

import (
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// A store that has not answered for so long takes no new interactions: they could not be
// kept. Those that live go on.
const awayPatience = 2 * time.Second

// CDRs that wait for the records store. At the bound no new interaction is taken, so that
// none is ever without its record.
const maxOutbox = 100_000

// request sorts a SIP request: into a dialog, or to what starts one.
func (n *Node) request(now core.Time, e core.RequestReceived, out []core.Effect) []core.Effect {
	req := e.Request
	if req.Method == core.CANCEL {
		return n.cancel(now, e, out)
	}
	if tag := req.To.Tag(); tag != "" {
		id, ok := n.tags[tag]
		if c := n.calls[id.Interaction()]; ok && !c.Speaks(id, req) {
			ok = false // our tag, but not the peer of that dialog (s.12.2.2)
		}
		if !ok {
			if req.Method == core.ACK {
				return out
			}
			return n.refuse(e, 481, out) // s.12.2.2
		}
		return n.withLeg(now, id, out, func(c *call.Call, env *call.Env) { c.Request(env, id, e) })
	}
	switch req.Method {
	case core.INVITE:
		return n.invite(now, e, out)
	case core.REGISTER:
		return n.register(now, e, out)
	}
	if req.Method != core.ACK && !n.invites.Take(now, sourceOf(e.From)) {
		return n.refuse(e, 503, out, leg.RetryAfter(1)) // a flood of anything else
	}
	switch req.Method {
	case core.OPTIONS:
		return n.options(e, out)
	case core.ACK:
		return out
	case core.BYE:
		return n.refuse(e, 481, out)
	case core.INFO, core.UPDATE, core.REFER, core.NOTIFY, core.PRACK, core.MESSAGE, "SUBSCRIBE", "PUBLISH":
		return n.refuse(e, 405, out, core.Field{Name: "Allow", Value: leg.Allow + ", REGISTER"})
	}
	return n.refuse(e, 501, out, core.Field{Name: "Allow", Value: leg.Allow + ", REGISTER"})
}

func (n *Node) refuse(e core.RequestReceived, status int, out []core.Effect, fields ...core.Field) []core.Effect {
	resp := e.Request.Reply(status, n.rand.Tag())
	resp.Header = fields
	return append(out, core.Respond{Txn: e.Txn, To: e.From, Response: resp})
}

// options answers whether we would take an INVITE now (s.11.2).
func (n *Node) options(e core.RequestReceived, out []core.Effect) []core.Effect {
	if n.life != Serving {
		return n.refuse(e, 503, out, leg.RetryAfter(5))
	}
	return n.refuse(e, 200, out,
		core.Field{Name: "Allow", Value: leg.Allow + ", REGISTER"},
		core.Field{Name: "Accept", Value: "application/sdp"})
}

// cancel finds the leg by the transaction that the CANCEL matches (s.9.2).
func (n *Node) cancel(now core.Time, e core.RequestReceived, out []core.Effect) []core.Effect {
	id, ok := n.taken[takenKey(e.Request.CallID, e.Request.From.Tag())]
	if !ok || e.Cancels == "" {
		return n.refuse(e, 481, out)
	}
	if c := n.calls[id.Interaction()]; c == nil || c.Caller.Txn != e.Cancels {
		return n.refuse(e, 481, out)
	}
	return n.withLeg(now, id, out, func(c *call.Call, env *call.Env) { c.Request(env, id, e) })
}

// invite admits a caller or says why not. Who is not let in learns nothing of what
// exists: an unknown tenant, an unknown number and a source that is not allowed answer alike.
func (n *Node) invite(now core.Time, e core.RequestReceived, out []core.Effect) []core.Effect {
	req := e.Request
	source := sourceOf(e.From)
	if !n.invites.Take(now, source) {
		return n.refuse(e, 503, out, leg.RetryAfter(1))
	}
	if !n.takes() || len(n.outbox) >= maxOutbox ||
		n.away != 0 && now.Sub(n.away) > awayPatience {
		return n.refuse(e, 503, out, leg.RetryAfter(5))
	}
	if id, twice := n.taken[takenKey(req.CallID, req.From.Tag())]; twice {
		if c := n.calls[id.Interaction()]; c != nil && c.Caller.Txn == e.Txn {
			return out // sent again to a process that has restarted: its answer is on the way
		}
		return n.refuse(e, 482, out) // s.8.2.2.2: the same request by another way
	}
	if req.URI.Scheme != "sip" {
		return n.refuse(e, 416, out)
	}
	t := n.tenantOf(req.URI.Host)
	if t == nil || !allowed(t.conf.Sources, e.From.Addr.Addr().Unmap()) {
		return n.refuse(e, 404, out)
	}
	number, ok := t.numbers[req.URI.User]
	if !ok {
		return n.refuse(e, 404, out)
	}
	if t.calls >= t.conf.Limits.MaxCalls || len(n.calls) >= n.cfg.MaxCalls || !t.arrivals.Take(now, t.conf.ID) {
		return n.refuse(e, 503, out, leg.RetryAfter(1+n.rand.Below(4)))
	}
	if status, fields := leg.Screen(req); status != 0 {
		return n.refuse(e, status, out, fields...)
	}
	env := n.env(now, t)
	c := call.New(env, t.conf.ID, e.Txn, req, e.From, number)
	n.calls[c.ID] = c
	n.taken[takenKey(req.CallID, req.From.Tag())] = c.Caller.ID
	t.calls++
	n.gauges.Calls[string(c.Phase)]++
	key := subject{t.conf.ID, callKey(c.ID)}
	out = n.carry(now, t, c, env, key, phaseOf(c), out)
	return n.commit(now, c, key, out)
}

// tenantOf returns the tenant of a host name; an address may stand for one tenant.
func (n *Node) tenantOf(host string) *tenancy {
	if id, ok := n.domains[host]; ok {
		return n.tenants[id]
	}
	if _, err := netip.ParseAddr(host); err == nil && n.cfg.Literal != "" {
		return n.tenants[n.cfg.Literal]
	}
	return nil
}

// sourceOf is who is counted as one source: an address, or a /64 of IPv6, of which one
// sender has all.
func sourceOf(p core.Peer) netip.Addr {
	a := p.Addr.Addr().Unmap()
	if a.Is6() {
		if net, err := a.Prefix(64); err == nil {
			return net.Addr()
		}
	}
	return a
}

func allowed(sources []netip.Prefix, a netip.Addr) bool {
	for _, p := range sources {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
