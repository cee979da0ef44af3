package leg

import (
	"net/netip"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/dialog"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
)

// Outgoing is whom to call and as whom.
type Outgoing struct {
	ID       core.LegID
	Agent    core.AgentID
	URI      core.URI // of the phone: its Contact
	To, From core.Address
	Target   core.Target
	Route    []core.Address
	Formats  []sdp.Format
	Address  netip.AddrPort
	Fields   []core.Field
}

// NewUAC returns the leg of an agent's phone, with its INVITE on the way.
func NewUAC(env *Env, o Outgoing) Leg {
	l := Leg{ID: o.ID, Party: core.Callee, Agent: o.Agent, State: Calling,
		Txn: core.TxnID(env.Rand.Branch()), To: o.Target, Address: o.Address,
		SDPID: env.Rand.Uint64() >> 12, Version: 1}
	l.Local = sdp.Local{ID: l.SDPID, Version: l.Version, Addr: o.Address, Direction: sdp.SendRecv, Formats: o.Formats}.Offer()
	l.Invite = &core.Request{Method: core.INVITE, URI: o.URI, Message: core.Message{
		From: o.From.WithTag(env.Rand.Tag()), To: o.To, CallID: env.Rand.Text(24),
		CSeq:    1 + uint32(env.Rand.Below(1<<16)),
		Contact: []core.Address{{URI: env.Contact(o.Target.Transport)}}, Route: o.Route,
		Header:      append([]core.Field{{Name: "Allow", Value: Allow}}, o.Fields...),
		ContentType: "application/sdp", Body: l.Local.Marshal(),
	}}
	l.Dialog = dialog.Calling(l.Invite)
	env.held(core.SendRequest{Txn: l.Txn, To: l.To, Request: l.Invite})
	return l
}

// Response takes a response to any request of this leg.
func (l *Leg) Response(env *Env, txn core.TxnID, resp *core.Response, from core.Peer) Report {
	switch {
	case txn == l.Txn && resp.Method == core.INVITE:
		return l.answered(env, resp, from)
	case txn == l.ExchangeTxn && resp.Method == core.INVITE:
		return l.exchanged(env, resp, from)
	case txn == l.bye && l.State == Leaving && resp.Status >= 200:
		l.State = Gone
		env.Touched = true
	case txn == l.keepalive.txn && resp.Status >= 200:
		return l.probed(env, resp.Status)
	case resp.Method == core.INVITE && resp.Status/100 == 2 && (l.State == Confirmed || l.State == Leaving):
		// Of a re-INVITE of a process that died. The phone takes no other before its ACK (s.14.2).
		env.free(core.SendRequest{To: l.Dialog.Target(), Txn: core.TxnID(env.Rand.Branch()), Request: l.Dialog.Ack(resp.CSeq)})
	}
	return Nothing // CANCEL's own answer says nothing about the INVITE
}

// answered takes a response to the first INVITE.
func (l *Leg) answered(env *Env, resp *core.Response, from core.Peer) Report {
	switch {
	case resp.Status < 200:
		return l.provisional(env, resp, from)
	case resp.Status < 300:
		return l.success(env, resp, from)
	}
	switch l.State {
	case Calling, Proceeding:
		l.end(env, resp.Status)
		return Refused
	case Unwanted, Cancelling:
		l.end(env, resp.Status)
	}
	return Nothing
}

func (l *Leg) provisional(env *Env, resp *core.Response, from core.Peer) Report {
	switch l.State {
	case Calling:
		l.State = Proceeding
	case Unwanted:
		l.cancel(env)
	case Proceeding, Cancelling:
	default:
		return Nothing
	}
	if resp.Status == 100 {
		return Nothing
	}
	if l.Dialog.Remote.Tag() == "" && resp.To.Tag() != "" {
		// The tag lets whoever takes over leave the dialog, should the phone have answered
		// and our ACK be all that it heard of us: also where it is being cancelled.
		l.Dialog = l.Dialog.Established(resp, from)
		env.Touched = true
	}
	if l.State == Cancelling {
		return Nothing
	}
	return Rang
}

