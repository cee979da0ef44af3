package leg

import (
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
)

// Request takes a request of the peer inside the dialog, all but ACK and CANCEL.
func (l *Leg) Request(env *Env, txn core.TxnID, req *core.Request, from core.Peer) Report {
	switch req.Method {
	case core.BYE:
		return l.byed(env, txn, req, from)
	case core.INVITE:
		return l.reinvited(env, txn, req, from)
	case core.OPTIONS:
		if !l.Dialog.Receive(req, from) {
			return l.answer(env, txn, req, from, 500)
		}
		return l.answer(env, txn, req, from, 200)
	}
	l.Dialog.Receive(req, from)
	return l.answer(env, txn, req, from, 405)
}

func (l *Leg) answer(env *Env, txn core.TxnID, req *core.Request, from core.Peer, status int, fields ...core.Field) Report {
	resp := req.Reply(status, l.Dialog.Local.Tag())
	resp.Header = append([]core.Field{{Name: "Allow", Value: Allow}}, fields...)
	env.free(core.Respond{Txn: txn, To: from, Response: resp})
	return Nothing
}

// byed takes a BYE. It is honoured in every state and whatever its CSeq: a peer that wants
// to leave cannot be kept, and a request that overtook another is no reason to stay.
func (l *Leg) byed(env *Env, txn core.TxnID, req *core.Request, from core.Peer) Report {
	if l.Party == core.Callee && l.early() { // s.15: the callee sends no BYE on an early dialog
		return l.answer(env, txn, req, from, 481)
	}
	l.Dialog.Receive(req, from)
	was := l.State
	l.State, l.Invite = Gone, nil
	l.settle(env)
	env.urgent(core.Respond{Txn: txn, To: from, Response: req.Reply(200, l.Dialog.Local.Tag())})
	if was == Leaving || was == Dismissed { // both sides left at once
		return Nothing
	}
	return HungUp
}

// HangUp ends the leg by what its state needs: a refusal, a CANCEL, a BYE.
func (l *Leg) HangUp(env *Env, status, q850 int) {
	switch l.State {
	case Invited:
		l.Reject(env, status)
	case Answering:
		if l.retract(env) {
			l.Reject(env, status)
			return
		}
		l.State = Dismissed // s.15: the callee sends no BYE before the ACK
		env.Touched = true
	case Calling, Proceeding:
		if env.Plant == "no-cancel-on-abandon" {
			l.end(env, status)
			return
		}
		l.withdraw(env)
	case Confirmed:
		l.leave(env, core.Field{Name: "Reason", Value: "Q.850;cause=" + strconv.Itoa(q850)})
	}
}

// leave sends BYE.
func (l *Leg) leave(env *Env, fields ...core.Field) {
	l.State, l.Invite = Leaving, nil
	l.settle(env)
	bye := l.Dialog.Request(core.BYE)
	bye.Header = fields
	l.bye = core.TxnID(env.Rand.Branch())
	out := core.SendRequest{Txn: l.bye, To: l.Dialog.Target(), Request: bye}
	if l.Party == core.Caller {
		env.urgent(out)
		return
	}
	// The agent is free from this moment, and the INVITE of the next call, whose record
	// commits on its own, must not overtake the BYE. Who takes over too old a record asks
	// the phone and is told 481.
	env.Touched = true
	env.free(out)
}

// settle ends what is open inside the dialog. A re-INVITE or a 2xx that still waits for its
// commit does not leave any more.
func (l *Leg) settle(env *Env) {
	l.hush(env)
	if l.Exchange == Ours {
		env.Withdraw(l.ExchangeTxn)
	}
	l.Exchange, l.ExchangeTxn, l.keepalive = Settled, "", keepalive{}
}

// hush ends the repeating of a 2xx, and takes it back if it still waits for its commit.
func (l *Leg) hush(env *Env) {
	if l.Repeat != nil {
		env.Withdraw(l.Repeat.Txn)
		l.Repeat = nil
	}
}

// reinvited takes a re-INVITE: it is answered by us alone, the other leg is not asked, so
// that two parties who press hold at once never meet (RFC 3264 s.8.4 hold and resume).
func (l *Leg) reinvited(env *Env, txn core.TxnID, req *core.Request, from core.Peer) Report {
	if l.State != Confirmed && l.State != Answering {
		return l.answer(env, txn, req, from, 481)
	}
	if l.Exchange == Ours {
		return l.answer(env, txn, req, from, 491) // s.14.2: glare
	}
	if !l.Dialog.Receive(req, from) {
		return l.answer(env, txn, req, from, 500, RetryAfter(1)) // s.14.2
	}
	if status, fields := Screen(req); status != 0 {
		return l.answer(env, txn, req, from, status, fields...)
	}
	if l.tooMany(env.Now) {
		return l.answer(env, txn, req, from, 500, RetryAfter(2))
	}
	body, err := l.agree(req.Body)
	if err != nil {
		return l.answer(env, txn, req, from, 488) // s.14.2: what was agreed before stays
	}
	// A re-INVITE implies that the ACK to our last 2xx was sent: it was lost or overtaken.
	l.State, l.Invite = Confirmed, nil
	l.hush(env)
	l.Exchange, l.ExchangeTxn, l.AgainAt = Theirs, "", 0
	l.Dialog.Refresh(req.Contact)
	l.accept(env, txn, req, body)
	env.urgent(core.Respond{Txn: txn, To: from, Response: l.Repeat.Response})
	return Changed
}

