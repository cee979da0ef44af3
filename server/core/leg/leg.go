// Package leg is one party of a call: its INVITE (as UAS or UAC), its dialog, its media
// description, and everything that happens inside the dialog. A leg is a value.
//
// It tells its call what happened by the Report that its methods return, and the world
// by the effects that it leaves in Env.
package leg

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/commit"
	"github.com/dialtone-cc/dialtone/server/core/dialog"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
)

// Timers of RFC 3261 s.17.1.1.2, and our own.
const (
	T1 = 500 * time.Millisecond // estimate of a round trip
	T2 = 4 * time.Second        // ceiling of repetition
	// AckPatience is how long a 2xx is repeated without ACK (64*T1, s.13.3.1.4).
	AckPatience = 64 * T1
	// storePatience is how long a caller's 200 may wait for its commit. A caller who has
	// heard nothing but 100 Trying for so long is better sent to another node.
	storePatience = 2 * time.Second
)

// State is where a leg is in its life. For the UAS it is RFC 3261 figures 7 and 8 seen
// from the user, for the UAC figures 5 and 6:
//
//	UAS  Invited -> Answering -> Confirmed -> Leaving -> Gone
//	            \-> Gone     \-> Dismissed -> Leaving
//	UAC  Calling -> Proceeding -> Confirmed -> Leaving -> Gone
//	           \-> Unwanted -> Cancelling -> Gone (or Leaving, when a 2xx won the race)
type State string

// The states.
const (
	Invited    State = "invited"    // UAS: no final response decided
	Answering  State = "answering"  // UAS: 2xx decided, repeated until its ACK
	Dismissed  State = "dismissed"  // UAS: the same, and a BYE follows the ACK (s.15)
	Calling    State = "calling"    // UAC: nothing heard
	Proceeding State = "proceeding" // UAC: a provisional response was heard
	Unwanted   State = "unwanted"   // UAC: to be cancelled as soon as one is heard (s.9.1)
	Cancelling State = "cancelling" // UAC: CANCEL is out
	Confirmed  State = "confirmed"
	Leaving    State = "leaving" // our BYE is out
	Gone       State = "gone"
)

// Exchange is where an offer/answer exchange inside the dialog is.
type Exchange string

// The exchanges.
const (
	Settled Exchange = ""       // none is open
	Ours    Exchange = "ours"   // our re-INVITE is out
	Again   Exchange = "again"  // ours met theirs (491) and goes again at Leg.AgainAt
	Theirs  Exchange = "theirs" // their re-INVITE has our 2xx but not sent its ACK
)

// Leg is one party. What always holds:
//  1. Exchange is Settled unless the state is Confirmed.
//  2. Repeat is set exactly in Answering and Dismissed, and in Confirmed with Theirs.
//  3. Invite is set until the INVITE has its final outcome.
type Leg struct {
	ID     core.LegID    `json:"id"`
	Party  core.Party    `json:"party"`
	Agent  core.AgentID  `json:"agent,omitempty"`
	State  State         `json:"state"`
	Dialog dialog.Dialog `json:"dialog"`
	Status int           `json:"status,omitempty"` // final status of its INVITE

	Txn    core.TxnID    `json:"txn,omitempty"`    // of its INVITE
	Invite *core.Request `json:"invite,omitempty"` // theirs (UAS) or ours (UAC)
	To     core.Target   `json:"to,omitzero"`      // where ours went
	Repeat *Repeat       `json:"repeat,omitempty"`
	// Cancelling: when the peer's final response is no longer waited for (s.9.1, 64*T1).
	GiveUpAt core.Time `json:"give_up_at,omitzero"`

	Exchange    Exchange   `json:"exchange,omitempty"`
	ExchangeTxn core.TxnID `json:"exchange_txn,omitempty"`
	AgainAt     core.Time  `json:"again_at,omitzero"`
	Tries       int        `json:"tries,omitempty"`      // of our re-INVITE
	Reoffer     bool       `json:"reoffer,omitempty"`    // the ACK is followed by our re-INVITE (Reopen)
	HoldNoted   bool       `json:"hold_noted,omitempty"` // the timeline says that the peer holds us
	AnswerDue   bool       `json:"answer_due,omitempty"` // our 2xx made an offer; the ACK carries the answer

	Address   netip.AddrPort `json:"address,omitzero"` // our RTP address
	SDPID     uint64         `json:"sdp_id"`
	Version   uint64         `json:"sdp_version"`
	Local     sdp.Session    `json:"local,omitzero"`
	Remote    sdp.Session    `json:"remote,omitzero"`
	Codec     core.Codec     `json:"codec,omitzero"`
	Telephone uint8          `json:"telephone,omitempty"`

	Applied   core.MediaSpec `json:"-"` // what the media edge was last told
	keepalive keepalive
	recovered bool      // from a record: what it promises may have been sent before
	ackBy     core.Time // a recovered leg in Answering is taken as confirmed then
	bye       core.TxnID
	second    core.Time // of the last re-INVITE
	reinvites int       // within it
}

