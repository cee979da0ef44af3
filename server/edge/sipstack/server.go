package sipstack

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// state is that of a transaction, of a peer or of ours (RFC 3261 s.17, RFC 6026 s.7).
type state string

// The states. Calling and Trying are one: what differs is the method.
const (
	trying     state = "trying"     // nothing was answered yet
	proceeding state = "proceeding" // answered provisionally
	accepted   state = "accepted"   // INVITE, by a 2xx
	completed  state = "completed"  // by any other final response
	confirmed  state = "confirmed"  // INVITE refused, and the ACK has come
	terminated state = "terminated"
)

// serverTxn is a transaction of a peer (RFC 3261 s.17.2, RFC 6026 s.7.1). It is given each
// response as the bytes to send, so that it is repeated as it was.
type serverTxn struct {
	stack  *Stack
	id     core.TxnID
	source netip.Addr
	back   out // where responses go
	invite bool
	opens  bool // the request has no tag in To: it is of no dialog

	mu      sync.Mutex
	state   state
	request *core.Request // an INVITE as long as its 100 may have to be made
	last    []byte        // the latest response, as long as it may have to be repeated
	status  int           // of last
	again   alarm         // Timer G; of an INVITE without an answer, its 100
	pause   time.Duration // of Timer G
	end     alarm         // Timers H, I, J, L; without an answer, the end of patience

	place *list.Element // in serverTable.spare, under the lock of the table
}

func newServerTxn(s *Stack, id core.TxnID, r *core.Request, source netip.Addr, back out) *serverTxn {
	t := &serverTxn{stack: s, id: id, source: source, back: back, state: trying,
		invite: r.Method == core.INVITE, opens: r.To.Tag() == ""}
	t.again.owner, t.end.owner = t, t
	if t.invite {
		t.request = r
	}
	return t
}

// open adds a transaction to the table and starts its timers. It reports false when another
// reader was quicker with the same request. A copy on another connection finds it the moment
// it is in the table, so it is whole by then and stays locked until its timers run.
func (t *serverTxn) open() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stack
	if !s.servers.add(t, time.Now()) {
		return false
	}
	if t.invite {
		// s.17.2.1: 100 after 200 ms at most, unless another response is quicker, as nearly
		// always. An INVITE may wait for the core as long as it likes.
		s.alarms.set(&t.again, s.timing.trying)
	} else {
		s.alarms.set(&t.end, s.timing.giveUp()) // the peer gives up then (s.17.1.2.2)
	}
	return true
}

// repeat answers a repeated request.
func (t *serverTxn) repeat() {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.state {
	case trying:
		if t.invite { // its 100 is due now (s.17.2.1)
			t.hurry()
		}
	case proceeding, completed:
		t.write()
	}
}

// hurry sends the 100 of an INVITE.
func (t *serverTxn) hurry() {
	t.state, t.last, t.status = proceeding, tryingTo(t.request), 100
	t.request = nil
	t.stack.alarms.stop(&t.again)
	t.write()
}

// write sends the latest response. A transaction whose transport fails is over (s.17.2.4).
func (t *serverTxn) write() bool {
	if t.back.write(t.last) != nil {
		t.terminate()
		return false
	}
	t.stack.tally.sentResponse(t.status)
	return true
}

// respond sends a response of the core and reports whether it went out, or had not to: the
// first final response is the last word, except that the core repeats a 2xx to INVITE until
// the ACK comes (s.13.3.1.4).
func (t *serverTxn) respond(status int, wire []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.state == trying || t.state == proceeding:
	case t.state == accepted && status/100 == 2:
	default:
		return true
	}
	s := t.stack
	first := t.state != accepted
	t.last, t.status, t.request = wire, status, nil
	s.alarms.stop(&t.again)
	if !t.write() {
		return false
	}
	switch {
	case status < 200:
		t.state, t.last = proceeding, bytes.Clone(wire)
	case t.invite && status < 300:
		t.state, t.last = accepted, nil // RFC 6026: a repeated INVITE is absorbed
		if first {
			s.alarms.set(&t.end, s.timing.giveUp()) // Timer L
		}
	case t.invite:
		t.complete(wire)
	case t.back.flow != nil: // nothing is repeated there: Timer J is 0
		t.terminate()
	default:
		t.state, t.last = completed, bytes.Clone(wire)
		s.alarms.set(&t.end, s.timing.giveUp()) // Timer J
		s.servers.answered(t)
	}
	return true
}

