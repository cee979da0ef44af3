package leg

import "github.com/dialtone-cc/dialtone/server/core"

// keepalive asks a peer that sends no RTP whether it is still there, with OPTIONS in the
// dialog. A muted or held phone is silent too, so silence alone ends nothing.
type keepalive struct {
	at     core.Time  // next question, 0: the peer is heard
	txn    core.TxnID // the open question
	missed int        // questions without answer in a row
}

// Quiet says that no RTP comes from the peer. The asking begins.
func (l *Leg) Quiet(env *Env) Report {
	if l.keepalive.at != 0 {
		return Nothing
	}
	l.keepalive = keepalive{at: env.Now}
	return l.probe(env)
}

// Heard says that RTP comes again.
func (l *Leg) Heard() { l.keepalive = keepalive{} }

func (l *Leg) probe(env *Env) Report {
	k := &l.keepalive
	switch l.State {
	case Confirmed:
	case Answering: // the ACK has its own patience; the silence is asked about after it
		k.at = env.Now.Add(env.Policy.KeepaliveEvery)
		return Nothing
	default:
		*k = keepalive{}
		return Nothing
	}
	if k.txn != "" {
		k.missed++
	}
	if k.missed >= env.Policy.KeepaliveTries && env.Plant != "ignore-keepalive" {
		l.leave(env)
		return Silent
	}
	k.at = env.Now.Add(env.Policy.KeepaliveEvery)
	if l.Exchange == Ours {
		// Our re-INVITE asks the same, and its CSeq must not be overtaken. Its own patience
		// (64*T1) would keep the call of a phone that is gone for longer than ours does.
		k.txn = l.ExchangeTxn
		return Nothing
	}
	k.txn = core.TxnID(env.Rand.Branch())
	// Not worth a write: whoever takes the leg over jumps ahead in CSeq (Recover).
	env.free(core.SendRequest{Txn: k.txn, To: l.Dialog.Target(), Request: l.Dialog.Request(core.OPTIONS)})
	return Nothing
}

// probed takes the answer: any but "no such dialog" says that the peer lives (s.12.2.1.2).
func (l *Leg) probed(env *Env, status int) Report {
	l.keepalive.txn, l.keepalive.missed = "", 0
	if status == 481 || status == 408 {
		l.leave(env)
		return Lost
	}
	return Nothing
}