// Repeat is a 2xx to INVITE that goes out again until its ACK comes (s.13.3.1.4). The
// transaction layer does not do it: the 2xx ends its transaction.
type Repeat struct {
	Txn      core.TxnID     `json:"txn"`
	Response *core.Response `json:"response"`
	At       core.Time      `json:"at"`
	Every    time.Duration  `json:"every"`
	GiveUpAt core.Time      `json:"give_up_at"`
}

// Report is what a call learns from its leg.
type Report string

// The reports.
const (
	Nothing  Report = ""
	Rang     Report = "rang"     // UAC: 18x
	Accepted Report = "accepted" // UAC: 2xx; the media is agreed
	Refused  Report = "refused"  // UAC: no call; Leg.Status says why
	Acked    Report = "acked"    // UAS: the ACK came
	Changed  Report = "changed"  // media of the dialog was agreed anew
	HungUp   Report = "hung_up"  // they sent BYE (or, as UAS, CANCEL)
	Lost     Report = "lost"     // the dialog is gone or the peer is: 481, 408, no answer
	Unacked  Report = "unacked"  // UAS: no ACK ever came
	Unstored Report = "unstored" // UAS: the 2xx could not be committed in time and is taken back
	Silent   Report = "silent"   // no RTP and no answer to keepalives
)

// Env is what a leg may use during one step, and where it leaves effects. Held effects
// wait until the state that they follow from is durable; urgent ones wait too, but not
// for ever when the store is away; free ones depend on nothing new.
type Env struct {
	Now      core.Time
	Rand     *core.Rand
	Contact  func(core.Transport) core.URI
	Policy   *Policy
	Withdraw func(core.TxnID) bool // takes back a held effect of that transaction, if it has not left

	Plant string // a known bug, for the simulator's test of itself; "" in every other use

	Touched bool // durable state changed
	Free    []core.Effect
	Held    []commit.Waiting
}

// Policy is what an operator can set about legs.
type Policy struct {
	KeepaliveEvery time.Duration
	KeepaliveTries int
}

func (e *Env) free(eff core.Effect) { e.Free = append(e.Free, eff) }

// held queues an effect that follows from a change of the leg.
func (e *Env) held(eff core.Effect) {
	e.Touched = true
	e.Held = append(e.Held, commit.Waiting{Effect: eff})
}

func (e *Env) urgent(eff core.Effect) {
	e.Touched = true
	e.Held = append(e.Held, commit.Waiting{Effect: eff, Urgent: true})
}

// Deadline returns when the leg wants Wake, and why.
func (l *Leg) Deadline() (core.Time, core.Reason) {
	at, why := core.Never, core.Reason("")
	soonest := func(t core.Time, r core.Reason) {
		if t != 0 && t < at {
			at, why = t, r
		}
	}
	if l.Repeat != nil {
		soonest(l.Repeat.At, "repeat 2xx")
		soonest(l.Repeat.GiveUpAt, "no ACK")
	}
	soonest(l.ackBy, "no ACK after a takeover")
	if l.State == Cancelling {
		soonest(l.GiveUpAt, "no answer to CANCEL")
	}
	if l.Exchange == Again {
		soonest(l.AgainAt, "re-INVITE after 491")
	}
	soonest(l.keepalive.at, "keepalive")
	return at, why
}

