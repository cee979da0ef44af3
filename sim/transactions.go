package sim

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// RFC 3261 s.17.1.1.1: the round-trip estimate and what follows from it.
const (
	t1      = 500 * time.Millisecond
	t2      = 4 * time.Second
	t4      = 5 * time.Second
	timeout = 64 * t1
)

// user is what lies above a transaction layer.
type user interface {
	request(txn, cancels core.TxnID, from parcel)
	response(txn core.TxnID, from parcel)
	failed(txn core.TxnID, cause core.FailCause)
}

// layer is the transaction layer of one end, a phone's or the node's edge: RFC 3261 s.17
// with the accepted state of RFC 6026. It keeps the promises of package core: duplicates
// of requests are absorbed, each final response of ours is given once, a 2xx to INVITE
// each time.
type layer struct {
	w       *World
	self    netip.AddrPort
	up      user
	clients map[core.TxnID]*client
	servers map[core.TxnID]*peer
	ended   map[core.TxnID]bool // non-2xx finals that were given: not again
	strays  bool                // responses of unknown transactions are given, too
	reopen  func(to netip.AddrPort) *conn
}

type client struct {
	txn      core.TxnID
	p        parcel
	target   func() (parcel, bool) // where to send, asked anew for each transmission
	invite   bool
	state    clientState
	interval time.Duration
}

type clientState uint8

const (
	calling clientState = iota
	proceeding
	accepted
	completed
	finished
)

type peer struct { // a server transaction
	txn      core.TxnID
	from     parcel
	last     *core.Response
	final    bool
	ok       bool // the final response is a 2xx to INVITE
	acked    bool
	interval time.Duration
	gone     bool
}

func newLayer(w *World, self netip.AddrPort, up user) *layer {
	return &layer{w: w, self: self, up: up, clients: map[core.TxnID]*client{}, servers: map[core.TxnID]*peer{}, ended: map[core.TxnID]bool{}}
}

// forget drops everything, as a crash does. Timers that are in the heap find their
// transaction finished.
func (l *layer) forget() {
	for _, c := range l.clients { // only flags: the order does not matter
		c.state = finished
	}
	for _, p := range l.servers {
		p.gone = true
	}
	l.clients, l.servers, l.ended = map[core.TxnID]*client{}, map[core.TxnID]*peer{}, map[core.TxnID]bool{}
}

// via makes the top Via of a request.
func via(self netip.AddrPort, transport core.Transport, branch core.TxnID) string {
	return "SIP/2.0/" + strings.ToUpper(string(transport)) + " " + self.String() + ";branch=" + string(branch)
}

// branchOf takes the branch and the sent-by out of a Via.
func branchOf(via string) (branch, sentBy string) {
	_, rest, _ := strings.Cut(via, " ")
	sentBy, params, _ := strings.Cut(rest, ";")
	for p := range strings.SplitSeq(params, ";") {
		if value, found := strings.CutPrefix(p, "branch="); found {
			branch = value
		}
	}
	return branch, sentBy
}

// open starts a client transaction.
func (l *layer) open(txn core.TxnID, r *core.Request, transport core.Transport, target func() (parcel, bool)) {
	key := txn
	if r.Method == core.CANCEL {
		key += "/CANCEL"
	}
	copied := *r
	copied.Via = append([]string{via(l.self, transport, txn)}, r.Via...)
	c := &client{txn: key, p: parcel{req: &copied}, target: target, invite: r.Method == core.INVITE, interval: t1}
	l.clients[key] = c
	l.transmit(c)
	if transport == core.UDP {
		l.w.after(t1, func() { l.again(c) })
	}
	l.w.after(timeout, func() {
		if c.state == calling || c.state == proceeding && !c.invite {
			l.fail(c, core.TimedOut)
		}
	})
}

// once sends a request without a transaction: an ACK to a 2xx.
func (l *layer) once(txn core.TxnID, r *core.Request, transport core.Transport, target func() (parcel, bool)) {
	copied := *r
	copied.Via = append([]string{via(l.self, transport, txn)}, r.Via...)
	if p, ok := target(); ok {
		p.from, p.req = l.self, &copied
		l.w.net.send(p, nil)
	}
}

func (l *layer) transmit(c *client) {
	p, ok := c.target()
	if !ok {
		l.w.after(time.Millisecond, func() { l.fail(c, core.Undelivered) })
		return
	}
	p.from, p.req = l.self, c.p.req
	c.p = p
	l.w.net.send(p, func() { l.fail(c, core.Undelivered) })
}

func (l *layer) fail(c *client, cause core.FailCause) {
	if c.state != calling && c.state != proceeding {
		return
	}
	c.state = finished
	delete(l.clients, c.txn)
	l.up.failed(c.txn, cause)
}

// again is timers A and E.
func (l *layer) again(c *client) {
	if c.state != calling && (c.state != proceeding || c.invite) {
		return
	}
	l.transmit(c)
	c.interval *= 2
	if !c.invite || c.state == proceeding {
		c.interval = min(c.interval, t2)
	}
	l.w.after(c.interval, func() { l.again(c) })
}

// respond answers a server transaction; false when this layer does not know it.
func (l *layer) respond(txn core.TxnID, r *core.Response) bool {
	p := l.servers[txn]
	if p == nil {
		return false
	}
	if p.final && !(p.ok && r.Status/100 == 2) {
		return true // the first final response stands
	}
	p.last = r
	l.reply(p)
	if r.Status < 200 || p.final {
		return true
	}
	p.final = true
	if p.from.req.Method != core.INVITE {
		l.w.after(timeout, func() { l.drop(p) })
		return true
	}
	p.ok = r.Status < 300
	l.w.after(timeout, func() { l.drop(p) })
	if !p.ok && p.from.conn == nil {
		p.interval = t1
		l.w.after(t1, func() { l.repeat(p) })
	}
	return true
}

