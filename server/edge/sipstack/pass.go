package sipstack

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// A phone's connection ends at one node, and a call of that phone may be another's. Then
// this node is a proxy between the two that keeps nothing (RFC 3261 s.16.11, RFC 5626 s.5.3):
//
//	anchor ── Route: <sip:TOKEN@here;lr> ──▶ here ── the connection that TOKEN names ──▶ phone
//	anchor ◀── Request-URI ── here ◀── Route: <sip:TOKEN@here;lr> ── phone, in the dialog
//
// The token is in Record-Route, so the phone's requests come here and not to an address that
// its network may not reach. What is passed on is spliced, not written anew. Who may:
//
//   - to a phone: a member of the cluster, over a connection (a datagram's source is anybody's
//     word), with a token of this process for a connection that is open;
//   - to a member: a phone, in a dialog, with the token of the very connection that it speaks
//     on. A request outside a dialog is this node's own: it must not reach another as if this
//     node had sent it. Nor may it name further hops that have a user part, for those may be
//     tokens of other phones.
//
// A connection between nodes is TCP like the phone's: what a phone has answered over its
// connection it does not repeat, so nothing may be lost further on.

// SetMembers states the addresses of the nodes of the cluster, in place of those it had: by
// which they are reached, and from which their connections come. Only they may send to a phone
// that is connected here, and only they are sent what a phone sends. The addresses of this
// node always count.
func (s *Stack) SetMembers(all []netip.Addr) {
	members := make(map[netip.Addr]bool, len(all)+2)
	for _, a := range all {
		members[a.Unmap()] = true
	}
	for _, l := range s.tcp {
		members[l.contact.Addr().Unmap()] = true
	}
	s.members.Store(&members)
}

func (s *Stack) isMember(a netip.Addr) bool { return (*s.members.Load())[a.Unmap()] }

// passes deals with a request that names a connection of this node in its topmost Route, and
// reports whether it did: all other requests are the core's.
func (s *Stack) passes(m *parsed, data []byte, peer core.Peer, back out) bool {
	if len(m.request.Route) == 0 {
		return false
	}
	top := m.request.Route[0].URI
	if !sealed(top.User) || !s.isHere(top) {
		return false
	}
	if m.request.Method == core.ACK && m.request.To.Tag() == tagOf(m.request.CallID, m.via.branch) {
		return true // to what refusePass has answered
	}
	f, genuine := s.named(top)
	if s.endsHere(m.request) || f != nil && f == back.flow && m.request.To.Tag() == "" {
		return false
	}
	member := s.isMember(peer.Addr.Addr())
	status := 0
	switch {
	case f != nil && f == back.flow:
		status = s.outward(m, data, back)
	case member && back.flow != nil && f != nil:
		status = s.inward(m, data, f, back)
	case back.flow != nil && (member || genuine && f == nil):
		status = 430 // RFC 5626 s.5.3: it was ours once, or that of the process before this one
	default:
		status = 403
	}
	if status != 0 {
		s.refusePass(m, status, back, member)
	}
	return true
}

// named returns the open connection that a URI's token names, and whether the token is one
// of this process at all.
func (s *Stack) named(u core.URI) (f *flow, genuine bool) {
	number, genuine := s.flows.seals.open(asToken, u.User)
	if !genuine {
		return nil, false
	}
	return s.flows.numbered(number), true
}

// isHere reports whether a URI names an address that this node listens on.
func (s *Stack) isHere(u core.URI) bool {
	ip, err := netip.ParseAddr(u.Host)
	if err != nil {
		return false
	}
	addr := netip.AddrPortFrom(ip.Unmap(), portOr(u.Port))
	for _, l := range s.tcp {
		if l.contact == addr {
			return true
		}
	}
	for _, u := range s.udp {
		if u.contact == addr {
			return true
		}
	}
	return false
}

// endsHere reports whether a request through this node is for its own core, as after it took
// the call over from the node that had sent its requests through here. Then the token does not
// matter: the phone may have connected again.
func (s *Stack) endsHere(r *core.Request) bool { return len(r.Route) == 1 && s.isHere(r.URI) }

