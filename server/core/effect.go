package core

import "net/netip"

// Effect is something that the core wants done outside. The driver carries the effects
// of a Step out in order; it knows no other rule.
type Effect interface{ isEffect() }

// SendRequest opens a client transaction, or, for ACK to a 2xx, sends once without one.
// The Txn is the Via branch; a CANCEL carries the branch of its INVITE and answers as
// Txn+"/CANCEL" (RFC 3261 s.9.1: same branch, a transaction of its own).
type SendRequest struct {
	Txn     TxnID
	To      Target
	Request *Request
	// T1 is how long a datagram waits for its first repetition (Timers A and E); 0: 500 ms.
	// Less is for the one who takes calls over: a lost datagram is silence for so long. It
	// says nothing about the peer's patience: Timers B and F stay 64 times the usual T1
	// (RFC 3261 s.17.1.1.1 has T1 as the estimate of a round trip, which may be smaller).
	T1 Millis
	// SentBy is what the Via says in place of this node's own address. With the Txn of a
	// dead node's INVITE and the address that was in its Via, a CANCEL is that INVITE's
	// (RFC 3261 s.17.2.3: branch and sent-by). Its answer comes here, by rport.
	SentBy netip.AddrPort
}

// Respond answers a peer's transaction. When the edge does not know the transaction (a
// repeated 2xx, or one restored after a restart) it sends to Via as RFC 3261 s.18.2.2 says.
type Respond struct {
	Txn      TxnID
	To       Peer
	Response *Response
}

// OpenMedia asks for a port pair; MediaOpened or MediaRefused answers.
type OpenMedia struct{ Leg LegID }

// SetMedia states all that a leg's media should be from now on.
type SetMedia struct {
	Leg  LegID
	Spec MediaSpec
}

// CloseMedia frees a leg's ports; MediaClosed answers.
type CloseMedia struct{ Leg LegID }

// MediaSpec is the whole of a leg's media: applying it twice changes nothing.
type MediaSpec struct {
	Remote    netip.AddrPort // where the peer says it receives; invalid: unknown
	Codec     Codec
	Telephone uint8 // payload type of telephone-event (RFC 4733); 0: not negotiated
	Send      bool  // we may send to the peer (our direction, RFC 3264 s.5.1)
	Receive   bool  // the peer may send to us
	Hear      Source
	IdleAfter Millis // MediaIdle after so long without RTP; 0: never
}

// Millis is a duration in milliseconds, as the records and the API carry it.
type Millis int64

// Codec is a negotiated audio format.
type Codec struct {
	Name    string `json:"name"`    // as in rtpmap, upper case: PCMU PCMA G722 OPUS
	Payload uint8  `json:"payload"` // the payload type on this leg
	Clock   uint32 `json:"clock"`   // RTP clock in Hz (G722: 8000, RFC 3551 s.4.5.2)
}

// Source is what a leg hears.
type Source struct {
	Kind SourceKind
	File string // Playback: name of the audio, without directory or extension
	Loop bool   // Playback: begin again at the end
	Play uint32 // Playback: number that PlaybackDone returns; a new number starts anew
	Peer LegID  // Bridge: whose voice
}

// SourceKind is where a leg's audio comes from.
type SourceKind uint8

// The sources.
const (
	Silence SourceKind = iota
	Playback
	Bridge
)

// Op is one change of one key below the tenant of its Store. A nil Value deletes.
type Op struct {
	Key   string
	Value []byte
}

// Store writes all Ops or none: none if a Guard does not hold, which is a Conflict. Its
// outcome comes back as Stored, Conflict, Fenced or Unknown. Stores are committed in the
// order in which they were asked for. Without a Tenant it writes the cluster's own records.
type Store struct {
	Token  Token
	Tenant TenantID
	Ops    []Op
	If     []Guard
	More   bool // another Store of the same Step follows: one commit should carry both
}

// Deliver hands a finished interaction to the records store. It may come again for the
// same id (after a restart); the store keeps one.
type Deliver struct{ CDR *CDR }

// Purge removes all finished interactions of a tenant from the records store; Purged answers.
type Purge struct{ Tenant TenantID }

// Reply answers a Commanded. Problem is nil on success. With Elsewhere nothing was done: the
// node whose API is at that address decides, and the request is to be passed on to it.
type Reply struct {
	Token     Token
	Value     any
	Problem   *Problem
	Elsewhere netip.AddrPort
}

// Publish tells a tenant's listeners (server-sent events) that something happened.
type Publish struct {
	Tenant TenantID
	Kind   string // e.g. "interaction.queued", "agent.state"
	Data   any    // a value that is never changed afterwards
}

// Log is one line for people. Attributes are key, value, key, value; never a secret.
type Log struct {
	Level       int // as slog: -4 debug, 0 info, 4 warning, 8 error
	Text        string
	Tenant      TenantID
	Interaction InteractionID
	Attrs       []any
}

// Drained says that a drain is complete: the process may end.
type Drained struct{}

func (SendRequest) isEffect() {}
func (Respond) isEffect()     {}
func (OpenMedia) isEffect()   {}
func (SetMedia) isEffect()    {}
func (CloseMedia) isEffect()  {}
func (Store) isEffect()       {}
func (Deliver) isEffect()     {}
func (Purge) isEffect()       {}
func (Reply) isEffect()       {}
func (Publish) isEffect()     {}
func (Log) isEffect()         {}
func (Drained) isEffect()     {}
