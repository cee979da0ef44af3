package sipstack

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// unowned are the methods of sip.Connection by which the library counts users of a socket.
// Sockets belong to the Stack, so they do nothing.
type unowned struct{}

func (unowned) LocalAddr() net.Addr    { return nil }
func (unowned) Ref(int) int            { return 1 }
func (unowned) TryClose() (int, error) { return 1, nil }
func (unowned) Close() error           { return nil }

// serverTxn is a transaction of a peer (RFC 3261 s.17.2). The library's machine decides
// what is sent when; it is given messages that carry their bytes as body, so that each is
// written once, as the core wants it, and repeated as it was.
type serverTxn struct {
	unowned
	stack   *Stack
	id      core.TxnID
	source  netip.Addr
	back    out // where responses go
	machine *sip.ServerTx
	origin  *sip.Request
	born    time.Time

	mu    sync.Mutex
	final int    // status of the final response, 0 before
	last  []byte // the latest response
	acked bool
}

// WriteMsg is how the machine sends, now and when its timers repeat. A message without
// bytes is the 100 that the machine makes by itself 200 ms after an INVITE, if this process
// was held up so long before it gave its own; from then on the machine would repeat that
// one in place of the latest response.
func (t *serverTxn) WriteMsg(msg sip.Message) error {
	res, ok := msg.(*sip.Response)
	if !ok {
		return errors.New("a server transaction sends responses only")
	}
	wire := res.Body()
	if len(wire) == 0 {
		t.mu.Lock()
		wire = t.last
		t.mu.Unlock()
	}
	if err := t.back.write(wire); err != nil {
		return err
	}
	t.stack.tally.sentResponse(res.StatusCode)
	return nil
}

// carrier is a message for the machines: a status, and the bytes to write.
func carrier(status int, wire []byte) *sip.Response {
	r := sip.NewResponse(status, "")
	r.SetBody(wire)
	return r
}

// serverID identifies the transaction that a request opens or belongs to; method is
// INVITE for an ACK, and to find what a CANCEL cancels (RFC 3261 s.17.2.3, s.9.2).
func serverID(m *parsed, method string, source netip.Addr) core.TxnID {
	b := make([]byte, 0, 256)
	sep := func(s string) { b = append(append(b, s...), 0) }
	sep(method)
	sep(m.via.sentBy())
	sep(m.via.branch)
	if !strings.HasPrefix(m.via.branch, cookie) { // RFC 2543
		sep(m.request.URI.String())
		sep(m.request.From.Tag())
		sep(m.request.CallID)
		sep(strconv.FormatUint(uint64(m.request.CSeq), 10))
	}
	b = source.AppendTo(b)
	sum := sha256.Sum256(b)
	return core.TxnID(hex.EncodeToString(sum[:12]))
}

// serverTable finds and counts transactions of peers.
type serverTable struct {
	mu       sync.Mutex
	limit    int
	byID     map[core.TxnID]*serverTxn
	bySource map[netip.Addr]int
	invites  int
}

func (t *serverTable) init(limit int) {
	t.limit = limit
	t.byID = map[core.TxnID]*serverTxn{}
	t.bySource = map[netip.Addr]int{}
}

func (t *serverTable) get(id core.TxnID) *serverTxn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// room reports whether source may have one more. One source gets half, so that a flood
// from there leaves the other half to everybody else.
func (t *serverTable) room(source netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID) < t.limit && t.bySource[source] < max(1, t.limit/2)
}

// add reports false when another reader was quicker with the same request.
func (t *serverTable) add(x *serverTxn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[x.id] != nil {
		return false
	}
	t.byID[x.id] = x
	t.bySource[x.source]++
	if x.origin.IsInvite() {
		t.invites++
	}
	return true
}

func (t *serverTable) remove(x *serverTxn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[x.id] != x {
		return
	}
	delete(t.byID, x.id)
	if t.bySource[x.source]--; t.bySource[x.source] == 0 {
		delete(t.bySource, x.source)
	}
	if x.origin.IsInvite() {
		t.invites--
	}
}

func (t *serverTable) counts() (invite, other int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.invites, len(t.byID) - t.invites
}

// unanswered returns the transactions other than INVITE that began before an instant and
// have no final response.
func (t *serverTable) unanswered(before time.Time) []*serverTxn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var old []*serverTxn
	for _, x := range t.byID {
		if !x.origin.IsInvite() && x.born.Before(before) && x.status() == 0 {
			old = append(old, x)
		}
	}
	return old
}