// homeward sends a request of the core whose first Route is a connection of this very node
// straight there: the core has taken over a call that went through here.
func (s *Stack) homeward(e core.SendRequest) core.SendRequest {
	if len(e.Request.Route) == 0 {
		return e
	}
	top := e.Request.Route[0].URI
	if !sealed(top.User) || !s.isHere(top) {
		return e
	}
	f, _ := s.named(top)
	if f == nil {
		return e // by our own door, where it gets its 430
	}
	short := *e.Request
	short.Route = short.Route[1:]
	e.Request, e.To = &short, core.Target{Transport: core.TCP, Flow: f.id}
	return e
}

// inward passes a request of another node to a phone. The result is the status that refuses
// it, 0 for none.
func (s *Stack) inward(m *parsed, data []byte, f *flow, back out) int {
	p := &passage{stack: s, method: m.request.Method, data: data}
	if status := p.prepare(m, back); status != 0 {
		return status
	}
	p.edit.unroute = true
	switch m.request.Method {
	case core.INVITE, core.REFER, core.NOTIFY, "SUBSCRIBE":
		p.edit.above = append(append(append(p.edit.above, "Record-Route: <"...), f.token...), ">\r\n"...)
	}
	if !p.leave(out{flow: f, addr: f.remote}) {
		return 430
	}
	return 0
}

// outward passes a phone's request to the node that has its dialog.
func (s *Stack) outward(m *parsed, data []byte, back out) int {
	if back.flow.passes() > s.cfg.MaxPassed {
		return 503
	}
	next := m.request.URI
	if len(m.request.Route) > 1 {
		if next = m.request.Route[1].URI; next.User != "" {
			return 403
		}
	}
	ip, err := netip.ParseAddr(next.Host)
	if err != nil || !s.isMember(ip) || s.isHere(next) {
		return 403
	}
	// The bytes are not valid beyond this call, and the connection to the member may have to be made.
	kept := *m
	p := &passage{stack: s, method: m.request.Method, data: bytes.Clone(data), refused: func(status int) { s.refusePass(&kept, status, back, false) }}
	if status := p.prepare(m, back); status != 0 {
		return status
	}
	p.edit.unroute = true
	transport := core.UDP // RFC 3263 s.4.1
	if t, ok := next.Param("transport"); ok {
		transport = core.Transport(strings.ToLower(t))
	}
	s.route(core.Target{Transport: transport, Host: next.Host, Port: next.Port}, p)
	return 0
}

// passage is a message on its way through, as it came and with what changes.
type passage struct {
	stack   *Stack
	method  string // of a request, "" of a response
	data    []byte
	edit    splice
	branch  string
	hop     string
	refused func(status int) // says that it could not go on
}

// prepare checks what RFC 3261 s.16.3 asks a proxy to check, and fills in what every request
// gets. The result is the status that refuses it, 0 for none.
func (p *passage) prepare(m *parsed, back out) int {
	s, r := p.stack, m.request
	if !clean(p.data) {
		return 400
	}
	switch left := r.Get("Max-Forwards"); left {
	case "":
		p.edit.above = append(p.edit.above, "Max-Forwards: 70\r\n"...)
	case "0":
		return 483
	default:
		n, _ := strconv.Atoi(left)
		p.edit.forwards = strconv.Itoa(max(0, n-1))
	}
	for _, text := range r.Via {
		if !strings.Contains(text, passedCookie) {
			continue
		}
		if v, err := parseVia(text); err == nil && s.isOurs(v) {
			return 482 // each end is a user agent: nothing comes through here twice
		}
	}
	p.branch = s.flows.seals.branchOf(m)
	p.hop = s.flows.seals.seal(asHop, back.flow.number, p.branch)
	p.edit.via = r.Via[0] // with received and rport, as for every request
	return 0
}

