package sipstack

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// clientTxn is a transaction of ours (RFC 3261 s.17.1). As with serverTxn, the library's
// machine decides what is sent when, and the bytes are made here.
type clientTxn struct {
	unowned
	stack   *Stack
	id      core.TxnID
	branch  string
	request *core.Request

	starting sync.Mutex // held while the machine starts: an early answer waits for its timers
	machine  atomic.Pointer[sip.ClientTx]
	way      out    // set before machine, under mu
	wire     []byte // the request, likewise

	mu     sync.Mutex
	final  int                    // status of the final response, 0 before
	over   bool                   // nothing more will be emitted but repeated 2xx
	sent   bool                   // way and machine are set
	behind []func(o out, ok bool) // what must not leave before the request: its CANCEL
	ack    []byte                 // to a final response other than 2xx
	expiry *time.Timer            // of a cancelled INVITE
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
	if len(t.byID) >= t.limit && c.request.Method != core.CANCEL {
		return false, true
	}
	t.byID[c.id] = c
	if c.request.Method == core.INVITE {
		t.invites++
	}
	return false, false
}

func (t *clientTable) remove(c *clientTxn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[c.id] == c {
		delete(t.byID, c.id)
		if c.request.Method == core.INVITE {
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
		c.abandon(core.Undelivered)
	}
}

// send carries out a SendRequest.
func (s *Stack) send(e core.SendRequest) {
	if e.Request.Method == core.ACK {
		s.sendAck(e)
		return
	}
	c := &clientTxn{stack: s, id: clientID(e), request: e.Request}
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
	s.route(e.To, c.build, c.start)
}

// sendAck sends the ACK to a 2xx: once, without a transaction (RFC 3261 s.13.2.2.4).
func (s *Stack) sendAck(e core.SendRequest) {
	build := func(o out) []byte {
		return appendRequest(make([]byte, 0, 1024), e.Request, o.via(string(e.Txn)), s.cfg.Software)
	}
	s.route(e.To, build, func(o out, wire []byte, err error) {
		if err == nil {
			err = o.write(wire)
		}
		if err != nil {
			s.tally.unsent.Add(1)
			s.log.Debug("SIP: an ACK could not be sent", "call_id", e.Request.CallID, "error", err)
			return
		}
		s.tally.sentRequest(core.ACK)
	})
}

func (c *clientTxn) build(o out) []byte {
	return appendRequest(make([]byte, 0, 1024), c.request, o.via(c.branch), c.stack.cfg.Software)
}

// start opens the machine, which sends the request, and then what waited behind it.
func (c *clientTxn) start(o out, wire []byte, err error) {
	c.mu.Lock()
	c.way, c.wire = o, wire
	c.mu.Unlock()
	if err == nil && o.flow != nil && !o.flow.await(c) {
		err = errFlowClosed
	}
	if err != nil {
		c.stack.tally.unsent.Add(1)
		c.stack.log.Debug("SIP: a request could not be sent", "method", c.request.Method,
			"call_id", c.request.CallID, "error", err)
		c.conclude(core.Undelivered)
		return
	}
	machine := sip.NewClientTx(string(c.id), c.origin(), c, c.stack.quiet)
	machine.OnTerminate(func(_ string, err error) { c.conclude(causeOf(err)) })
	c.starting.Lock()
	c.machine.Store(machine)
	err = machine.Init()
	c.starting.Unlock()
	if err != nil {
		c.abandon(core.Undelivered)
		return
	}
	c.mu.Lock()
	c.sent = true
	behind := c.behind
	c.behind = nil
	over := c.over
	c.mu.Unlock()
	for _, f := range behind {
		f(o, true)
	}
	if over { // Close or the end of the connection came in between
		machine.Terminate()
	}
}

// origin is what the machine needs to know of the request.
func (c *clientTxn) origin() *sip.Request {
	r := &sip.Request{Method: sip.RequestMethod(c.request.Method)}
	r.SetTransport(strings.ToUpper(string(c.way.transport())))
	r.AppendHeader(&sip.CSeqHeader{SeqNo: c.request.CSeq, MethodName: r.Method})
	return r
}

// WriteMsg is how the machine sends, now and when its timers repeat: the request, or the
// ACK to a final response other than 2xx.
func (c *clientTxn) WriteMsg(msg sip.Message) error {
	method, wire := c.request.Method, c.wire
	if r, ok := msg.(*sip.Request); ok && r.IsAck() {
		c.mu.Lock()
		method, wire = core.ACK, c.ack
		c.mu.Unlock()
	}
	if err := c.way.write(wire); err != nil {
		return err
	}
	c.stack.tally.sentRequest(method)
	return nil
}

func causeOf(err error) core.FailCause {
	if errors.Is(err, sip.ErrTransactionTimeout) {
		return core.TimedOut
	}
	return core.Undelivered
}

// conclude ends the transaction towards the core, once. It may run inside the machine, so
// it does not call it.
func (c *clientTxn) conclude(cause core.FailCause) {
	c.mu.Lock()
	first, failed := !c.over, !c.over && c.final == 0
	c.over = true
	behind := c.behind
	c.behind = nil
	if c.expiry != nil {
		c.expiry.Stop()
	}
	flow := c.way.flow
	c.mu.Unlock()
	if !first {
		return
	}
	c.stack.clients.remove(c)
	if flow != nil {
		flow.forget(c)
	}
	for _, f := range behind {
		f(out{}, false)
	}
	if failed {
		c.stack.inbox.keep(core.TransactionFailed{Txn: c.id, Cause: cause})
	}
}

// abandon ends the transaction from outside the machine.
func (c *clientTxn) abandon(cause core.FailCause) {
	c.conclude(cause)
	if m := c.machine.Load(); m != nil {
		m.Terminate()
	}
}

// cancelledBy sends a CANCEL the way its INVITE went, under the same Via (RFC 3261 s.9.1),
// and not before it. If the INVITE has no final response 64*T1 later it is over.
func (c *clientTxn) cancelledBy(cancel *clientTxn) {
	follow := func(o out, ok bool) {
		if !ok {
			cancel.start(out{}, nil, errNotSent)
			return
		}
		cancel.start(o, cancel.build(o), nil)
	}
	c.mu.Lock()
	if c.expiry == nil && !c.over {
		c.expiry = time.AfterFunc(sip.Timer_B, func() { c.abandon(core.TimedOut) })
	}
	sent, over, o := c.sent, c.over, c.way
	if !sent && !over {
		c.behind = append(c.behind, follow)
	}
	c.mu.Unlock()
	if sent || over {
		follow(o, sent)
	}
}

// verdict says what a response means to a transaction.
type verdict uint8

const (
	fresh    verdict = iota // for the machine and the core
	again                   // a repeated or forked 2xx to INVITE: for the core
	reAck                   // a repeated other final response to INVITE: our ACK was lost
	absorbed                // nothing new
)

func (c *clientTxn) judge(status int) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	invite := c.request.Method == core.INVITE
	switch {
	case c.final == 0 && c.over:
		return absorbed
	case c.final == 0:
		if status >= 200 {
			c.final = status
		}
		return fresh
	case invite && status >= 200 && status < 300:
		return again
	case invite && c.final >= 300 && status >= 300:
		return reAck
	}
	return absorbed
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
	if c == nil || c.machine.Load() == nil || c.request.Method != r.Method {
		s.stray(m, e)
		return
	}
	c.starting.Lock() // wait for Init: a provisional response must find timer B to stop
	c.starting.Unlock()
	switch c.judge(r.Status) {
	case fresh:
		c.receive(r)
		s.inbox.keep(e)
	case again:
		s.inbox.keep(e)
	case reAck:
		c.mu.Lock()
		ack := c.ack
		c.mu.Unlock()
		if c.way.write(ack) == nil {
			s.tally.sentRequest(core.ACK)
		}
	case absorbed:
		s.tally.strays.Add(1)
	}
}

// receive runs the machine. It hands each response over to a receiver before it goes on,
// so there is one for as long as the call takes.
func (c *clientTxn) receive(r *core.Response) {
	if c.request.Method == core.INVITE && r.Status >= 300 {
		c.writeAck(r)
	}
	machine := c.machine.Load()
	stop := make(chan struct{})
	go func() {
		select {
		case <-machine.Responses():
		case <-stop:
		}
	}()
	machine.Receive(carrier(r.Status, nil))
	close(stop)
	if r.Status >= 200 && c.request.Method != core.INVITE {
		machine.Terminate() // instead of Timer K, see the package comment
	}
}

// writeAck makes the ACK to a final response other than 2xx (RFC 3261 s.17.1.1.3).
func (c *clientTxn) writeAck(r *core.Response) {
	q := c.request
	ack := &core.Request{Method: core.ACK, URI: q.URI, Message: core.Message{
		From: q.From, To: r.To, CallID: q.CallID, CSeq: q.CSeq, Route: q.Route,
	}}
	wire := appendRequest(make([]byte, 0, 512), ack, c.way.via(c.branch), c.stack.cfg.Software)
	c.mu.Lock()
	c.ack = wire
	c.mu.Unlock()
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
