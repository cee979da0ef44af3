package sim

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// caller is a person with a phone who calls once.
type caller struct {
	p      *phone
	temper string
	number string
	called *dialog
	asked  core.Time
	cancel bool // CANCEL was sent
	final  int  // status that ended the INVITE
	done   bool
	tries  int
	moving bool // to the next node
}

// patience is how long a phone waits for any answer of one node before it tries the next.
const patience = 4 * time.Second

// arrivals brings callers, some alone and some in bursts.
func (w *World) arrivals() {
	at := w.between(2*time.Second, 5*time.Second)
	for i := range w.opt.Callers {
		if !w.chance(w.opt.Bursts) {
			at += w.about(w.opt.Gap)
		}
		if at > w.opt.Chaos-time.Second {
			at = w.between(2*time.Second, w.opt.Chaos-time.Second)
		}
		number := i
		w.after(at, func() { w.arrive(number) })
	}
}

// arrive makes one caller and lets it call.
func (w *World) arrive(i int) {
	c := w.tenants[w.rng.IntN(len(w.tenants))]
	transport := core.UDP
	if w.chance(w.opt.TCP) {
		transport = core.TCP
	}
	name := c.marker + "-c" + strconv.Itoa(i)
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 5060)
	p := newPhone(w, c, name, addr, transport)
	p.user = name
	temper := callerTempers[w.opt.CallerTempers.pick(w.rng)]
	p.calls = &caller{p: p, temper: temper, number: c.numbers[w.rng.IntN(len(c.numbers))].Number}
	w.marks.hit("caller " + temper)
	switch temper {
	case "repeats":
		p.twice = true
	case "mute":
		p.mute = true
	case "deaf-to-keepalive":
		p.deaf = true
	case "unknown-number":
		p.calls.number = "404404"
	}
	p.calls.call()
}

func (c *caller) call() {
	p, w := c.p, c.p.w
	c.asked = w.now
	d := p.newDialog(w.text(p.user+"-"), p.user)
	d.uac, d.temper = true, c.temper
	d.target = core.URI{Scheme: "sip", User: c.number, Host: p.company.domain}
	d.local = core.Address{Display: p.user, URI: core.URI{Scheme: "sip", User: p.user, Host: p.addr.Addr().String()}}.WithTag(d.tag)
	d.remote = core.Address{URI: d.target}
	r := d.request(core.INVITE)
	r.ContentType, r.Body = "application/sdp", d.body()
	switch c.temper {
	case "weird-codec":
		d.formats = []int{97}
		r.Body = d.body()
	case "opus-only":
		p.formats = []int{opus}
		d.formats = p.formats
		r.Body = d.body()
	case "bad-sdp":
		r.Body = []byte("v=0\r\nthis is not SDP \x00\xff")
	case "late-offer":
		r.ContentType, r.Body = "", nil
	}
	d.invite, c.called = r, d
	d.txn = core.TxnID(w.text("z9hG4bKcall"))
	c.final = 0
	heard := false
	p.askAs(d.txn, r, p.node(), func(res *core.Response) {
		heard = heard || res != nil
		if d != c.called {
			c.stale(d, res)
			return
		}
		c.response(res)
	})
	w.after(90*time.Second, func() {
		if d == c.called {
			c.unanswered()
		}
	})
	if len(w.nodes) > 1 {
		w.after(patience, func() {
			if !heard && d == c.called {
				c.elsewhere()
			}
		})
	}
}

// elsewhere calls another node: this one refuses, or says nothing (RFC 3263 s.4.3). It
// reports whether there is one to try.
func (c *caller) elsewhere() bool {
	p, w := c.p, c.p.w
	if len(w.nodes) < 2 || c.tries >= 3*len(w.nodes) || c.cancel || !p.alive || c.called.state != early {
		return false
	}
	w.marks.hit("caller tries another node")
	c.tries++
	c.moving = true
	p.layer.abandon(c.called.txn)
	c.called.end()
	c.moving = false
	p.moves()
	old := c.called
	w.after(w.between(0, 2*time.Second), func() {
		if p.alive && c.called == old {
			c.call()
		}
	})
	return true
}

// stale hears a response to a call that was given up for another: a late 200.
func (c *caller) stale(d *dialog, r *core.Response) {
	if r == nil || r.Status/100 != 2 {
		return
	}
	c.p.w.marks.hit("200 of a node that was given up")
	if d.remote.Tag() == "" {
		d.remote = r.To
		if len(r.Contact) > 0 {
			d.target = r.Contact[0].URI
		}
		d.ack(r.CSeq, nil)
		d.p.ask(d.request(core.BYE), d.to(), func(*core.Response) {})
		return
	}
	d.ack(r.CSeq, nil)
}

// unanswered ends a call that nobody answered in any way: with a node that crashed before
// it wrote the call down that is all that is left to do. Else it was the node's to answer.
func (c *caller) unanswered() {
	d, w := c.called, c.p.w
	if c.final != 0 || d.state != early || !c.p.alive {
		return
	}
	w.marks.hit("caller gave up for lack of any answer")
	if !w.disturbedSince(c.asked) {
		w.fact(check.GaveUp{Far: c.p.far, CallID: d.callID})
	}
	c.giveUp()
	w.after(timeout, d.end) // RFC 3261 s.9.1
}

