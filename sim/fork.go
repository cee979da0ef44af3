package sim

import (
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// A proxy that forks an INVITE can make several dialogs of it, each with a tag of its own.
// The node takes the first and leaves the others (RFC 3261 s.13.2.2.4). Tags that begin
// with this word are of such a dialog: the checkers, which know a dialog by its Call-ID,
// are told nothing of it, and what must be true of it is asked here.
const alienTag = "fork"

func alien(tag string) bool { return strings.HasPrefix(tag, alienTag) }

// fork lets a second phone behind the same proxy answer, once the first is connected, and
// then hang up: its BYE is of no dialog that the node has, and must not end the first.
func (d *dialog) fork(generation int) {
	w := d.p.w
	if d.state != up || !d.confirmed || !d.p.alive || w.generation() != generation {
		return
	}
	tag := w.text(alienTag)
	second := d.ok200()
	second.To = second.To.WithTag(tag)
	w.marks.hit("fork: a second phone answers")
	d.p.answer(d.txn, second)
	w.after(w.between(time.Second, 3*time.Second), func() {
		if d.state != up || !d.p.alive || w.generation() != generation {
			return
		}
		bye := &core.Request{Method: core.BYE, URI: d.target, Message: core.Message{CallID: d.callID, CSeq: d.cseq + 1,
			From: d.invite.To.WithTag(tag), To: d.remote, Route: d.route}}
		d.p.ask(bye, d.to(), func(res *core.Response) {
			switch {
			case res == nil || w.generation() != generation:
			case res.Status == 481:
				w.marks.hit("fork: BYE of the second phone is told 481")
			case res.Status/100 == 2:
				w.fail("fork", "a BYE with a tag that is not the peer's is taken: Call-ID "+d.callID)
			}
		})
	})
}

// ok200 is a 200 to the INVITE that began the dialog.
func (d *dialog) ok200() *core.Response {
	ok := d.first.Reply(200, d.tag)
	ok.Contact = []core.Address{d.p.contact()}
	ok.ContentType, ok.Body = "application/sdp", d.body()
	return ok
}

// askOffer is a re-INVITE without SDP: the node's 200 makes an offer, our ACK answers it
// (RFC 3261 s.14.1, s.13.2.1).
func (d *dialog) askOffer() {
	w := d.p.w
	if d.state != up || !d.confirmed || d.pending != "" || d.ok != nil || !d.p.alive {
		return
	}
	w.marks.hit("re-INVITE without SDP")
	r := d.request(core.INVITE)
	cseq := r.CSeq
	var answer []byte
	var txn core.TxnID
	d.pending = "?"
	txn = d.p.ask(r, d.to(), func(res *core.Response) {
		mine := d.pending == txn || d.pending == "?"
		switch {
		case d.state != up:
		case res == nil || res.Status == 481 || res.Status == 408:
			d.pending = ""
			d.hangUp()
		case res.Status < 200:
		case res.Status < 300:
			if mine {
				w.marks.hit("re-INVITE without SDP accepted")
				if !d.agree(res.Body) {
					w.fail("sip", "the 200 to a re-INVITE without SDP makes no offer: Call-ID "+d.callID)
				}
				d.pending = ""
				d.version++
				answer = d.body()
			}
			d.ack(cseq, answer)
			d.stream()
		case mine:
			d.pending = ""
			d.stream()
		}
	})
	d.pending = txn
	d.stream()
}
