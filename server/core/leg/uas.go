package leg

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/dialog"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
)

// Allow lists the methods that a dialog of ours takes.
const Allow = "INVITE, ACK, BYE, CANCEL, OPTIONS"

// Screen returns the status that refuses an INVITE before anything is kept of it, or 0:
// extensions that are required and not known (s.8.2.2.3), bodies that are not SDP, bad SDP.
func Screen(req *core.Request) (status int, fields []core.Field) {
	if req := req.Values("Require"); len(req) > 0 {
		return 420, []core.Field{{Name: "Unsupported", Value: strings.Join(req, ", ")}}
	}
	if len(req.Body) == 0 {
		return 0, nil
	}
	media, _, _ := strings.Cut(req.ContentType, ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/sdp") {
		return 415, []core.Field{{Name: "Accept", Value: "application/sdp"}}
	}
	if _, err := sdp.Parse(req.Body); err != nil {
		return 400, nil
	}
	return 0, nil
}

// NewUAS returns the leg of a caller whose INVITE passed Screen.
func NewUAS(env *Env, id core.LegID, txn core.TxnID, invite *core.Request, from core.Peer) Leg {
	return Leg{ID: id, Party: core.Caller, State: Invited, Txn: txn, Invite: invite,
		Dialog: dialog.Answered(invite, env.Rand.Tag(), from), SDPID: env.Rand.Uint64() >> 12}
}

// Answer decides for 200 with media at address. When the offer has nothing that we can,
// it decides for 488 instead and reports Refused.
func (l *Leg) Answer(env *Env, address netip.AddrPort) Report {
	l.Address = address
	body, err := l.agree(l.Invite.Body)
	if err != nil {
		l.Reject(env, 488, core.Field{Name: "Warning", Value: `305 dialtone "Incompatible media format"`})
		return Refused
	}
	l.State, l.Status = Answering, 200
	l.accept(env, l.Txn, l.Invite, body)
	ok := core.Respond{Txn: l.Txn, To: l.Dialog.Peer, Response: l.Repeat.Response}
	if env.Plant == "answer-before-commit" {
		env.Touched = true
		env.free(ok)
		return Nothing
	}
	env.held(ok)
	return Nothing
}

// agree answers the offer that an INVITE of the peer carries, or makes one when it carries
// none (s.13.2.1: then the answer comes with the ACK, and until then what was agreed
// before stays). After an error nothing has changed but the version.
func (l *Leg) agree(offer []byte) ([]byte, error) {
	l.Version++
	local := sdp.Local{ID: l.SDPID, Version: l.Version, Addr: l.Address, Direction: sdp.SendRecv,
		Formats: append(sdp.G711(), sdp.PassThrough()...)}
	if l.Local.Addr.IsValid() {
		local = local.After(l.Local, l.Remote)
	}
	if l.AnswerDue = len(offer) == 0; l.AnswerDue {
		local.Formats = l.agreed()
		l.Local = local.Offer()
		return l.Local.Marshal(), nil
	}
	remote, err := sdp.Parse(offer)
	if err != nil {
		return nil, err
	}
	answer, err := local.Answer(remote)
	if err != nil {
		return nil, err
	}
	codec, telephone, ok := answer.Codec()
	if !ok {
		return nil, errors.New("answer without a codec")
	}
	l.Local, l.Remote, l.Codec, l.Telephone = answer, remote, codec, telephone
	return answer.Marshal(), nil
}

// accept builds the 2xx to an INVITE and begins to repeat it.
func (l *Leg) accept(env *Env, txn core.TxnID, invite *core.Request, body []byte) {
	resp := invite.Reply(200, l.Dialog.Local.Tag())
	resp.Contact = []core.Address{{URI: env.Contact(l.Dialog.Peer.Transport)}}
	resp.Header = []core.Field{{Name: "Allow", Value: Allow}}
	if env.Plant == "hold-answered-sendrecv" {
		body = bytes.ReplaceAll(body, []byte("a=recvonly"), []byte("a=sendrecv"))
	}
	resp.ContentType, resp.Body = "application/sdp", body
	l.Repeat = &Repeat{Txn: txn, Response: resp, At: env.Now.Add(T1), Every: T1, GiveUpAt: env.Now.Add(AckPatience)}
}