// build writes the message as it leaves by a way.
func (p *passage) build(b []byte, o out) []byte {
	edit := p.edit
	if p.method != "" {
		var room [256]byte
		above := append(append(room[:0], "Via: "...), o.via(p.branch)...)
		above = append(append(append(above, ";"+hopParam+"="...), p.hop...), "\r\n"...)
		edit.above = append(above, p.edit.above...)
	}
	return edit.append(b, p.data)
}

// leave writes the message to a connection.
func (p *passage) leave(o out) bool {
	s := p.stack
	scratch := s.scratch.Get().(*[]byte)
	defer s.scratch.Put(scratch)
	*scratch = p.build((*scratch)[:0], o)
	if o.write(*scratch) != nil {
		s.tally.unsent.Add(1)
		return false
	}
	s.tally.passed.Add(1)
	return true
}

// start is the end of route. A phone that is told at once that the node is gone can take the
// request of the one that follows: while its own waits for an answer it could not (s.14.1).
func (p *passage) start(o out, wire []byte, err error) {
	s := p.stack
	if err == nil {
		err = o.write(wire)
	}
	switch {
	case err == nil:
		s.tally.passed.Add(1)
		return
	case p.refused != nil:
		p.refused(503)
	}
	s.tally.unsent.Add(1)
	s.log.Debug("SIP: a message for another node could not be sent", "method", p.method, "error", err)
}

// refusePass answers a request that is not passed on, without a transaction (s.16.11). A
// datagram of a stranger gets no answer: it may name anybody as its source.
func (s *Stack) refusePass(m *parsed, status int, back out, member bool) {
	s.tally.passRefused.Add(1)
	r := m.request
	if r.Method == core.ACK || !member && (back.flow == nil || back.flow.passes() > 2*s.cfg.MaxPassed) {
		return
	}
	res := r.Reply(status, tagOf(r.CallID, m.via.branch))
	res.RecordRoute = nil
	if status == 503 {
		res.Header = []core.Field{{Name: "Retry-After", Value: "1"}}
	}
	if back.write(appendResponse(make([]byte, 0, 512), res, s.cfg.Software)) == nil {
		s.tally.sentResponse(status)
	}
}

// passes counts a message for another node, and returns how many there were in this second.
// To the anchors it all comes from this node, so their limits for one source can't tell a
// phone that floods. Requests above MaxPassed are told 503, some as many again; then there
// is silence.
func (f *flow) passes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now().Unix(); f.second != now {
		f.second, f.passed = now, 0
	}
	f.passed++
	return f.passed
}

// passesBack deals with a response to a request that was passed on, and reports whether it
// did. It goes where the Via of this node says that the request came from; what that Via says
// is sealed, so nobody can send a response anywhere by it that had no request.
func (s *Stack) passesBack(m *parsed, data []byte, peer core.Peer, back out) bool {
	if !strings.HasPrefix(m.via.branch, passedCookie) {
		return false
	}
	number, genuine := s.flows.seals.open(asHop, hopOf(&m.via), m.via.branch)
	member := s.isMember(peer.Addr.Addr())
	if !genuine || !s.isOurs(m.via) || len(m.response.Via) < 2 || !clean(data) ||
		!member && (back.flow == nil || back.flow.passes() > s.cfg.MaxPassed) {
		s.tally.strays.Add(1)
		return true
	}
	p := &passage{stack: s, data: data}
	if f := s.flows.numbered(number); f != nil && p.leave(out{flow: f, addr: f.remote}) {
		return true
	}
	// The connection is gone: RFC 3261 s.18.2.2 has a new one made, to where the sender listens.
	v, err := parseVia(m.response.Via[1])
	if addr := v.answerAddr(); err == nil && addr.IsValid() && s.isMember(addr.Addr()) && v.transport == "TCP" {
		p.data = bytes.Clone(data)
		s.route(core.Target{Transport: core.TCP, Host: addr.Addr().String(), Port: addr.Port()}, p)
		return true
	}
	s.tally.strays.Add(1)
	return true
}
