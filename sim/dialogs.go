package sim

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// dialog is one call as its phone sees it.
type dialog struct {
	p         *phone
	callID    string
	tag       string // ours
	caller    string // user part of the caller: names the interaction on both legs
	uac       bool
	local     core.Address
	remote    core.Address // with its tag, once it is known
	target    core.URI
	route     []core.Address
	cseq      uint32
	peerSeq   uint32
	state     dialogState
	confirmed bool           // the ACK was seen or sent
	txn       core.TxnID     // of the INVITE that began it
	first     *core.Request  // of an agent's phone: the same
	invite    *core.Request  // the last one
	ok        *core.Response // our 200, repeated until its ACK
	okTxn     core.TxnID
	okWait    time.Duration
	okSince   core.Time
	pending   core.TxnID // our re-INVITE
	sdpID     int
	version   int
	want      direction // what the person wants: sendrecv, or a hold
	dir       direction // what was agreed
	rtp       netip.AddrPort
	remoteRTP netip.AddrPort
	streamTo  netip.AddrPort
	formats   []int
	hears     check.Hears
	bridged   bool
	quiet     core.Time // since when nothing is heard
	overAt    core.Time
	temper    string
	told      check.Talking
	about     core.InteractionID // an agent's phone is told which it is rung for
}

type dialogState uint8

const (
	early dialogState = iota // INVITE sent or received
	up                       // a 200 was sent or received
	over
)

func (p *phone) newDialog(callID, caller string) *dialog {
	p.w.ids++
	d := &dialog{p: p, callID: callID, tag: p.w.text("p"), caller: caller, rtp: p.newRTP(), sdpID: 1000 + p.w.ids, version: 1,
		want: sendrecv, dir: sendrecv, formats: p.formats}
	p.live = append(p.live, d)
	d.tell()
	return d
}

// tell says how the dialog stands, if that has changed.
func (d *dialog) tell() {
	t := check.Talking{Far: d.p.far, CallID: d.callID, Caller: d.caller, Up: d.state == up && d.confirmed && d.p.alive,
		Hold: d.want != sendrecv, Busy: d.pending != "" || d.ok != nil || d.muzzled(),
		Sends: d.streamTo.IsValid()}
	if t != d.told {
		d.told = t
		d.p.w.fact(t)
	}
}

// stream brings what the phone sends in line with how the dialog stands.
func (d *dialog) stream() {
	d.tell() // before anybody notices the silence that may follow
	to := netip.AddrPort{}
	if d.state == up && d.p.alive && !d.p.mute && d.dir.sends() {
		to = d.remoteRTP
	}
	d.p.w.dirty = true
	d.p.w.stream(d, to)
	d.p.w.settleMedia()
	d.listen()
	d.tell()
	if d.muzzled() {
		d.p.w.after(d.p.w.between(2*time.Second, 5*time.Second), func() {
			if d.state == up && d.muzzled() {
				d.p.w.marks.hit("person ends a hold that nobody meant")
				d.reinvite(sendrecv)
			}
		})
	}
}

// muzzled: the server offered less than both directions to a phone that does not hold. It
// may have forgotten the end of a hold in a crash; then the person presses the key again.
func (d *dialog) muzzled() bool {
	return d.state == up && d.confirmed && d.pending == "" && d.want == sendrecv && d.dir != sendrecv
}

// agree takes the server's SDP as an answer or an offer and returns false if it is none.
func (d *dialog) agree(body []byte) bool {
	u := understand(body)
	if !u.ok {
		return false
	}
	d.remoteRTP = u.rtp
	d.dir = answerTo(u.dir, d.want)
	if both := common(d.p.formats, u.formats); len(both) > 0 {
		d.formats = both
	}
	return true
}

func (d *dialog) body() []byte {
	return describe(d.rtp, d.sdpID, d.version, d.formats, d.dir)
}

// request makes a request of the dialog.
func (d *dialog) request(method string) *core.Request {
	if method != core.ACK {
		d.cseq++
	}
	r := &core.Request{Method: method, URI: d.target, Message: core.Message{From: d.local, To: d.remote, CallID: d.callID,
		CSeq: d.cseq, Route: d.route}}
	if method == core.INVITE || method == core.UPDATE {
		r.Contact = []core.Address{d.p.contact()}
	}
	return r
}

func (d *dialog) to() netip.AddrPort {
	if a := addrIn(d.target); a.IsValid() {
		return a
	}
	return d.p.node()
}

// ack sends the ACK of a 2xx with the given CSeq.
func (d *dialog) ack(cseq uint32, body []byte) {
	r := d.request(core.ACK)
	r.CSeq = cseq
	if body != nil {
		r.ContentType, r.Body = "application/sdp", body
	}
	d.p.layer.once(core.TxnID(d.p.w.text("z9hG4bKack")), r, d.p.transport, d.p.way(d.to()))
	if d.p.twice {
		d.p.layer.once(core.TxnID(d.p.w.text("z9hG4bKack")), r, d.p.transport, d.p.way(d.to()))
	}
}

// acked: the ACK of our 200 has come.
func (d *dialog) acked(r *core.Request) {
	if d.state != up {
		return
	}
	if d.ok != nil && r.CSeq == d.ok.CSeq {
		if len(r.Body) > 0 && len(d.invite.Body) == 0 {
			d.agree(r.Body)
		}
		d.ok = nil
	}
	d.confirmed = true
	d.stream()
	if d.temper == "ends-at-once" {
		d.hangUp()
	}
}