// success takes a 2xx to the first INVITE, the first one or a repeated one.
func (l *Leg) success(env *Env, resp *core.Response, from core.Peer) Report {
	switch l.State {
	case Confirmed, Leaving, Gone:
		if resp.To.Tag() != l.Dialog.Remote.Tag() {
			l.refuseFork(env, resp, from)
			return Nothing
		}
		if env.Plant == "no-ack-repeat" {
			return Nothing
		}
		// s.13.2.2.4: an ACK for each 2xx that comes. Rebuilt, since it may have been lost.
		env.free(core.SendRequest{To: l.Dialog.Target(), Txn: core.TxnID(env.Rand.Branch()), Request: l.Dialog.Ack(resp.CSeq)})
		return Nothing
	}
	unwanted := l.State == Unwanted || l.State == Cancelling
	if unwanted && env.Plant == "late-200-ignored" {
		return Nothing
	}
	l.Dialog = l.Dialog.Established(resp, from)
	l.Status, l.Invite = resp.Status, nil
	answer, err := sdp.Parse(resp.Body)
	if err == nil {
		err = l.take(answer)
	}
	ack := core.SendRequest{To: l.Dialog.Target(), Txn: core.TxnID(env.Rand.Branch()), Request: l.Dialog.Ack(resp.CSeq)}
	if unwanted || err != nil {
		env.free(ack) // the BYE that follows does not wait either
	} else {
		env.urgent(ack)
	}
	l.State = Confirmed
	switch {
	case unwanted: // the answer crossed our CANCEL: the dialog exists, and we leave it (s.9.1)
		l.leave(env)
		return Nothing
	case err != nil:
		l.leave(env)
		l.Status = 488
		return Refused
	}
	return Accepted
}

// refuseFork leaves a second dialog that a forking proxy made of our INVITE (s.13.2.2.4).
func (l *Leg) refuseFork(env *Env, resp *core.Response, from core.Peer) {
	other := l.Dialog
	other.LocalSeq = resp.CSeq
	other = other.Established(resp, from)
	env.free(core.SendRequest{To: other.Target(), Txn: core.TxnID(env.Rand.Branch()), Request: other.Ack(resp.CSeq)})
	env.free(core.SendRequest{To: other.Target(), Txn: core.TxnID(env.Rand.Branch()), Request: other.Request(core.BYE)})
}

// Failed takes the end of a transaction of this leg that got no final response.
func (l *Leg) Failed(env *Env, txn core.TxnID, cause core.FailCause) Report {
	switch {
	case txn == l.Txn:
		status := 408
		if cause == core.Undelivered {
			status = 503 // s.8.1.3.1
		}
		switch l.State {
		case Calling, Proceeding:
			l.end(env, status)
			return Refused
		case Unwanted, Cancelling:
			l.end(env, status)
		}
	case txn == l.ExchangeTxn && l.Exchange == Ours:
		l.Exchange, l.ExchangeTxn = Settled, ""
		l.leave(env)
		return Lost
	case txn == l.bye && l.State == Leaving:
		l.State = Gone
		env.Touched = true
	}
	return Nothing
}

// TakeBack ends a leg whose INVITE never left: it still waits for its commit. It reports
// whether that was so; asked a second time it says no.
func (l *Leg) TakeBack(env *Env) bool {
	if l.State != Calling || !env.Withdraw(l.Txn) {
		return false
	}
	l.end(env, 487)
	return true
}

// withdraw takes back an INVITE of ours, or leaves the dialog if it was answered.
func (l *Leg) withdraw(env *Env) {
	if l.TakeBack(env) {
		return
	}
	if l.State == Calling {
		l.State = Unwanted // s.9.1: no CANCEL before a provisional response
		env.Touched = true
		return
	}
	l.cancel(env)
}

// cancel sends CANCEL and waits a while for the final response. It does not wait for a
// commit: who takes the leg over cancels again, and the agent may be rung for another call
// any moment.
func (l *Leg) cancel(env *Env) {
	l.State, l.GiveUpAt = Cancelling, env.Now.Add(AckPatience)
	c := &core.Request{Method: core.CANCEL, URI: l.Invite.URI, Message: core.Message{
		From: l.Invite.From, To: l.Invite.To, CallID: l.Invite.CallID, CSeq: l.Invite.CSeq, Route: l.Invite.Route,
	}}
	env.Touched = true
	out := core.SendRequest{Txn: l.Txn, To: l.To, Request: c}
	if l.recovered {
		out.SentBy = l.sentBy()
	}
	env.free(out)
}

// sentBy is the address in the Via of our INVITE, which may be that of a node that is gone:
// a CANCEL matches by branch and sent-by (s.17.2.3).
func (l *Leg) sentBy() netip.AddrPort {
	if len(l.Invite.Contact) == 0 {
		return netip.AddrPort{}
	}
	own := l.Invite.Contact[0].URI
	host, err := netip.ParseAddr(own.Host)
	if err != nil || own.Port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(host, own.Port)
}

// end closes a leg that never became a dialog.
func (l *Leg) end(env *Env, status int) {
	l.State, l.Status, l.Invite = Gone, status, nil
	env.Touched = true
}
