package sipstack

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// clientTxn is a transaction of ours (RFC 3261 s.17.1, RFC 6026 s.7.2).
type clientTxn struct {
	stack  *Stack
	id     core.TxnID
	branch string
	method string
	t1     time.Duration
	sentBy netip.AddrPort // in Via in place of ours; zero: ours

	mu        sync.Mutex
	state     state         // "" until the request is sent
	request   *core.Request // until a final response
	way       out
	wire      []byte // the request, likewise
	ack       []byte // to a final response other than 2xx
	cancelled bool
	behind    []*clientTxn // what must not leave before the request: its CANCEL
	again     alarm        // Timers A and E
	pause     time.Duration
	end       alarm // Timers B, D, F, M; of a cancelled INVITE, s.9.1
}

const cancelSuffix = "/CANCEL"

// clientID is the TxnID under which events about a request are emitted.
func clientID(e core.SendRequest) core.TxnID {
	if e.Request.Method == core.CANCEL && !strings.HasSuffix(string(e.Txn), cancelSuffix) {
		return e.Txn + cancelSuffix
	}
	return e.Txn
}

// clientTable finds and counts transactions of ours.
type clientTable struct {
	mu      sync.Mutex
	limit   int
	byID    map[core.TxnID]*clientTxn
	invites int
}

func (t *clientTable) init(limit int) { t.limit, t.byID = limit, map[core.TxnID]*clientTxn{} }

func (t *clientTable) get(id core.TxnID) *clientTxn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

func (t *clientTable) add(c *clientTxn) (known, full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[c.id] != nil {
		return true, false
	}
	if len(t.byID) >= t.limit && c.method != core.CANCEL {
		return false, true
	}
	t.byID[c.id] = c
	if c.method == core.INVITE {
		t.invites++
	}
	return false, false
}

func (t *clientTable) remove(c *clientTxn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[c.id] == c {
		delete(t.byID, c.id)
		if c.method == core.INVITE {
			t.invites--
		}
	}
}

func (t *clientTable) counts() (invite, other int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.invites, len(t.byID) - t.invites
}

func (t *clientTable) terminateAll() {
	t.mu.Lock()
	all := make([]*clientTxn, 0, len(t.byID))
	for _, c := range t.byID {
		all = append(all, c)
	}
	t.mu.Unlock()
	for _, c := range all {
		c.conclude(core.Undelivered)
	}
}

// send carries out a SendRequest.
func (s *Stack) send(e core.SendRequest) {
	e = s.homeward(e)
	if e.Request.Method == core.ACK {
		s.route(e.To, &ackLetter{stack: s, branch: string(e.Txn), request: e.Request})
		return
	}
	c := &clientTxn{stack: s, id: clientID(e), method: e.Request.Method, request: e.Request, t1: s.timing.t1, sentBy: e.SentBy}
	if e.T1 > 0 {
		c.t1 = min(time.Duration(e.T1)*time.Millisecond, s.timing.t1)
	}
	c.again.owner, c.end.owner = c, c
	c.branch = strings.TrimSuffix(string(c.id), cancelSuffix)
	switch known, full := s.clients.add(c); {
	case known:
		s.log.Warn("SIP: a request was asked for twice under one branch, the second is not sent", "txn", c.id)
		return
	case full:
		s.tally.shedClients.Add(1)
		s.inbox.keep(core.TransactionFailed{Txn: c.id, Cause: core.Undelivered})
		return
	}
	if e.Request.Method == core.CANCEL {
		if invite := s.clients.get(core.TxnID(c.branch)); invite != nil {
			invite.cancelledBy(c)
			return
		}
	}
	s.route(e.To, c)
}

// ackLetter is the ACK to a 2xx: sent once, without a transaction (RFC 3261 s.13.2.2.4).
type ackLetter struct {
	stack   *Stack
	branch  string
	request *core.Request
}

func (l *ackLetter) build(b []byte, o out) []byte {
	return appendRequest(b, l.request, o.via(l.branch), l.stack.cfg.Software)
}

func (l *ackLetter) start(o out, wire []byte, err error) {
	if err == nil {
		err = o.write(wire)
	}
	if err != nil {
		l.stack.tally.unsent.Add(1)
		l.stack.log.Debug("SIP: an ACK could not be sent", "call_id", l.request.CallID, "error", err)
		return
	}
	l.stack.tally.sentRequest(core.ACK)
}

