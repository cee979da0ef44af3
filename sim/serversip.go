package sim

import (
	"net/netip"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// target finds the way to a phone: the flow while it is open, else the address
// (RFC 5626 s.5.3).
func (s *server) target(to core.Target) (parcel, bool) {
	if c := s.conns[to.Flow]; c != nil && c.open {
		return parcel{to: c.phone.addr, conn: c}, true
	}
	addr := netip.AddrPort{}
	if ip, err := netip.ParseAddr(to.Host); err == nil {
		addr = netip.AddrPortFrom(ip, max(to.Port, 0))
		if to.Port == 0 {
			addr = netip.AddrPortFrom(ip, 5060)
		}
	}
	if to.Transport != core.TCP {
		return parcel{to: addr}, addr.IsValid()
	}
	p, ok := s.w.hosts[addr].(*phone)
	if !ok || !p.reachable() {
		return parcel{}, false
	}
	if p.conn != nil && p.conn.open {
		return parcel{to: addr, conn: p.conn}, true
	}
	if c := s.w.net.dial(p); c != nil {
		return parcel{to: addr, conn: c}, true
	}
	return parcel{}, false
}

func (s *server) send(e core.SendRequest) {
	far := s.far(s.addrTo(e.To))
	if !alien(e.Request.To.Tag()) {
		s.sent(check.Sent{Far: far, Txn: e.Txn, Request: e.Request, Covered: s.covered(far, e.Request, nil)})
	}
	where := func() (parcel, bool) { return s.target(e.To) }
	transport := e.To.Transport
	if c := s.conns[e.To.Flow]; c != nil {
		transport = core.TCP
	}
	if e.Request.Method == core.ACK {
		s.layer.once(e.Txn, e.Request, transport, where)
		return
	}
	s.layer.open(e.Txn, e.Request, transport, where)
}

func (s *server) respond(e core.Respond) {
	far := s.far(e.To.Addr)
	// A binding lives and dies with its connection: a 200 that finds it closed promises nothing.
	cut := e.To.Transport == core.TCP && s.conns[e.To.Flow] == nil && e.Response.Method == core.REGISTER
	if !alien(e.Response.From.Tag()) {
		s.sent(check.Sent{Far: far, Txn: e.Txn, Response: e.Response, Covered: cut || s.covered(far, nil, e.Response)})
	}
	if s.layer.respond(e.Txn, e.Response) {
		return
	}
	if len(e.Response.Via) == 0 {
		s.w.fail("sip", "a response to an unknown transaction has no Via to send it to: Call-ID "+e.Response.CallID)
		return
	}
	_, sentBy := branchOf(e.Response.Via[0])
	p := parcel{from: s.addr, to: addrOf(sentBy), res: e.Response}
	if e.To.Transport == core.TCP {
		way, ok := s.target(core.Target{Transport: core.TCP, Host: p.to.Addr().String(), Port: p.to.Port(), Flow: e.To.Flow})
		if !ok {
			return
		}
		p.conn = way.conn
	}
	s.w.net.send(p, nil)
}

// addrTo is the address of a target, for the record of who is meant.
func (s *server) addrTo(to core.Target) netip.AddrPort {
	if c := s.conns[to.Flow]; c != nil {
		return c.phone.addr
	}
	ip, err := netip.ParseAddr(to.Host)
	if err != nil {
		return netip.AddrPort{}
	}
	if to.Port == 0 {
		return netip.AddrPortFrom(ip, 5060)
	}
	return netip.AddrPortFrom(ip, to.Port)
}

func (s *server) far(addr netip.AddrPort) check.Far {
	if p, ok := s.w.hosts[addr].(*phone); ok {
		return p.far
	}
	return check.Far{Phone: addr.String()}
}

// sent shows a message to the checkers, in a cluster with who should have sent it. One who
// has lost its node record and cannot know it yet speaks for nobody: what it says is judged
// by itself.
func (s *server) sent(f check.Sent) {
	c := s.w.commits
	if c == nil {
		s.w.fact(f)
		return
	}
	f.Node = s.id
	if s.stale {
		s.w.marks.hit("cluster: sent by one who does not know that it is fenced")
		s.w.fact(check.Stale{Sent: f})
		return
	}
	id := ""
	if f.Request != nil {
		id = f.Request.CallID
	} else if f.Response.Method != core.REGISTER {
		id = f.Response.CallID
	}
	if by, known := c.actor(id); known && id != "" && by != s.id {
		f.Anchor = by
		if by == "" {
			f.Anchor = "nobody yet"
		}
	}
	s.w.fact(f)
}

// covered asks the committed content of the store for what a restart would need.
func (s *server) covered(far check.Far, q *core.Request, r *core.Response) bool {
	switch {
	case q != nil && q.Method == core.INVITE:
		return s.w.holds(far.Tenant, q.CallID, q.From.Tag())
	case r != nil && r.Status/100 == 2 && r.Method == core.INVITE:
		return s.w.holds(far.Tenant, r.CallID, r.To.Tag())
	case s.w.away(), s.outdated(far, r):
		// A later REGISTER, or the end of its time, may have undone the binding meanwhile.
	case r != nil && r.Status/100 == 2 && r.Method == core.REGISTER:
		for _, c := range r.Contact {
			// The other phones of the agent may have gone since; this one was promised.
			if strings.HasSuffix(far.Phone, "-at-"+c.URI.Host) && !s.w.holds(far.Tenant, c.URI.Host) {
				return false
			}
		}
	}
	return true
}

// outdated reports whether a phone has sent another REGISTER since the one that is answered.
func (s *server) outdated(far check.Far, r *core.Response) bool {
	for _, p := range s.w.phones {
		if p.far == far && p.device != nil && r != nil {
			return p.device.cseq > r.CSeq
		}
	}
	return false
}

// note gives the checkers what an event says.
func (s *server) note(ev core.Event) {
	if s.stale {
		return
	}
	switch e := ev.(type) {
	case core.RequestReceived:
		if alien(e.Request.From.Tag()) || s.strays(e.Request) {
			return
		}
		s.w.fact(check.Received{Far: s.far(e.From.Addr), Txn: e.Txn, Request: e.Request})
	case core.ResponseReceived:
		if alien(e.Response.To.Tag()) {
			return
		}
		far := s.far(e.From.Addr)
		known := e.Response.Method != core.INVITE || e.Response.Status/100 != 2 || s.w.holds(far.Tenant, e.Response.CallID) && s.acts(e.Response.CallID)
		s.w.fact(check.Received{Far: far, Txn: e.Txn, Response: e.Response, Known: known})
	case core.Commanded:
		if q := s.w.api.asked[e.Token]; q.of != nil {
			s.w.fact(check.Asked{Tenant: q.of.id, Do: q.do})
		}
	case core.TransactionFailed:
		s.w.fact(check.TxnFailed{Txn: e.Txn})
	}
}

// strays reports whether a request of a dialog has come to a node that does not act for the
// call: it can only say so (481).
func (s *server) strays(r *core.Request) bool {
	if s.w.commits == nil || r.To.Tag() == "" {
		return false
	}
	if s.acts(r.CallID) {
		return false
	}
	s.w.marks.hit("cluster: a request strays")
	return true
}

// acts reports whether a call is this process's, or nobody's.
func (s *server) acts(callID string) bool {
	if s.w.commits == nil {
		return true
	}
	by, known := s.w.commits.actor(callID)
	return !known || by == s.id && !s.stale
}

func (s *server) farOf(ev core.Event) string {
	switch e := ev.(type) {
	case core.RequestReceived:
		return s.far(e.From.Addr).Phone
	case core.ResponseReceived:
		return s.far(e.From.Addr).Phone
	}
	return ""
}

func (s *server) farTo(ef core.Effect) string {
	switch e := ef.(type) {
	case core.SendRequest:
		return s.far(s.addrTo(e.To)).Phone
	case core.Respond:
		return s.far(e.To.Addr).Phone
	}
	return ""
}
