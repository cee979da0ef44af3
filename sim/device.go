package sim

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// agent is a person with one or two phones.
type agent struct {
	company *company
	conf    tenant.Agent
	devices []*device
}

// device is a phone that registers and is rung.
type device struct {
	p        *phone
	of       *agent
	password string
	callID   string
	cseq     uint32
	nc       int
	expires  int
	due      int // number of the refresh that is planned; older ones are void
	bound    bool
	stranger bool
	doubted  bool // did not answer an INVITE at all
}

// boot is a start with an empty memory.
func (d *device) boot() {
	d.callID, d.bound = d.p.w.text(d.p.user+"-reg-"), false
	d.register()
}

func (d *device) plan(after time.Duration) {
	d.due++
	number := d.due
	d.p.w.after(after, func() {
		if d.due == number {
			d.register()
		}
	})
}

func (d *device) register() {
	if !d.p.alive {
		return
	}
	if d.expires == 0 {
		d.expires = 60 + d.p.w.rng.IntN(120)
	}
	d.send(d.expires, "", 0)
}

func (d *device) unregister() {
	if d.p.alive && d.bound {
		d.p.w.marks.hit("phone unregisters")
		d.due++
		d.send(0, "", 0)
	}
}

// send makes one REGISTER; authorization is "" for the first try.
func (d *device) send(expires int, authorization string, tries int) {
	w := d.p.w
	d.cseq++
	domain := d.p.company.domain
	who := core.Address{URI: core.URI{Scheme: "sip", User: d.p.user, Host: domain}}
	r := &core.Request{Method: core.REGISTER, URI: core.URI{Scheme: "sip", Host: domain}, Message: core.Message{
		From: who.WithTag(w.text("r")), To: who, CallID: d.callID, CSeq: d.cseq, Contact: []core.Address{d.p.contact()},
		Header: []core.Field{{Name: "Expires", Value: strconv.Itoa(expires)}}}}
	if authorization != "" {
		r.Header = append(r.Header, core.Field{Name: "Authorization", Value: authorization})
	}
	answered := false
	txn := d.p.ask(r, d.p.node(), func(res *core.Response) {
		if res == nil || res.Status == 503 {
			d.p.moves()
		}
		answered = true
		switch {
		case res == nil:
			d.plan(w.between(time.Second, 5*time.Second))
		case res.Status < 200:
		case res.Status == 401 && tries < 3:
			d.send(expires, d.authorize(res.Get("WWW-Authenticate")), tries+1)
		case res.Status == 423:
			if least, err := strconv.Atoi(res.Get("Min-Expires")); err == nil {
				w.marks.hit("423 Interval Too Brief")
				d.expires = least
			}
			d.plan(time.Second)
		case res.Status/100 == 2:
			d.bound = expires > 0
			w.marks.hit("registered")
			if d.doubted {
				d.doubted = false
				w.marks.hit("refresh of a phone that did not answer")
			}
			if expires > 0 {
				d.plan(time.Duration(expires) * time.Second * time.Duration(5+w.rng.IntN(4)) / 10)
			}
		case d.stranger:
			w.marks.hit("stranger refused")
		default:
			d.plan(w.between(2*time.Second, 6*time.Second))
		}
	})
	if len(w.nodes) > 1 {
		w.after(patience, func() { // RFC 3263 s.4.3: the next one
			if !answered && d.p.alive {
				delete(d.p.replies, txn)
				d.p.moves()
				d.plan(w.between(0, time.Second))
			}
		})
	}
}

// authorize answers a digest challenge (RFC 7616 s.3.4).
func (d *device) authorize(challenge string) string {
	get := func(name string) string {
		for part := range strings.SplitSeq(strings.TrimPrefix(challenge, "Digest "), ",") {
			if k, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && strings.EqualFold(k, name) {
				return strings.Trim(v, `"`)
			}
		}
		return ""
	}
	sum := func(s string) string {
		if strings.EqualFold(get("algorithm"), "SHA-256") {
			h := sha256.Sum256([]byte(s))
			return hex.EncodeToString(h[:])
		}
		h := md5.Sum([]byte(s)) // RFC 3261 phones know nothing else
		return hex.EncodeToString(h[:])
	}
	d.nc++
	nc := leftPad(strconv.FormatInt(int64(d.nc), 16), 8)
	cnonce := d.p.w.text("n")
	uri := "sip:" + d.p.company.domain
	a1 := sum(d.p.user + ":" + get("realm") + ":" + d.password)
	a2 := sum("REGISTER:" + uri)
	response := sum(a1 + ":" + get("nonce") + ":" + nc + ":" + cnonce + ":auth:" + a2)
	fields := []string{`username="` + d.p.user + `"`, `realm="` + get("realm") + `"`, `nonce="` + get("nonce") + `"`, `uri="` + uri + `"`,
		`response="` + response + `"`, "nc=" + nc, `cnonce="` + cnonce + `"`, "qop=auth"}
	if a := get("algorithm"); a != "" {
		fields = append(fields, "algorithm="+a)
	}
	if o := get("opaque"); o != "" {
		fields = append(fields, `opaque="`+o+`"`)
	}
	return "Digest " + strings.Join(fields, ", ")
}

func leftPad(s string, n int) string { return strings.Repeat("0", max(0, n-len(s))) + s }