func (c *clientTxn) build(b []byte, o out) []byte {
	c.mu.Lock()
	r := c.request
	c.mu.Unlock()
	if r == nil { // over, while it waited for a connection
		return b
	}
	return appendRequest(b, r, c.via(o), c.stack.cfg.Software)
}

func (c *clientTxn) via(o out) string {
	if c.sentBy.IsValid() {
		return writeVia(o.transport(), c.sentBy, c.branch)
	}
	return o.via(c.branch)
}

// start sends the request, and then what waited behind it. An answer that comes meanwhile
// waits for the lock, and so for the timers.
func (c *clientTxn) start(o out, wire []byte, err error) {
	c.mu.Lock()
	if c.state == terminated { // Close or the end of the connection came in between
		c.mu.Unlock()
		return
	}
	s := c.stack
	c.way = o
	if err == nil && o.flow != nil && !o.flow.await(c) {
		err = errFlowClosed
	}
	if err == nil {
		err = o.write(wire)
	}
	if err != nil {
		s.tally.unsent.Add(1)
		s.log.Debug("SIP: a request could not be sent", "method", c.method, "call_id", c.request.CallID, "error", err)
		c.mu.Unlock()
		c.conclude(core.Undelivered)
		return
	}
	s.tally.sentRequest(c.method)
	c.state = trying
	if o.flow == nil {
		c.wire = bytes.Clone(wire)
		c.pause = c.t1
		s.alarms.set(&c.again, c.pause)
	}
	s.alarms.set(&c.end, s.timing.giveUp())
	behind := c.behind
	c.behind = nil
	c.mu.Unlock()
	for _, cancel := range behind {
		cancel.follow(o)
	}
}

// ring is how alarms ring.
func (c *clientTxn) ring(a *alarm, now time.Duration) {
	c.mu.Lock()
	if a.stale(now) {
		c.mu.Unlock()
		return
	}
	if a == &c.end {
		c.mu.Unlock()
		c.conclude(core.TimedOut)
		return
	}
	// s.17.1.1.2: Timer A doubles, and an INVITE that rings is not repeated. s.17.1.2.2:
	// Timer E doubles up to T2, and is T2 once there was a provisional response.
	t := &c.stack.timing
	switch {
	case c.method == core.INVITE:
		c.pause *= 2
	case c.state == proceeding:
		c.pause = t.t2
	default:
		c.pause = min(2*c.pause, t.t2)
	}
	err := c.way.write(c.wire)
	if err == nil {
		c.stack.tally.sentRequest(c.method)
		c.stack.alarms.set(&c.again, c.pause)
	}
	c.mu.Unlock()
	if err != nil {
		c.conclude(core.Undelivered)
	}
}

// conclude ends the transaction. The core is told when there was no final response.
func (c *clientTxn) conclude(cause core.FailCause) {
	was, behind, flow := c.terminate()
	if was == terminated {
		return
	}
	c.stack.clients.remove(c)
	if flow != nil {
		flow.forget(c)
	}
	for _, cancel := range behind {
		cancel.start(out{}, nil, errNotSent)
	}
	if was != accepted && was != completed {
		c.stack.inbox.keep(core.TransactionFailed{Txn: c.id, Cause: cause})
	}
}

// terminate lets go of everything but the way, and returns what there was.
func (c *clientTxn) terminate() (was state, behind []*clientTxn, flow *flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, behind, flow = c.state, c.behind, c.way.flow
	if was == terminated {
		return was, nil, nil
	}
	c.state, c.request, c.wire, c.ack = terminated, nil, nil, nil
	c.behind = nil
	c.stack.alarms.stop(&c.again)
	c.stack.alarms.stop(&c.end)
	return was, behind, flow
}

// cancelledBy sends a CANCEL the way its INVITE went, under the same Via (RFC 3261 s.9.1),
// and not before it. If the INVITE has no final response 64*T1 later it is over.
func (c *clientTxn) cancelledBy(cancel *clientTxn) {
	c.mu.Lock()
	if !c.cancelled && c.state == proceeding { // before, Timer B runs
		c.stack.alarms.set(&c.end, c.stack.timing.giveUp())
	}
	c.cancelled = true
	o, sent := c.way, c.state != "" && c.way != (out{})
	if c.state == "" {
		c.behind = append(c.behind, cancel)
	}
	waits := c.state == ""
	c.mu.Unlock()
	switch {
	case waits:
	case sent:
		cancel.follow(o)
	default:
		cancel.start(out{}, nil, errNotSent)
	}
}