func (t *serverTable) terminateAll() {
	t.mu.Lock()
	all := make([]*serverTxn, 0, len(t.byID))
	for _, x := range t.byID {
		all = append(all, x)
	}
	t.mu.Unlock()
	for _, x := range all {
		x.machine.Terminate()
	}
}

func (t *serverTxn) status() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.final
}

// gotRequest is the way of every request that could be read.
func (s *Stack) gotRequest(m parsed, peer core.Peer, back out) {
	method, source := m.request.Method, peer.Addr.Addr()
	if method == core.ACK {
		s.gotAck(m, peer)
		return
	}
	id := serverID(&m, method, source)
	if t := s.servers.get(id); t != nil {
		s.tally.repeated.Add(1)
		t.machine.Receive(t.origin) // repeats the last response, if there is one
		return
	}
	var cancels core.TxnID
	if method == core.CANCEL {
		if invite := s.servers.get(serverID(&m, core.INVITE, source)); invite != nil {
			cancels = invite.id
		}
	}
	// A CANCEL that matches is let in at the limit: it makes room, and there is at most
	// one per INVITE.
	if cancels == "" && !s.servers.room(source) {
		s.tally.shedTxns.Add(1)
		s.refuseBusy(&m, back)
		return
	}
	t, err := s.openServer(id, &m, source, back)
	if err != nil {
		return
	}
	if !s.servers.add(t) { // the same request on another connection, at the same instant
		t.machine.Terminate()
		return
	}
	if method == core.INVITE {
		t.machine.Respond(carrier(100, t.last))
	}
	e := core.RequestReceived{Txn: id, Cancels: cancels, From: peer, Request: m.request}
	if s.inbox.offer(e) {
		return
	}
	s.shed(t, &m, e)
}

// shed deals with a request for which the core has no room. A peer whose BYE or CANCEL
// goes unanswered repeats it over UDP; over TCP nothing is repeated, so it is kept.
func (s *Stack) shed(t *serverTxn, m *parsed, e core.RequestReceived) {
	s.tally.shedInbox.Add(1)
	switch ends := m.request.Method == core.BYE || m.request.Method == core.CANCEL; {
	case ends && t.back.flow != nil:
		s.inbox.keep(e)
	case ends:
		t.machine.Terminate()
	default:
		t.machine.Terminate()
		s.refuseBusy(m, t.back)
	}
}

func (s *Stack) openServer(id core.TxnID, m *parsed, source netip.Addr, back out) (*serverTxn, error) {
	t := &serverTxn{stack: s, id: id, source: source, back: back, born: time.Now()}
	if m.request.Method == core.INVITE {
		t.last = s.trying(m.request)
	}
	t.origin = &sip.Request{Method: sip.RequestMethod(m.request.Method)}
	t.origin.SetTransport(strings.ToUpper(string(back.transport())))
	t.machine = sip.NewServerTx(string(id), t.origin, t, s.quiet)
	t.machine.OnTerminate(func(string, error) { s.servers.remove(t) })
	return t, t.machine.Init()
}

// trying writes the 100, with the Timestamp that s.8.2.6.1 asks for.
func (s *Stack) trying(r *core.Request) []byte {
	res := r.Reply(100, "")
	res.RecordRoute = nil
	if ts := r.Get("Timestamp"); ts != "" {
		res.Header = []core.Field{{Name: "Timestamp", Value: ts}}
	}
	return appendResponse(make([]byte, 0, 512), res, "")
}

// refuseBusy answers 503 without a transaction (RFC 3261 s.8.2.7).
func (s *Stack) refuseBusy(m *parsed, back out) {
	if !s.tally.mayRefuse() {
		return
	}
	res := m.request.Reply(503, tagOf(m.request.CallID, m.via.branch))
	res.RecordRoute = nil
	res.Header = []core.Field{{Name: "Retry-After", Value: "5"}}
	if back.write(appendResponse(make([]byte, 0, 512), res, s.cfg.Software)) == nil {
		s.tally.sentResponse(503)
	}
}