// Reinvite offers our side of the media anew, at the address that the leg has now: after
// a restart or a takeover. The peer's hold is kept: we offer what mirrors it.
func (l *Leg) Reinvite(env *Env) {
	if l.State != Confirmed || l.Exchange != Settled {
		return
	}
	l.Version++
	want := sdp.SendRecv
	if l.Remote.Addr.IsValid() {
		want = l.Remote.Direction.Reverse()
	}
	l.Local = sdp.Local{ID: l.SDPID, Version: l.Version, Addr: l.Address, Direction: want, Formats: l.agreed()}.After(l.Local, l.Remote).Offer()
	req := l.Dialog.Request(core.INVITE)
	req.Contact = []core.Address{{URI: env.Contact(l.Dialog.Peer.Transport)}}
	req.Header = []core.Field{{Name: "Allow", Value: Allow}}
	req.ContentType, req.Body = "application/sdp", l.Local.Marshal()
	l.Exchange, l.ExchangeTxn = Ours, core.TxnID(env.Rand.Branch())
	out := core.SendRequest{Txn: l.ExchangeTxn, To: l.Dialog.Target(), Request: req}
	if l.recovered {
		out.T1 = takeoverT1
	}
	env.urgent(out)
}

// takeoverT1 is how long the first re-INVITE after a takeover waits for its first
// repetition: a datagram that is lost is silence for so long.
const takeoverT1 core.Millis = 50

// A peer may change the media so often in a second: each change is a write.
const reinvitesPerSecond = 10

// tooMany counts re-INVITEs by the second.
func (l *Leg) tooMany(now core.Time) bool {
	if second := now / core.Time(time.Second); second != l.second {
		l.second, l.reinvites = second, 0
	}
	l.reinvites++
	return l.reinvites > reinvitesPerSecond
}

// agreed lists the formats in use, so that a new offer changes no codec.
func (l *Leg) agreed() []sdp.Format {
	var formats []sdp.Format
	for _, f := range l.Local.Formats {
		if f.Payload == l.Codec.Payload || f.Payload == l.Telephone && l.Telephone != 0 {
			formats = append(formats, f)
		}
	}
	if len(formats) == 0 {
		formats = sdp.G711()
	}
	return formats
}

// exchanged takes a response to our re-INVITE.
func (l *Leg) exchanged(env *Env, resp *core.Response, from core.Peer) Report {
	l.keepalive.txn, l.keepalive.missed = "", 0 // whatever it says, the peer is there
	if resp.Status < 200 {
		return Nothing
	}
	if resp.Status < 300 {
		env.free(core.SendRequest{To: l.Dialog.Target(), Txn: core.TxnID(env.Rand.Branch()), Request: l.Dialog.Ack(resp.CSeq)})
	}
	if l.Exchange != Ours {
		return Nothing
	}
	l.Exchange = Settled
	switch {
	case resp.Status < 300:
		l.Tries = 0
		l.Dialog.Refresh(resp.Contact)
		l.Dialog.Peer = from
		answer, err := sdp.Parse(resp.Body)
		if err == nil {
			err = l.take(answer)
		}
		if err != nil {
			l.leave(env)
			return Lost
		}
		return Changed
	case resp.Status == 491:
		l.ExchangeTxn = ""
		return l.again(env)
	case resp.Status == 500:
		// Some phones refuse a CSeq that they think is old with 500, for ever. A jump helps.
		l.ExchangeTxn = ""
		l.Dialog.LocalSeq += 1000
		return l.again(env)
	}
	l.leave(env)
	return Lost
}

// again schedules our re-INVITE once more. Not the 2.1 to 4 s of s.14.1: the peer hears
// nothing until it is through. Two that met draw different delays.
func (l *Leg) again(env *Env) Report {
	if l.Tries++; l.Tries > 160 { // 32 s: so long a phone may have a request of its own open
		l.leave(env)
		return Lost
	}
	l.Exchange = Again
	l.AgainAt = env.Now.Add(env.Rand.Between(100_000_000, 300_000_000))
	env.Touched = true
	return Nothing
}