func (l *layer) drop(p *peer) {
	if !p.gone {
		p.gone = true
		delete(l.servers, p.txn)
	}
}

// repeat is timer G: a refusal of an INVITE is sent until its ACK comes.
func (l *layer) repeat(p *peer) {
	if p.gone || p.acked {
		return
	}
	l.reply(p)
	p.interval = min(2*p.interval, t2)
	l.w.after(p.interval, func() { l.repeat(p) })
}

func (l *layer) reply(p *peer) {
	if p.from.conn != nil && !p.from.conn.open { // RFC 3261 s.18.2.2: a new connection, then
		if p.from.conn = l.reopen(p.from.from); p.from.conn == nil {
			return
		}
	}
	l.w.net.send(parcel{from: l.self, to: p.from.from, conn: p.from.conn, res: p.last}, nil)
}

// arrive takes a message off the network.
func (l *layer) arrive(p parcel) {
	if p.res != nil {
		l.answered(p)
		return
	}
	branch, sentBy := "", ""
	if len(p.req.Via) > 0 {
		branch, sentBy = branchOf(p.req.Via[0])
	}
	base := core.TxnID(branch + "@" + sentBy)
	switch p.req.Method {
	case core.ACK:
		if invite := l.servers[base]; invite != nil && invite.final && !invite.ok {
			invite.acked = true
			return
		}
		l.up.request("", "", p)
	case core.CANCEL:
		cancels := core.TxnID("")
		if l.servers[base] != nil {
			cancels = base
		}
		l.begin(base+"/CANCEL", cancels, p)
	default:
		l.begin(base, "", p)
	}
}

func (l *layer) begin(txn, cancels core.TxnID, p parcel) {
	if known := l.servers[txn]; known != nil {
		if known.last != nil && !known.ok {
			l.reply(known)
		}
		return
	}
	t := &peer{txn: txn, from: p}
	l.servers[txn] = t
	if p.req.Method == core.INVITE {
		wait := time.Duration(0) // some say 100 at once, others when nothing came for a while
		if l.w.rng.IntN(2) == 0 {
			wait = l.w.between(0, 200*time.Millisecond)
		}
		l.w.after(wait, func() { // s.17.2.1
			if t.last == nil && !t.gone {
				t.last = trying(p.req)
				l.reply(t)
			}
		})
	}
	l.up.request(txn, cancels, p)
}

func trying(r *core.Request) *core.Response {
	return &core.Response{Status: 100, Phrase: "Trying", Method: r.Method, Message: core.Message{
		Via: r.Via, From: r.From, To: r.To, CallID: r.CallID, CSeq: r.CSeq}}
}

// answered takes a response off the network.
func (l *layer) answered(p parcel) {
	if len(p.res.Via) == 0 {
		return
	}
	branch, _ := branchOf(p.res.Via[0])
	txn := core.TxnID(branch)
	if p.res.Method == core.CANCEL {
		txn += "/CANCEL"
	}
	c := l.clients[txn]
	if c == nil {
		again := p.res.Method == core.INVITE && p.res.Status/100 == 2 // RFC 3261 s.13.2.2.4: ACK each
		if again || l.strays && !l.ended[txn] {
			l.up.response(txn, p)
		}
		return
	}
	status := p.res.Status
	switch {
	case c.state == completed:
		if c.invite && status >= 300 {
			l.acknowledge(c, p.res)
		}
	case status < 200:
		if c.state == calling {
			c.state = proceeding
		}
		if c.state == proceeding {
			l.up.response(txn, p)
		}
	case c.invite && status < 300:
		if c.state != accepted {
			c.state = accepted
			l.w.after(timeout, func() { l.end(c) })
		}
		l.up.response(txn, p)
	case c.state == accepted: // a refusal after a 2xx: a fork, or a liar
	default:
		c.state = completed
		l.ended[txn] = true
		if c.invite {
			l.acknowledge(c, p.res)
			l.w.after(timeout, func() { l.end(c) })
		} else {
			l.w.after(t4, func() { l.end(c) })
		}
		l.up.response(txn, p)
	}
}

// abandon ends a client transaction without a word.
func (l *layer) abandon(txn core.TxnID) {
	if c := l.clients[txn]; c != nil {
		l.end(c)
	}
}

func (l *layer) end(c *client) {
	if c.state != finished {
		c.state = finished
		delete(l.clients, c.txn)
	}
}

// acknowledge sends the ACK to a refusal, which belongs to the transaction (s.17.1.1.3).
func (l *layer) acknowledge(c *client, r *core.Response) {
	q := c.p.req
	ack := &core.Request{Method: core.ACK, URI: q.URI, Message: core.Message{
		Via: q.Via[:1], From: q.From, To: r.To, CallID: q.CallID, CSeq: q.CSeq, Route: q.Route}}
	p := c.p
	p.req = ack
	l.w.net.send(p, nil)
}

// addrOf reads the sent-by of a Via.
func addrOf(sentBy string) netip.AddrPort {
	if a, err := netip.ParseAddrPort(sentBy); err == nil {
		return a
	}
	if host, port, ok := strings.Cut(sentBy, ":"); ok {
		if ip, err := netip.ParseAddr(host); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				return netip.AddrPortFrom(ip, uint16(n))
			}
		}
	}
	if ip, err := netip.ParseAddr(sentBy); err == nil {
		return netip.AddrPortFrom(ip, 5060)
	}
	return netip.AddrPort{}
}