// response hears every response to the INVITE.
func (c *caller) response(r *core.Response) {
	d, w := c.called, c.p.w
	switch {
	case r == nil && c.elsewhere():
	case r != nil && r.Status == 503 && c.final == 0 && c.elsewhere():
	case r == nil:
		w.marks.hit("caller got no answer")
		d.end()
	case r.Status < 200:
		if c.temper == "cancels" || c.temper == "cancels-late" {
			most := 40 * time.Millisecond
			if c.temper == "cancels-late" {
				most = 600 * time.Millisecond
			}
			w.after(w.between(0, most), c.giveUp)
		}
	case r.Status < 300:
		c.accepted(r)
	default:
		if c.final/100 == 2 {
			return
		}
		c.final = r.Status
		w.marks.hit("caller is told " + strconv.Itoa(r.Status))
		d.end()
	}
}

func (c *caller) accepted(r *core.Response) {
	d, w := c.called, c.p.w
	if c.final >= 300 {
		return
	}
	first := c.final == 0
	c.final = r.Status
	if c.temper == "weird-codec" || c.temper == "bad-sdp" || c.temper == "unknown-number" {
		w.fail("sip", "a caller with temper "+c.temper+" was accepted: "+c.p.far.Phone)
		return
	}
	if first {
		d.remote = r.To
		if len(r.Contact) > 0 {
			d.target = r.Contact[0].URI
		}
		d.formats = c.p.formats
		d.agree(r.Body)
	}
	if c.temper == "no-ack" {
		if first {
			d.state = up
			d.stream()
		}
		return
	}
	var body []byte
	if c.temper == "late-offer" {
		body = d.body()
	}
	d.ack(r.CSeq, body)
	if !first {
		w.marks.hit("2xx repeated to a caller")
		return
	}
	if d.state == over || c.cancel { // the CANCEL came too late: RFC 3261 s.15
		w.marks.hit("CANCEL lost against 200")
		d.state = up
		d.confirmed = true
		d.hangUp()
		return
	}
	d.state, d.confirmed = up, true
	d.stream()
	c.wait()
}

// wait is what a caller does once in the queue.
func (c *caller) wait() {
	d, w := c.called, c.p.w
	switch c.temper {
	case "impatient":
		w.after(w.between(200*time.Millisecond, 20*time.Second), func() { c.leave("abandons") })
	case "vanishes":
		w.after(w.about(15*time.Second), c.p.off)
	case "bye-and-gone":
		w.after(w.about(10*time.Second), func() {
			d.hangUp()
			c.p.off()
		})
	case "holds", "glares":
		w.after(w.about(4*time.Second), func() { d.hold() })
	}
}

func (c *caller) leave(how string) {
	if c.called.state == up && !c.called.bridged {
		c.p.w.marks.hit("caller " + how)
		c.called.hangUp()
	}
}

// giveUp is CANCEL before the answer.
func (c *caller) giveUp() {
	d := c.called
	if c.final != 0 || c.cancel || !c.p.alive || d.state != early {
		return
	}
	c.cancel = true
	r := &core.Request{Method: core.CANCEL, URI: d.invite.URI, Message: core.Message{From: d.invite.From, To: d.invite.To,
		CallID: d.callID, CSeq: d.invite.CSeq, Route: d.invite.Route}}
	c.p.w.marks.hit("CANCEL of a caller")
	c.p.askAs(d.txn, r, c.p.node(), func(*core.Response) {})
}

// rung is called when an agent's phone rings for this caller.
func (c *caller) rung() {
	w := c.p.w
	if c.temper == "impatient" && w.rng.IntN(2) == 0 {
		w.after(w.between(0, 400*time.Millisecond), func() { c.leave("abandons while an agent rings") })
	}
}

// connected: the caller hears an agent for the first time.
func (c *caller) connected(d *dialog) {
	w := c.p.w
	w.marks.hit("caller hears an agent")
	w.after(w.talk(), d.hangUp)
	for range int(w.opt.Holds + w.rng.Float64()) {
		if c.temper == "holds" || c.temper == "glares" {
			w.after(w.about(w.opt.TalkMean/2), func() { d.hold() })
		}
	}
	if c.temper == "vanishes" {
		w.after(w.about(w.opt.TalkMean/2), c.p.off)
	}
	if c.temper == "patient" && w.rng.IntN(4) == 0 {
		w.after(w.about(w.opt.TalkMean/4), d.hold)
	}
}

// over: the dialog has ended; late messages find the phone for two minutes more.
func (c *caller) over() {
	if c.done || c.moving {
		return
	}
	c.done = true
	p := c.p
	p.w.after(2*time.Minute, func() { p.closed = true })
}

// hold puts the other party on hold for a while.
func (d *dialog) hold() {
	w := d.p.w
	if d.state != up || d.want != sendrecv {
		return
	}
	if w.phase == "chaos" && w.rng.IntN(6) == 0 {
		d.askOffer()
		return
	}
	want := sendonly
	if w.rng.IntN(3) == 0 {
		want = inactive
	}
	w.marks.hit("hold")
	d.reinvite(want)
	var resume func()
	resume = func() {
		if d.state != up || d.want == sendrecv {
			return
		}
		w.marks.hit("resume")
		d.reinvite(sendrecv)
		w.after(3*time.Second, resume) // until it is done: the first may meet another re-INVITE
	}
	w.after(w.between(2*time.Second, 14*time.Second), resume)
}

// talk is the length of a conversation.
func (w *World) talk() time.Duration {
	if w.phase != "chaos" {
		return w.between(500*time.Millisecond, 3*time.Second)
	}
	return 500*time.Millisecond + w.about(w.opt.TalkMean)
}