// complete waits for the ACK to the refusal of an INVITE.
func (t *serverTxn) complete(wire []byte) {
	s := t.stack
	t.state, t.last = completed, bytes.Clone(wire)
	s.servers.count(t.source, 1)
	s.alarms.set(&t.end, s.timing.giveUp()) // Timer H
	if t.back.flow == nil {
		t.pause = s.timing.t1
		s.alarms.set(&t.again, t.pause) // Timer G
	}
}

// ack ends the repetition of a refusal. It reports false when the ACK is the core's: to a
// 2xx it should come under a new branch, but some peers keep the INVITE's.
func (t *serverTxn) ack() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stack
	switch t.state {
	case accepted, terminated:
		return false
	case completed:
		s.servers.count(t.source, -1)
		t.state, t.last = confirmed, nil
		s.alarms.stop(&t.again)
		if t.back.flow != nil {
			t.terminate()
			return true
		}
		s.alarms.set(&t.end, s.timing.t4) // Timer I
	}
	return true
}

// refuse sends a final response once and ends. What it was is known for as long as copies
// of the request may come, before the transaction is gone: one in between must not be new.
func (t *serverTxn) refuse(status int, wire []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != trying && t.state != proceeding {
		return
	}
	now := time.Now()
	t.stack.servers.remember(t.id, refusal{status, bytes.Clone(wire), now.Add(t.stack.timing.giveUp())}, now)
	t.last, t.status = wire, status
	if t.write() {
		t.terminate()
	}
}

// ring is how alarms ring.
func (t *serverTxn) ring(a *alarm, now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case a.stale(now):
	case a == &t.end:
		if t.state == trying || t.state == proceeding {
			t.stack.tally.unanswered.Add(1)
		}
		t.terminate()
	case t.state == trying:
		t.hurry()
	case t.state == completed:
		if t.write() {
			t.pause = min(2*t.pause, t.stack.timing.t2)
			t.stack.alarms.set(&t.again, t.pause)
		}
	}
}

func (t *serverTxn) terminate() {
	if t.state == terminated {
		return
	}
	if t.state == completed && t.invite {
		t.stack.servers.count(t.source, -1)
	}
	t.state, t.last, t.request = terminated, nil, nil
	t.stack.alarms.stop(&t.again)
	t.stack.alarms.stop(&t.end)
	t.stack.servers.remove(t)
}

// drop ends the transaction without a word.
func (t *serverTxn) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.terminate()
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
		t.repeat()
		return
	}
	if known, ok := s.servers.refusal(id, time.Now()); ok {
		s.tally.repeated.Add(1)
		if back.write(known.wire) == nil {
			s.tally.sentResponse(known.status)
		}
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
	if cancels == "" && !s.room(source) {
		s.tally.shedTxns.Add(1)
		s.refuseBusy(&m, back)
		return
	}
	t := newServerTxn(s, id, m.request, source, back)
	if !t.open() { // the same request on another connection, at the same instant
		return
	}
	e := core.RequestReceived{Txn: id, Cancels: cancels, From: peer, Request: m.request}
	if s.inbox.offer(e) {
		return
	}
	s.shed(t, &m, e)
}

// room makes room for a transaction of source, or reports that there is none.
func (s *Stack) room(source netip.Addr) bool {
	ok, spare := s.servers.room(source)
	if spare != nil {
		s.tally.dropped.Add(1)
		spare.drop()
	}
	return ok
}