// follow sends a CANCEL the way its INVITE went.
func (c *clientTxn) follow(o out) {
	c.start(o, c.build(nil, o), nil)
}

// gotResponse is the way of every response that could be read.
func (s *Stack) gotResponse(m parsed, peer core.Peer) {
	r := m.response
	id := core.TxnID(m.via.branch)
	if r.Method == core.CANCEL {
		id += cancelSuffix
	}
	e := core.ResponseReceived{Txn: id, From: peer, Response: r}
	c := s.clients.get(id)
	if c == nil || c.method != r.Method {
		s.stray(m, e)
		return
	}
	switch c.receive(r) {
	case forCore:
		s.inbox.keep(e)
		if c.method != core.INVITE && r.Status >= 200 {
			c.conclude("") // instead of Timer K, see the package comment
		}
	case absorbed:
		s.tally.strays.Add(1)
	case unknown:
		s.stray(m, e)
	}
}

// verdict says what becomes of a response.
type verdict uint8

const (
	forCore  verdict = iota
	absorbed         // nothing new
	unknown          // no transaction waited for it
)

// receive runs the transaction on a response.
func (c *clientTxn) receive(r *core.Response) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, invite := c.stack, c.method == core.INVITE
	switch c.state {
	case "":
		return unknown // it can't be ours: nothing was sent
	case accepted:
		if r.Status/100 == 2 { // repeated or forked: each for the core (RFC 6026 s.7.2)
			return forCore
		}
		return absorbed
	case completed:
		switch {
		case invite && r.Status/100 == 2: // of another fork (s.13.2.2.4)
			return forCore
		case invite && r.Status >= 300: // our ACK was lost
			c.sendAck()
		}
		return absorbed
	case terminated:
		return absorbed
	}
	switch {
	case r.Status < 200:
		c.provisional()
		return forCore
	case invite && r.Status < 300:
		c.state = accepted
		s.alarms.set(&c.end, s.timing.giveUp()) // Timer M
	case invite:
		c.state = completed
		c.ack = c.ackTo(r)
		c.sendAck()
		d := s.timing.d
		if c.way.flow != nil {
			d = 0
		}
		s.alarms.set(&c.end, d) // Timer D
	default:
		c.state = completed
	}
	s.alarms.stop(&c.again)
	c.request, c.wire = nil, nil
	return forCore
}

// provisional deals with a 1xx: an INVITE is not repeated any more, and may ring as long
// as the core likes, unless it is cancelled.
func (c *clientTxn) provisional() {
	first := c.state == trying
	c.state = proceeding
	if !first || c.method != core.INVITE {
		return
	}
	s := c.stack
	s.alarms.stop(&c.again)
	s.alarms.stop(&c.end)
	if c.cancelled {
		s.alarms.set(&c.end, s.timing.giveUp())
	}
}

func (c *clientTxn) sendAck() {
	if c.way.write(c.ack) == nil {
		c.stack.tally.sentRequest(core.ACK)
	}
}

// ackTo makes the ACK to a final response other than 2xx (RFC 3261 s.17.1.1.3).
func (c *clientTxn) ackTo(r *core.Response) []byte {
	q := c.request
	ack := &core.Request{Method: core.ACK, URI: q.URI, Message: core.Message{
		From: q.From, To: r.To, CallID: q.CallID, CSeq: q.CSeq, Route: q.Route,
	}}
	return appendRequest(make([]byte, 0, 512), ack, c.via(c.way), c.stack.cfg.Software)
}

// stray deals with a response that no transaction waits for. RFC 3261 s.18.1.2: with a
// sent-by that is not ours it is dropped; s.13.2.2.4: a 2xx to INVITE is the core's.
func (s *Stack) stray(m parsed, e core.ResponseReceived) {
	r := m.response
	if r.Method == core.INVITE && r.Status/100 == 2 && len(r.Via) == 1 && s.isOurs(m.via) {
		s.inbox.keep(e)
		return
	}
	s.tally.strays.Add(1)
}

func (s *Stack) isOurs(v via) bool {
	if !strings.HasPrefix(v.branch, cookie) {
		return false
	}
	for _, u := range s.udp {
		if v.transport == "UDP" && v.host == u.contact.Addr().String() && v.portOrDefault() == u.contact.Port() {
			return true
		}
	}
	for _, l := range s.tcp {
		if v.transport == "TCP" && v.host == l.contact.Addr().String() && v.portOrDefault() == l.contact.Port() {
			return true
		}
	}
	return false
}
