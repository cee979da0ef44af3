package sim

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// phone is a SIP user agent, written from the RFCs and not from the server: a caller's, or
// one of an agent's. What it does of its own will is in caller.go and device.go.
type phone struct {
	w         *World
	far       check.Far
	company   *company
	user      string
	addr      netip.AddrPort
	transport core.Transport
	layer     *layer
	conn      *conn
	alive     bool // switched on
	closed    bool // nothing listens at its port
	closedAt  core.Time
	deaf      bool // answers no OPTIONS inside of a dialog
	mute      bool
	twice     bool // sends everything twice
	live      []*dialog
	past      []*dialog // ended lately: late messages still find them
	replies   map[core.TxnID]func(*core.Response)
	calls     *caller // one of the two is set
	device    *device
	home      int // the node that it uses
	rtpPort   uint16
	formats   []int
}

func newPhone(w *World, c *company, name string, addr netip.AddrPort, transport core.Transport) *phone {
	p := &phone{w: w, company: c, far: check.Far{Phone: name, Tenant: c.id}, addr: addr, transport: transport,
		alive: true, replies: map[core.TxnID]func(*core.Response){}, rtpPort: 20000, formats: []int{0, 8, 101}}
	switch w.rng.IntN(6) {
	case 0:
		p.formats = []int{8, 0, 101}
	case 1:
		p.formats = []int{9, 8, 0, 101}
	case 2:
		p.formats = []int{0}
	case 3:
		p.formats = []int{opus, 0, 8, 101}
	}
	p.layer = newLayer(w, addr, p)
	p.layer.reopen = func(to netip.AddrPort) *conn {
		way, _ := p.way(to)()
		return way.conn
	}
	w.hosts[addr] = p
	if w.opt.Nodes > 1 {
		p.home = w.rng.IntN(w.opt.Nodes)
	}
	w.phones = append(w.phones, p)
	return p
}

// node is where it sends what is not in a dialog; moves is to another.
func (p *phone) node() netip.AddrPort { return p.w.nodes[p.home%len(p.w.nodes)].addr }

func (p *phone) moves() {
	if len(p.w.nodes) > 1 {
		p.w.marks.hit("phone moves to another node")
		p.home++
	}
}

func (p *phone) reachable() bool { return p.alive && !p.closed }

// arrive takes a message; a phone that is off swallows it in silence.
func (p *phone) arrive(m parcel) bool {
	if p.closed {
		return false
	}
	if p.alive {
		p.layer.arrive(m)
	}
	return true
}

// way finds how to reach the node: phones use what they were configured with, and inside
// of a dialog the remote target.
func (p *phone) way(to netip.AddrPort) func() (parcel, bool) {
	return func() (parcel, bool) {
		if p.transport != core.TCP {
			return parcel{to: to}, true
		}
		if p.conn == nil || !p.conn.open {
			if p.w.net.dial(p) == nil {
				return parcel{}, false
			}
		}
		return parcel{to: to, conn: p.conn}, true
	}
}

// ask sends a request; then hears each response, or nil when the transaction fails.
func (p *phone) ask(r *core.Request, to netip.AddrPort, then func(*core.Response)) core.TxnID {
	txn := core.TxnID(p.w.text("z9hG4bKphone"))
	p.askAs(txn, r, to, then)
	return txn
}

func (p *phone) askAs(txn core.TxnID, r *core.Request, to netip.AddrPort, then func(*core.Response)) {
	key := txn
	if r.Method == core.CANCEL {
		key += "/CANCEL"
	}
	p.replies[key] = then
	p.layer.open(txn, r, p.transport, p.way(to))
	if p.twice {
		p.w.marks.hit("phone repeats")
		p.layer.transmit(p.layer.clients[key])
	}
}

func (p *phone) response(txn core.TxnID, m parcel) {
	if then := p.replies[txn]; then != nil && p.alive {
		then(m.res)
	}
}

func (p *phone) failed(txn core.TxnID, _ core.FailCause) {
	if then := p.replies[txn]; then != nil && p.alive {
		then(nil)
	}
}

func (p *phone) answer(txn core.TxnID, r *core.Response) {
	if !p.alive {
		return
	}
	p.layer.respond(txn, r)
	if p.twice && r.Status >= 200 {
		p.layer.respond(txn, r)
	}
}

// request takes a request of the node's.
func (p *phone) request(txn, cancels core.TxnID, m parcel) {
	r := m.req
	switch {
	case r.Method == core.CANCEL:
		p.cancelled(txn, cancels, r)
	case r.To.Tag() != "":
		p.inside(txn, r)
	case r.Method == core.INVITE && p.device != nil:
		p.device.invited(txn, r)
	case r.Method == core.ACK:
	case r.Method == core.OPTIONS:
		p.answer(txn, r.Reply(200, p.w.text("t")))
	default:
		p.answer(txn, r.Reply(405, p.w.text("t")))
	}
}