// Reject refuses the INVITE. The leg is Gone.
func (l *Leg) Reject(env *Env, status int, fields ...core.Field) {
	l.State, l.Status = Gone, status
	resp := l.Invite.Reply(status, l.Dialog.Local.Tag())
	resp.Header = fields
	if status == 503 && len(fields) == 0 {
		resp.Header = []core.Field{RetryAfter(5)}
	}
	l.Invite, l.Repeat = nil, nil
	env.urgent(core.Respond{Txn: l.Txn, To: l.Dialog.Peer, Response: resp})
}

// Cancel takes a CANCEL that matches the leg's INVITE (s.9.2). It always gets 200. A final
// response that has been sent cannot be taken back, then the CANCEL has no further effect;
// one that still waits for its commit can.
func (l *Leg) Cancel(env *Env, txn core.TxnID, req *core.Request, from core.Peer) Report {
	env.free(core.Respond{Txn: txn, To: from, Response: req.Reply(200, l.Dialog.Local.Tag())})
	switch {
	case l.State == Invited:
	case l.State == Answering && (l.retract(env) || env.Plant == "cancel-after-200"):
	default:
		return Nothing
	}
	l.Reject(env, 487)
	return HungUp
}

// retract takes back the 2xx, if it has not left: neither from this process, nor perhaps
// from one that died.
func (l *Leg) retract(env *Env) bool { return !l.recovered && env.Withdraw(l.Txn) }

// Acknowledge takes an ACK to a 2xx. One that belongs to an older INVITE is ignored.
func (l *Leg) Acknowledge(env *Env, req *core.Request) Report {
	if l.Repeat == nil || req.CSeq != l.Repeat.Response.CSeq {
		return Nothing
	}
	l.Repeat = nil
	report := Acked
	switch {
	case l.State == Dismissed:
		l.leave(env)
		return Nothing
	case l.State == Answering:
		l.State, l.Invite, l.ackBy = Confirmed, nil, 0
	case l.Exchange == Theirs:
		l.Exchange, report = Settled, Changed
	}
	if l.AnswerDue && !l.answeredBy(req) {
		l.leave(env)
		return Lost
	}
	l.reoffer(env)
	return report
}

// answeredBy takes the answer that the ACK to our offer must carry (s.13.2.1). Without one
// a session that was agreed before goes on as it was (RFC 3264 s.8); a first one there is not.
func (l *Leg) answeredBy(ack *core.Request) bool {
	l.AnswerDue = false
	answer, err := sdp.Parse(ack.Body)
	if err == nil {
		err = l.take(answer)
	}
	return err == nil || l.Remote.Addr.IsValid()
}

// reoffer tells the peer the address again, if it may believe in an older one (Reopen).
func (l *Leg) reoffer(env *Env) {
	if l.Reoffer {
		l.Reoffer = false
		l.Reinvite(env)
	}
}

// take applies the peer's answer to our offer. Phones that forget the direction in their
// answer to a hold are common: they are understood as what the offer left open.
func (l *Leg) take(answer sdp.Session) error {
	switch err := l.Local.Accept(answer); {
	case errors.Is(err, sdp.ErrDirection):
		answer.Direction = l.Local.Direction.Reverse().And(answer.Direction)
	case err != nil:
		return err
	}
	codec, telephone, ok := answer.Codec()
	if !ok {
		return errors.New("answer without a codec")
	}
	l.Remote, l.Codec, l.Telephone = answer, codec, telephone
	return nil
}

// RetryAfter is the header field that says when to try again.
func RetryAfter(seconds int) core.Field {
	return core.Field{Name: "Retry-After", Value: strconv.Itoa(seconds)}
}
