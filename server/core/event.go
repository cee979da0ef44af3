package core

import (
	"net/netip"
	"time"
)

// Event is something that happened outside the core. Events of one dialog may arrive
// in any order: transports and goroutines of the edges reorder them.
type Event interface{ isEvent() }

// RequestReceived is a new SIP request; retransmissions are absorbed by the edge.
// An ACK to a 2xx has no transaction: Txn is "". A CANCEL has the Txn of its own;
// Cancels names the INVITE transaction that it matches, "" for none.
type RequestReceived struct {
	Txn     TxnID
	Cancels TxnID
	From    Peer
	Request *Request
}

// ResponseReceived is a response to a request of ours: every provisional one, every
// final one once, and a repeated 2xx to INVITE each time (its ACK must be repeated).
type ResponseReceived struct {
	Txn      TxnID
	From     Peer
	Response *Response
}

// TransactionFailed ends a transaction of ours without a final response.
type TransactionFailed struct {
	Txn   TxnID
	Cause FailCause
}

// FailCause says how a transaction of ours failed.
type FailCause string

// The ways in which a transaction fails (RFC 3261 s.17.1.4).
const (
	TimedOut    FailCause = "timeout"
	Undelivered FailCause = "transport"
)

// FlowClosed says that a connection is gone; what was bound to it can't be reached by it.
type FlowClosed struct{ Flow FlowID }

// MediaOpened answers OpenMedia: the leg receives RTP at Local, RTCP one port above.
type MediaOpened struct {
	Leg   LegID
	Local netip.AddrPort
}

// MediaRefused answers OpenMedia when no port or no memory is left.
type MediaRefused struct {
	Leg   LegID
	Cause string
}

// MediaIdle says that a leg received no RTP for MediaSpec.IdleAfter. It comes once per silence.
type MediaIdle struct{ Leg LegID }

// MediaResumed says that RTP is received again after a MediaIdle.
type MediaResumed struct{ Leg LegID }

// PlaybackDone says that a playback that does not loop reached its end.
type PlaybackDone struct {
	Leg  LegID
	Play uint32
}

// MediaClosed answers CloseMedia, with what was measured.
type MediaClosed struct {
	Leg   LegID
	Stats AudioStats
}

// Stored says that a Store is committed: it survives this process.
type Stored struct {
	Token    Token
	Revision Revision // of the commit: all its keys have it now
}

// Conflict says that a Store was refused and nothing of it was written.
type Conflict struct{ Token Token }

// Fenced says that this node has lost ownership: nothing of the Store was or will be written.
// Without a Token no Store waited.
type Fenced struct{ Token Token }

// Unknown says that the outcome of a Store is open: it may be committed or not. The edge
// goes on finding out, and exactly one of Stored, Conflict or Fenced follows; until then
// nothing may depend on the write.
type Unknown struct{ Token Token }

// Entry is one stored record: a key below its tenant, and its value. A cluster's own
// records have no tenant, and their whole key.
type Entry struct {
	Tenant   TenantID
	Key      string
	Value    []byte
	Revision Revision // of its last write
}

// Restored is the first event of a node: all that the store held, this process's own node
// record included. Watched goes on from there.
type Restored struct {
	Incarnation Revision // of this process: the revision of its node record
	Entries     []Entry
}

// Delivered says that a CDR is in the records store (now or from an earlier delivery).
type Delivered struct{ ID InteractionID }

// DeliveryFailed says that a CDR could not be written; it is delivered again later.
type DeliveryFailed struct {
	ID    InteractionID
	Cause string
}

// Purged answers Purge. With a Cause it failed, and may have purged some.
type Purged struct {
	Tenant TenantID
	Cause  string
}

// Commanded is a request of the API or the operator. Do is one of the values of package
// command; the answer is a Reply with the same Token.
type Commanded struct {
	Token  Token
	Key    KeyHash  // who asks
	Tenant TenantID // which tenant the operator key means; ignored for a tenant's key
	Do     any
}

// DrainRequested asks the node to take no new interactions and to be Drained when the
// live ones have ended, or after Within, when they are hung up.
type DrainRequested struct{ Within time.Duration }

// Woken says that the instant of Deadline has come.
type Woken struct{}

func (RequestReceived) isEvent()   {}
func (ResponseReceived) isEvent()  {}
func (TransactionFailed) isEvent() {}
func (FlowClosed) isEvent()        {}
func (MediaOpened) isEvent()       {}
func (MediaRefused) isEvent()      {}
func (MediaIdle) isEvent()         {}
func (MediaResumed) isEvent()      {}
func (PlaybackDone) isEvent()      {}
func (MediaClosed) isEvent()       {}
func (Stored) isEvent()            {}
func (Conflict) isEvent()          {}
func (Fenced) isEvent()            {}
func (Unknown) isEvent()           {}
func (Restored) isEvent()          {}
func (Delivered) isEvent()         {}
func (DeliveryFailed) isEvent()    {}
func (Purged) isEvent()            {}
func (Commanded) isEvent()         {}
func (DrainRequested) isEvent()    {}
func (Woken) isEvent()             {}