// accept sends 200 to an INVITE and repeats it until the ACK comes (RFC 3261 s.13.3.1.4).
func (d *dialog) accept(txn core.TxnID, r *core.Request) {
	ok := r.Reply(200, d.tag)
	ok.Contact = []core.Address{d.p.contact()}
	ok.ContentType, ok.Body = "application/sdp", d.body()
	d.ok, d.okTxn, d.okWait, d.okSince = ok, txn, t1, d.p.w.now
	d.state = up
	d.p.answer(txn, ok)
	d.p.w.after(t1, func() { d.acceptAgain(ok) })
	d.stream()
}

func (d *dialog) acceptAgain(ok *core.Response) {
	if d.ok != ok || d.state != up || !d.p.alive {
		return
	}
	if d.p.w.now.Sub(d.okSince) >= timeout {
		d.p.w.marks.hit("phone got no ACK")
		d.ok = nil
		d.hangUp()
		return
	}
	d.p.w.marks.hit("phone repeats its 200")
	d.p.answer(d.okTxn, ok)
	d.okWait = min(2*d.okWait, t2)
	d.p.w.after(d.okWait, func() { d.acceptAgain(ok) })
}

// reinvited answers a re-INVITE of the server's.
func (d *dialog) reinvited(txn core.TxnID, r *core.Request) {
	w := d.p.w
	switch {
	case d.pending != "":
		w.marks.hit("glare: phone answers 491")
		d.p.answer(txn, r.Reply(491, ""))
		return
	case d.ok != nil: // the ACK of the last one is missing: s.14.2
		w.marks.hit("phone answers 500 to an early re-INVITE")
		busy := r.Reply(500, "")
		busy.Header = []core.Field{{Name: "Retry-After", Value: "1"}}
		d.p.answer(txn, busy)
		return
	case w.phase == "chaos" && w.rng.IntN(16) == 0:
		w.marks.hit("phone refuses a re-INVITE with 500")
		d.p.answer(txn, r.Reply(500, ""))
		return
	}
	w.marks.hit("re-INVITE of the server accepted")
	if len(r.Contact) > 0 {
		d.target = r.Contact[0].URI
	}
	if len(r.Body) > 0 {
		d.agree(r.Body)
	} else {
		d.dir = d.want
	}
	d.version++
	d.invite = r
	d.accept(txn, r)
}

// reinvite offers a direction: a hold, or its end.
func (d *dialog) reinvite(want direction) {
	w := d.p.w
	if d.state != up || !d.confirmed || d.pending != "" || d.ok != nil || !d.p.alive {
		return
	}
	w.marks.hit("re-INVITE of a phone")
	before, agreed := d.want, d.dir
	d.want, d.dir = want, want
	d.version++
	r := d.request(core.INVITE)
	r.ContentType, r.Body = "application/sdp", d.body()
	cseq := r.CSeq
	back := func() { d.want, d.dir = before, agreed }
	d.pending = "?"
	var txn core.TxnID
	txn = d.p.ask(r, d.to(), func(res *core.Response) {
		mine := d.pending == txn || d.pending == "?"
		switch {
		case d.state != up:
		case res == nil || res.Status == 481 || res.Status == 408:
			w.marks.hit("re-INVITE of a phone got no answer")
			d.pending = ""
			d.hangUp()
		case res.Status < 200:
		case res.Status < 300:
			d.ack(cseq, nil)
			if mine {
				d.pending = ""
				d.agree(res.Body)
				d.stream()
			}
		case mine:
			d.pending = ""
			back()
			d.stream()
			if res.Status == 491 {
				w.marks.hit("glare: server answers 491")
				w.after(w.between(0, 2*time.Second), func() {
					if want == sendrecv {
						d.reinvite(want)
					} else {
						d.hold()
					}
				})
			}
		}
	})
	d.pending = txn
	d.stream()
}

// hangUp sends BYE.
func (d *dialog) hangUp() {
	if d.state == over || !d.p.alive {
		return
	}
	d.p.ask(d.request(core.BYE), d.to(), func(*core.Response) {})
	d.end()
}

// end forgets the dialog, but for late messages.
func (d *dialog) end() {
	if d.state == over {
		return
	}
	d.state, d.ok, d.pending = over, nil, ""
	d.overAt = d.p.w.now
	d.stream()
	d.p.live = slices.DeleteFunc(d.p.live, func(x *dialog) bool { return x == d })
	d.p.past = append(d.p.past, d)
	if len(d.p.past) > 16 {
		d.p.past = d.p.past[1:]
	}
	if d.p.calls != nil {
		d.p.calls.over()
	}
	if d.about != "" {
		d.p.w.api.follow(d.p.company, d.about)
	}
}

// listen gives up a dialog in which nothing at all was heard for longer than any bound of
// the server's: a person would, and the checkers want to know.
func (d *dialog) listen() {
	const patience = 150 * time.Second
	deaf := d.state == up && d.hears.File == "" && d.hears.Voice == "" && d.want == sendrecv
	if !deaf {
		d.quiet = 0
		return
	}
	if d.quiet != 0 {
		return
	}
	since := d.p.w.now
	d.quiet = since
	d.p.w.after(patience, func() {
		if d.quiet != since || d.state != up || !d.p.alive {
			return
		}
		d.p.w.marks.hit("phone gave up in silence")
		if d.p.closedAt == 0 || d.p.w.now.Sub(d.p.closedAt) > 5*time.Minute { // else it could not be told
			d.p.w.fact(check.GaveUp{Far: d.p.far, CallID: d.callID})
		}
		d.hangUp()
	})
}
