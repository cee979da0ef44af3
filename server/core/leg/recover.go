package leg

import (
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// jump is how far CSeq and the o= version move when a leg is taken up from its record: some
// numbers may have been used without being written down (keepalives, a hang-up while the
// store was away). A gap is allowed (s.12.2.2), a number that the peer has seen is refused
// for ever. It grows with the call's age, one a millisecond, so that a process that dies
// before it wrote anything has used no number that its successor uses.
func jump(age time.Duration) uint32 {
	const least, most = 1000, 1 << 26 // 18 hours; below 2^31 for thirty such restarts
	return least + uint32(min(max(age.Milliseconds(), 0), most))
}

// Recover takes the leg up from its record after its process died, in a call that began so
// long ago. What the record says is at most older than the world, never newer. The
// transactions of the dead process are gone. It reports whether the leg wants its media back.
func (l *Leg) Recover(env *Env, age time.Duration) bool {
	l.Dialog.LocalSeq += jump(age)
	l.Version += uint64(jump(age))
	l.recovered = true
	if env.Plant == "cseq-reset-after-restart" {
		l.Dialog.LocalSeq = 1
	}
	env.Touched = true
	switch l.State {
	case Answering, Dismissed:
		// Not at once: a leg in Answering has a new address to tell first (Reopen).
		l.Repeat.At, l.Repeat.GiveUpAt = env.Now.Add(T1), env.Now.Add(AckPatience)
		return l.State == Answering
	case Confirmed:
		l.Repeat, l.Exchange, l.ExchangeTxn = nil, Settled, ""
		return true
	case Calling, Proceeding, Unwanted, Cancelling:
		// The phone may ring: stop it. It may also have answered, and repeats its 200 for lack
		// of an ACK (s.13.3.1.4): the leg stays for a while, to acknowledge and to leave.
		l.cancel(env)
		if l.Dialog.Remote.Tag() != "" {
			// It may even have our ACK already, and then a CANCEL does nothing (s.9.2). A BYE
			// ends an early dialog as well as a confirmed one (s.15).
			env.free(core.SendRequest{Txn: core.TxnID(env.Rand.Branch()), To: l.Dialog.Target(), Request: l.Dialog.Request(core.BYE)})
		}
	case Leaving:
		l.leave(env)
	}
	return false
}

// ackWait is how long a recovered leg in Answering waits for the ACK to its repeated 200.
// A phone that has acknowledged the first 200, from the node that is gone, may send its ACK
// there again, or nowhere. One that has not will have by then.
const ackWait = 100 * time.Millisecond

// unheard ends the wait: the leg is taken as confirmed, and its peer is asked. One that
// never got a 200 has no dialog to say yes to (481), and the call ends.
func (l *Leg) unheard(env *Env) {
	if l.ackBy = 0; l.State != Answering {
		return
	}
	l.State, l.Invite, l.Repeat, l.Reoffer = Confirmed, nil, nil, false
	env.Touched = true
	l.Reinvite(env)
}

// Recovering reports whether the peer has not yet been told, or has not yet acknowledged,
// where this side is now.
func (l *Leg) Recovering() bool {
	return l.recovered && (l.State == Answering || l.State == Confirmed && (l.Exchange == Ours || l.Reoffer))
}

// Reopen gives a recovered leg its new media address and tells the peer.
//
// A leg in Answering: the peer may have the 200 already (then it repeats its ACK and
// ignores the body) or not (then this is the first it sees). Either way the ACK leaves
// us not knowing which address it believes in, so a re-INVITE follows it.
func (l *Leg) Reopen(env *Env, address netip.AddrPort) {
	l.Address = address
	switch l.State {
	case Answering:
		l.Version++
		l.Local.Version, l.Local.Addr, l.Local.RTCP = l.Version, address, netip.AddrPort{}
		again := *l.Repeat.Response
		again.Body = l.Local.Marshal()
		again.Contact = []core.Address{{URI: env.Contact(l.Dialog.Peer.Transport)}} // the ACK is to come here
		l.Repeat.Response = &again
		l.Exchange = Settled
		if l.Reoffer = true; !l.AnswerDue { // else the ACK has what is still to be known
			l.ackBy = env.Now.Add(ackWait)
		}
		env.urgent(core.Respond{Txn: l.Repeat.Txn, To: l.Dialog.Peer, Response: &again})
	case Confirmed:
		if l.Exchange == Theirs { // they were told the old address meanwhile
			l.Reoffer = true
			return
		}
		l.Reinvite(env)
	}
}