// invited: an INVITE that begins a dialog.
func (d *device) invited(txn core.TxnID, r *core.Request) {
	p, w := d.p, d.p.w
	for _, other := range p.live {
		if other.state != over {
			w.marks.hit("phone is busy")
			p.answer(txn, r.Reply(486, w.text("t")))
			return
		}
	}
	call := p.newDialog(r.CallID, r.From.URI.User)
	call.txn, call.invite, call.first, call.peerSeq = txn, r, r, r.CSeq
	call.local = r.To.WithTag(call.tag)
	call.remote = r.From
	call.cseq = uint32(w.rng.IntN(1000))
	if len(r.Contact) > 0 {
		call.target = r.Contact[0].URI
	}
	call.route = r.RecordRoute
	if len(r.Body) > 0 && (!call.agree(r.Body) || len(common(p.formats, understand(r.Body).formats)) == 0) {
		w.marks.hit("phone answers 488")
		p.answer(txn, r.Reply(488, call.tag))
		call.end()
		return
	}
	w.rang(call.caller)
	temper := agentTempers[w.opt.AgentTempers.pick(w.rng)]
	if w.phase != "chaos" {
		temper = "answers"
	}
	w.marks.hit("agent " + temper)
	call.temper, call.about = temper, core.InteractionID(r.Get("X-Dialtone-Interaction"))
	d.changesMind(call)
	d.behave(call, txn, r)
	w.after(100*time.Second, func() { // no phone rings for ever
		if call.state == early && p.alive {
			w.marks.hit("phone rang out")
			p.answer(txn, r.Reply(480, call.tag))
			call.end()
		}
	})
}

// changesMind: at times the person declares a pause, or leaves, while the phone rings.
func (d *device) changesMind(call *dialog) {
	w := d.p.w
	if w.opt.API == 0 || w.phase != "chaos" || w.rng.IntN(12) != 0 {
		return
	}
	status := acd.NotReady
	if w.rng.IntN(2) == 0 {
		status = acd.LoggedOut
	}
	w.after(w.between(0, 3*time.Second), func() {
		if call.state != early || !d.p.alive {
			return
		}
		w.marks.hit("status " + string(status) + " while the phone rings")
		w.api.status(d.of, status)
		w.after(w.between(2*time.Second, 8*time.Second), func() { w.api.status(d.of, acd.Ready) })
	})
}

// behave is what the agent does about a ringing phone.
func (d *device) behave(call *dialog, txn core.TxnID, r *core.Request) {
	p, w := d.p, d.p.w
	ring := func() {
		w.after(w.between(0, 200*time.Millisecond), func() {
			if call.state == early && p.alive {
				ringing := r.Reply(180, call.tag)
				ringing.Contact = []core.Address{p.contact()}
				p.answer(txn, ringing)
			}
		})
	}
	refuse := func(status int) {
		w.after(w.between(0, 2*time.Second), func() {
			if call.state == early && p.alive {
				p.answer(txn, r.Reply(status, call.tag))
				call.end()
			}
		})
	}
	answer := func(after time.Duration) {
		w.after(after, func() {
			if call.state == early && p.alive {
				call.accept(txn, r)
			}
		})
	}
	p.twice = call.temper == "repeats"
	generation := w.generation()
	switch call.temper {
	case "auto-answers":
		answer(0)
	case "busy":
		refuse(486)
	case "rejects":
		ring()
		refuse(603)
	case "unavailable":
		refuse(480)
	case "never-answers", "races-cancel", "late-200":
		ring()
	case "silent":
		d.doubted = true // the node hears nothing of this phone; its next REGISTER says that it is there
		d.plan(w.between(6*time.Second, 30*time.Second))
	case "vanishes-ringing":
		ring()
		w.after(w.between(200*time.Millisecond, 4*time.Second), func() {
			if call.state == early {
				d.vanish()
			}
		})
	default:
		ring()
		most := 5 * time.Second
		if w.phase != "chaos" {
			most = time.Second
		}
		answer(w.between(300*time.Millisecond, most))
		if call.temper == "forks" {
			w.after(w.between(most, 2*most), func() { call.fork(generation) })
		}
	}
}

// vanish switches the phone off and, after a while, on.
func (d *device) vanish() {
	d.p.off()
	d.p.w.after(d.p.w.between(2*time.Second, 70*time.Second), d.p.on)
}

// cancelled: CANCEL has come while the phone rings.
func (d *device) cancelled(call *dialog) {
	p, w := d.p, d.p.w
	switch call.temper {
	case "races-cancel": // the 200 was already in the air
		w.marks.hit("agent's 200 crosses CANCEL")
		call.accept(call.txn, call.invite)
	case "late-200":
		w.marks.hit("200 late after CANCEL")
		w.after(w.between(0, 3*time.Second), func() {
			if call.state == early && p.alive {
				call.accept(call.txn, call.invite)
			}
		})
	default:
		p.answer(call.txn, call.invite.Reply(487, call.tag))
		call.end()
	}
}

// connected: the agent hears the caller for the first time.
func (d *device) connected(call *dialog) {
	w := d.p.w
	switch call.temper {
	case "vanishes-talking":
		w.after(w.between(0, 10*time.Second), func() {
			if call.state == up {
				d.vanish()
			}
		})
	case "hangs-up":
		w.after(w.between(0, 3*time.Second), call.hangUp)
	case "holds":
		w.after(w.about(w.opt.TalkMean/2), call.hold)
	}
	if w.rng.IntN(2) == 0 {
		w.after(w.talk(), call.hangUp)
	}
}