// shed deals with a request for which the core has no room. A peer whose BYE or CANCEL
// goes unanswered repeats it over UDP; over TCP nothing is repeated, so it is kept.
func (s *Stack) shed(t *serverTxn, m *parsed, e core.RequestReceived) {
	s.tally.shedInbox.Add(1)
	switch ends := m.request.Method == core.BYE || m.request.Method == core.CANCEL; {
	case ends && t.back.flow != nil:
		s.inbox.keep(e)
	case ends:
		t.drop()
	default:
		t.drop()
		s.refuseBusy(m, t.back)
	}
}

// tryingTo writes a 100, with the Timestamp that s.8.2.6.1 asks for.
func tryingTo(r *core.Request) []byte {
	res := r.Reply(100, "")
	res.RecordRoute = nil
	if ts := r.Get("Timestamp"); ts != "" {
		res.Header = []core.Field{{Name: "Timestamp", Value: ts}}
	}
	return appendResponse(make([]byte, 0, 384), res, "")
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
	id := serverID(&m, core.INVITE, peer.Addr.Addr())
	if t := s.servers.get(id); t != nil && t.ack() {
		return
	}
	if _, ok := s.servers.refusal(id, time.Now()); ok {
		return
	}
	if strings.HasPrefix(m.request.To.Tag(), statelessTag) {
		return
	}
	if !s.inbox.offer(core.RequestReceived{From: peer, Request: m.request}) {
		s.tally.shedInbox.Add(1) // comes again: the core repeats its 2xx until then
	}
}

// respond sends a response of the core.
func (s *Stack) respond(e core.Respond) {
	t := s.servers.get(e.Txn)
	if t == nil {
		s.respondByVia(e, appendResponse(make([]byte, 0, 1024), e.Response, s.cfg.Software))
		return
	}
	scratch := s.scratch.Get().(*[]byte)
	defer s.scratch.Put(scratch)
	// 481 (s.12.2.2): the tag in To is of no dialog here, so anybody may have written it.
	stranger := t.opens || e.Response.Status == 481
	if t.invite && stranger && e.Response.Status >= 300 && !s.servers.mayRefuse(t.source) {
		s.tally.forgotten.Add(1)
		res := *e.Response
		if t.opens { // the same each time, also when the table has forgotten it; its ACK ends here
			res.To = res.To.WithTag(tagOf(res.CallID, string(e.Txn)))
		}
		*scratch = appendResponse((*scratch)[:0], &res, s.cfg.Software)
		t.refuse(res.Status, *scratch)
		return
	}
	*scratch = appendResponse((*scratch)[:0], e.Response, s.cfg.Software)
	switch {
	case t.respond(e.Response.Status, *scratch):
	case t.back.flow != nil: // its connection is gone: s.18.2.2 asks for a new one
		s.respondByVia(e, bytes.Clone(*scratch))
	default:
		s.tally.unsent.Add(1)
	}
}

// respondByVia answers a transaction that is not known (any more): by the flow, else by
// the topmost Via, which was stamped when the request came (RFC 3261 s.18.2.2).
func (s *Stack) respondByVia(e core.Respond, wire []byte) {
	if f := s.flows.get(e.To.Flow); f != nil && f.write(wire) == nil {
		s.tally.sentResponse(e.Response.Status)
		return
	}
	l := &lateResponse{stack: s, res: e.Response, wire: wire}
	target, o, ok := s.answerTarget(e)
	switch {
	case ok:
		l.start(o, wire, nil)
	case target.Host == "":
		l.start(out{}, nil, errVia)
	default:
		s.route(target, l)
	}
}

// lateResponse is a response without a transaction on its way.
type lateResponse struct {
	stack *Stack
	res   *core.Response
	wire  []byte
}

func (l *lateResponse) build(b []byte, _ out) []byte { return append(b, l.wire...) }

func (l *lateResponse) start(o out, wire []byte, err error) {
	if err == nil {
		err = o.write(wire)
	}
	if err != nil {
		l.stack.tally.unsent.Add(1)
		l.stack.log.Debug("SIP: a response could not be sent", "status", l.res.Status, "call_id", l.res.CallID, "error", err)
		return
	}
	l.stack.tally.sentResponse(l.res.Status)
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