func (p *phone) cancelled(txn, cancels core.TxnID, r *core.Request) {
	d := p.find(func(d *dialog) bool { return d.txn == cancels && !d.uac })
	if cancels == "" || d == nil {
		p.answer(txn, r.Reply(481, p.w.text("t")))
		return
	}
	p.answer(txn, r.Reply(200, d.tag))
	if d.state == early {
		p.device.cancelled(d)
	} else {
		p.w.marks.hit("CANCEL crossed 200 of an agent")
	}
}

// inside takes a request of a dialog.
func (p *phone) inside(txn core.TxnID, r *core.Request) {
	if alien(r.To.Tag()) {
		if r.Method == core.BYE {
			p.w.marks.hit("second dialog of a fork is left")
			p.answer(txn, r.Reply(200, ""))
		}
		return
	}
	d := p.find(func(d *dialog) bool { return d.callID == r.CallID && d.tag == r.To.Tag() })
	if d == nil || d.state == over && r.Method != core.BYE {
		if r.Method != core.ACK {
			p.answer(txn, r.Reply(481, ""))
		}
		return
	}
	if r.Method == core.ACK {
		d.acked(r)
		return
	}
	if d.uac && d.remote.Tag() == "" { // no response has made it a dialog (s.12.1)
		p.answer(txn, r.Reply(481, ""))
		return
	}
	if r.CSeq < d.peerSeq { // s.12.2.2
		p.w.marks.hit("phone refuses an old CSeq")
		p.answer(txn, r.Reply(500, ""))
		return
	}
	d.peerSeq = r.CSeq
	switch r.Method {
	case core.BYE:
		p.answer(txn, r.Reply(200, ""))
		if d.state == early && !d.uac { // s.15.1.2
			p.answer(d.txn, d.invite.Reply(487, d.tag))
		}
		d.end()
	case core.INVITE:
		d.reinvited(txn, r)
	case core.OPTIONS:
		if p.deaf {
			return
		}
		p.w.marks.hit("keepalive answered")
		p.answer(txn, r.Reply(200, ""))
	default:
		p.answer(txn, r.Reply(200, ""))
	}
}

func (p *phone) find(is func(*dialog) bool) *dialog {
	for _, d := range p.live {
		if is(d) {
			return d
		}
	}
	for _, d := range p.past {
		if is(d) {
			return d
		}
	}
	return nil
}

// heard is called when what a dialog hears has changed.
func (p *phone) heard(d *dialog) {
	if d.state != up {
		return
	}
	d.listen()
	if d.hears.Voice == "" || d.bridged {
		return
	}
	d.bridged = true
	if p.calls != nil {
		p.calls.connected(d)
	} else {
		p.device.connected(d)
	}
}

// off switches the phone off without a word.
func (p *phone) off() {
	if !p.alive {
		return
	}
	var ids []string
	for _, d := range p.live {
		if d.state == up && d.confirmed {
			ids = append(ids, d.callID)
		}
	}
	p.w.trace.say(p.w.now, "**", p.far.Phone+" is switched off")
	p.w.marks.hit("phone vanished")
	p.w.fact(check.Vanished{Far: p.far, CallIDs: ids})
	for _, d := range slices.Clone(p.live) {
		d.end()
	}
	p.past = nil
	p.alive = false
	p.layer.forget()
}

// on switches it on again, with nothing in its memory.
func (p *phone) on() {
	if p.alive {
		return
	}
	p.w.trace.say(p.w.now, "**", p.far.Phone+" is switched on")
	p.alive, p.closed = true, false
	if p.conn != nil {
		p.w.net.close(p.conn)
		p.conn = nil
	}
	if p.device != nil {
		p.device.boot()
	}
}

// disconnected: the connection was reset.
func (p *phone) disconnected(c *conn) {
	if p.conn != c {
		return
	}
	p.conn = nil
	if p.alive && p.device != nil {
		p.w.after(p.w.between(300*time.Millisecond, 3*time.Second), func() {
			if p.conn == nil {
				p.device.register()
			}
		})
	}
}

// contact is where the phone wants to be reached.
func (p *phone) contact() core.Address {
	params := ""
	if p.transport == core.TCP {
		params = ";transport=tcp"
	}
	return core.Address{URI: core.URI{Scheme: "sip", User: p.user, Host: p.addr.Addr().String(), Port: p.addr.Port(), Params: params}}
}

func (p *phone) newRTP() netip.AddrPort {
	p.rtpPort += 2
	return netip.AddrPortFrom(p.addr.Addr(), p.rtpPort)
}

// addrIn is the address in a URI that the node gave.
func addrIn(u core.URI) netip.AddrPort {
	port := u.Port
	if port == 0 {
		port = 5060
	}
	a, err := netip.ParseAddrPort(u.Host + ":" + strconv.Itoa(int(port)))
	if err != nil {
		return netip.AddrPort{}
	}
	return a
}