// gotAck tells the ACK to a 2xx, which is the core's, from the ACK to another final
// response, which ends here (RFC 3261 s.17).
func (s *Stack) gotAck(m parsed, peer core.Peer) {
	if t := s.servers.get(serverID(&m, core.INVITE, peer.Addr.Addr())); t != nil {
		switch status := t.status(); {
		case status >= 300:
			t.ack()
			return
		case status == 0:
			return // nothing was answered yet
		}
		// A 2xx should be acknowledged under a new branch; some peers keep the INVITE's.
	}
	if strings.HasPrefix(m.request.To.Tag(), statelessTag) {
		return
	}
	if !s.inbox.offer(core.RequestReceived{From: peer, Request: m.request}) {
		s.tally.shedInbox.Add(1) // comes again: the core repeats its 2xx until then
	}
}

// ack stops the repetition of a final response. The machine hands the ACK to a receiver
// and would keep a goroutine waiting for one, so there is one.
func (t *serverTxn) ack() {
	t.mu.Lock()
	first := !t.acked
	t.acked = true
	t.mu.Unlock()
	if !first {
		return
	}
	go func() {
		select {
		case <-t.machine.Acks():
		case <-t.machine.Done():
		}
	}()
	t.machine.Receive(&sip.Request{Method: sip.ACK})
}

// respond sends a response of the core.
func (s *Stack) respond(e core.Respond) {
	wire := appendResponse(make([]byte, 0, 1024), e.Response, s.cfg.Software)
	t := s.servers.get(e.Txn)
	if t == nil {
		s.respondByVia(e, wire)
		return
	}
	if !t.admits(e.Response.Status, wire) {
		return
	}
	switch err := t.machine.Respond(carrier(e.Response.Status, wire)); {
	case err == nil:
	case t.back.flow != nil:
		s.respondByVia(e, wire) // its connection is gone: s.18.2.2 asks for a new one
	default:
		s.tally.unsent.Add(1)
	}
}

// admits keeps the machine from a response that its state does not know: it would ignore
// it, but repeat it in place of the right one when the request is repeated.
func (t *serverTxn) admits(status int, wire []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The core repeats a 2xx to INVITE until the ACK comes, s.13.3.1.4.
	again := t.origin.IsInvite() && t.final/100 == 2 && status/100 == 2
	if t.final != 0 && !again {
		return false
	}
	if status >= 200 {
		t.final = status
	}
	t.last = wire
	return true
}

// respondByVia answers a transaction that is not known (any more): by the flow, else by
// the topmost Via, which was stamped when the request came (RFC 3261 s.18.2.2).
func (s *Stack) respondByVia(e core.Respond, wire []byte) {
	status := e.Response.Status
	sent := func(o out, b []byte, err error) {
		if err == nil {
			err = o.write(b)
		}
		if err != nil {
			s.tally.unsent.Add(1)
			s.log.Debug("SIP: a response could not be sent", "status", status, "call_id", e.Response.CallID, "error", err)
			return
		}
		s.tally.sentResponse(status)
	}
	if f := s.flows.get(e.To.Flow); f != nil && f.write(wire) == nil {
		s.tally.sentResponse(status)
		return
	}
	target, o, ok := s.answerTarget(e)
	switch {
	case ok:
		sent(o, wire, nil)
	case target.Host == "":
		sent(out{}, nil, errVia)
	default:
		s.route(target, func(out) []byte { return wire }, sent)
	}
}

// answerTarget returns a socket and an address for datagrams, a target to dial otherwise.
func (s *Stack) answerTarget(e core.Respond) (core.Target, out, bool) {
	if len(e.Response.Via) == 0 {
		return core.Target{}, out{}, false
	}
	top, _ := splitList(e.Response.Via[0])
	if len(top) == 0 {
		return core.Target{}, out{}, false
	}
	v, err := parseVia(top[0])
	if err != nil {
		return core.Target{}, out{}, false
	}
	addr := v.answerAddr()
	if v.transport == "UDP" {
		if !addr.IsValid() && e.To.Addr.IsValid() {
			addr = v.answerPort(e.To.Addr)
		}
		o := out{addr: addr}
		if known, ok := s.byFlow(e.To.Flow); ok && known.sock != nil {
			o.sock = known.sock
		} else {
			o.sock = s.socketFor(addr)
		}
		if addr.IsValid() && o.sock != nil {
			return core.Target{}, o, true
		}
	}
	host := v.received
	if host == "" {
		host = v.host
	}
	return core.Target{Transport: core.Transport(strings.ToLower(v.transport)), Host: host, Port: v.port}, out{}, false
}