// Wake does what is due.
func (l *Leg) Wake(env *Env) Report {
	if l.ackBy != 0 && l.ackBy <= env.Now {
		l.unheard(env)
	}
	if r := l.Repeat; r != nil && r.GiveUpAt <= env.Now {
		return l.unacked(env)
	}
	if r := l.Repeat; r != nil && r.At <= env.Now {
		r.Every = min(2*r.Every, T2)
		r.At = env.Now.Add(r.Every)
		again := core.Respond{Txn: r.Txn, To: l.Dialog.Peer, Response: r.Response}
		if env.Withdraw(r.Txn) { // the first one still waits for its commit: none goes before it
			if decided := r.GiveUpAt.Add(-AckPatience); l.State == Answering && !l.recovered && env.Now.Sub(decided) >= storePatience {
				l.Reject(env, 503, RetryAfter(5))
				return Unstored
			}
			env.Held = append(env.Held, commit.Waiting{Urgent: l.State == Confirmed, Effect: again})
		} else {
			env.free(again)
		}
	}
	if l.State == Cancelling && l.GiveUpAt <= env.Now {
		l.end(env, 487)
		return Nothing
	}
	if l.Exchange == Again && l.AgainAt <= env.Now {
		l.Exchange = Settled
		l.Reinvite(env)
	}
	if l.keepalive.at != 0 && l.keepalive.at <= env.Now {
		return l.probe(env)
	}
	return Nothing
}

// unacked ends a leg whose 2xx was never acknowledged: the dialog counts as confirmed and
// is left with a BYE (s.13.3.1.4). An un-ACKed re-INVITE likewise ends the dialog.
func (l *Leg) unacked(env *Env) Report {
	dismissed := l.State == Dismissed
	if (dismissed || l.State == Answering) && l.retract(env) {
		// The 2xx never left, the store was away: there is no dialog to leave.
		l.Reject(env, 503, RetryAfter(5))
		if dismissed {
			return Nothing
		}
		return Unacked
	}
	l.leave(env)
	if dismissed {
		return Nothing
	}
	return Unacked
}

// MediaOn reports whether the leg has an agreed media description.
func (l *Leg) MediaOn() bool {
	return l.Codec.Name != "" && (l.State == Answering || l.State == Confirmed)
}

// Holds reports whether the peer has put us on hold: it does not want to hear us (RFC 3264 s.8.4).
func (l *Leg) Holds() bool { return l.Remote.Addr.IsValid() && !l.Remote.Direction.Receives() }

// Live reports whether the leg is in a call or on the way to one.
func (l *Leg) Live() bool {
	switch l.State {
	case Invited, Answering, Calling, Proceeding, Confirmed:
		return true
	}
	return false
}

// early reports whether the leg's INVITE has no outcome yet.
func (l *Leg) early() bool {
	switch l.State {
	case Invited, Calling, Proceeding, Unwanted, Cancelling:
		return true
	}
	return false
}

// Valid checks the numbered invariants above.
func (l *Leg) Valid() error {
	switch {
	case l.Exchange != Settled && l.State != Confirmed:
		return fmt.Errorf("leg %s: exchange %s in state %s", l.ID, l.Exchange, l.State)
	case (l.Repeat != nil) != (l.State == Answering || l.State == Dismissed || l.Exchange == Theirs):
		return fmt.Errorf("leg %s: repeated response %v in state %s, exchange %q", l.ID, l.Repeat != nil, l.State, l.Exchange)
	case l.early() && l.Invite == nil:
		return fmt.Errorf("leg %s: no INVITE in state %s", l.ID, l.State)
	case l.Repeat != nil && l.Repeat.Response == nil:
		return fmt.Errorf("leg %s: repeats no response", l.ID)
	}
	return l.Dialog.Valid()
}
