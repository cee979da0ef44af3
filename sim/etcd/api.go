package etcd

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

type (
	// ClientID names one client: a process with its connections to all members.
	ClientID string

	// RequestID is chosen by the client; no two of its requests that wait for an answer,
	// and none of its watches, have the same.
	RequestID uint64

	// MemberID counts from 1; 0 is none, or any.
	MemberID int

	// LeaseID is a lease; 0 is none.
	LeaseID int64
)

// Request is what a client asks for. Every request but a Watch gets exactly one Answer.
type Request struct {
	Client ClientID
	ID     RequestID

	// Timeout is when the client gives up: ErrDeadline, whatever becomes of the request.
	// 0: the member gives up, after 5 s and two election timeouts, with ErrTimeout. A Watch
	// has none.
	Timeout time.Duration

	Via        MemberID // the member that is asked; 0: the client's next connection that is up
	NeedLeader bool     // as clientv3.WithRequireLeader
	Do         Action
}

// Action is one of Txn, Range, Grant, KeepAlive, Revoke, Compact, Watch, Unwatch, AskProgress.
type Action interface{ isAction() }

// Txn carries out Then if all comparisons hold, and else Else; either all of it or nothing.
type Txn struct {
	If         []Compare
	Then, Else []Op
}

// Target is what of a key is compared.
type Target string

// The targets. A key that is not there has create and mod revision 0 and version 0; a
// comparison of its value is false.
const (
	CreateRevision Target = "create revision"
	ModRevision    Target = "mod revision"
	Version        Target = "version"
	Value          Target = "value"
)

// Relation of what is there to what is given.
type Relation string

// The relations.
const (
	Equal    Relation = "="
	NotEqual Relation = "!="
	Greater  Relation = ">"
	Less     Relation = "<"
)

// Compare is one comparison of a Txn.
type Compare struct {
	Key    string
	Target Target
	Is     Relation
	Number int64  // of a revision or a version
	Value  []byte // of Value
}

// OpKind is what an operation of a Txn does.
type OpKind string

// The kinds of operations.
const (
	Put    OpKind = "put"
	Delete OpKind = "delete"
	Get    OpKind = "get"
)

// Op is one operation of a Txn. Put writes Key with Value, bound to Lease; Delete and Get
// take one key, or with End the keys from Key on and before End ("\x00": all that follow).
type Op struct {
	Kind     OpKind
	Key, End string
	Value    []byte
	Lease    LeaseID
	Limit    int64         // of Get; 0: none
	Revision core.Revision // of Get: as things stood then; 0: now
}

// Range reads one key, or with End several, in order of the keys. It is linearizable
// unless Serializable, which the member answers from what it has.
type Range struct {
	Key, End     string
	Limit        int64
	Revision     core.Revision
	Serializable bool
}

type (
	// Grant makes a lease of so many seconds, at least 1.5 election timeouts.
	Grant struct{ TTL int64 }

	// KeepAlive renews a lease once.
	KeepAlive struct{ Lease LeaseID }

	// Revoke ends a lease and deletes the keys that are bound to it, in one commit.
	Revoke struct{ Lease LeaseID }

	// Compact forgets what was before a revision.
	Compact struct{ Revision core.Revision }

	// Watch tells of every change in a range from a revision on (0: from now on). It goes on
	// over lost connections, as clientv3's does, until Unwatch or an Answer with Ended.
	Watch struct {
		Key, End string
		From     core.Revision
		Progress bool // tell the revision from time to time when nothing changes
		Fragment bool // a large message may travel in parts; the client puts them together
	}

	// Unwatch ends a watch; its request has an Answer, the watch none.
	Unwatch struct{ Watch RequestID }

	// AskProgress makes the members tell this client's watches how far they are, if all are
	// up to date. It is answered at once; the notifications come as Answers of the watches.
	AskProgress struct{}
)

func (Txn) isAction()         {}
func (Range) isAction()       {}
func (Grant) isAction()       {}
func (KeepAlive) isAction()   {}
func (Revoke) isAction()      {}
func (Compact) isAction()     {}
func (Watch) isAction()       {}
func (Unwatch) isAction()     {}
func (AskProgress) isAction() {}

// Error is the class of an error, "" for none.
type Error string

// The errors. Those of the first group say that the request was not carried out and never
// will be, those of the second leave that open.
const (
	ErrEmptyKey      Error = "key is not provided"
	ErrDuplicateKey  Error = "duplicate key given in txn request"
	ErrTooManyOps    Error = "too many operations in txn request"
	ErrTooLarge      Error = "request is too large"
	ErrCompacted     Error = "required revision has been compacted"
	ErrFuture        Error = "required revision is a future revision"
	ErrLeaseNotFound Error = "requested lease not found"
	ErrTTLTooLarge   Error = "too large lease TTL"
	ErrEmptyRange    Error = "watcher range is empty"
	ErrNoLeader      Error = "no leader"

	ErrUnavailable   Error = "connection lost"
	ErrDeadline      Error = "deadline exceeded"
	ErrTimeout       Error = "request timed out"
	ErrLeaderChanged Error = "leader changed"
	ErrNoSpace       Error = "database space exceeded"
)

// Definite reports whether the request was not carried out and never will be.
func (e Error) Definite() bool {
	switch e {
	case ErrEmptyKey, ErrDuplicateKey, ErrTooManyOps, ErrTooLarge, ErrCompacted, ErrFuture, ErrLeaseNotFound,
		ErrTTLTooLarge, ErrEmptyRange, ErrNoLeader:
		return true
	}
	return false
}

// Answer is what a client gets. What it holds is shared and must not be changed.
type Answer struct {
	At       core.Time
	Client   ClientID
	ID       RequestID
	Err      Error
	Revision core.Revision // of the store, as the member that answers knew it
	Member   MemberID      // 0: the client itself gave up
	Reply    Reply         // nil with an error, but for the end of a watch
}

// Reply is one of TxnReply, RangeReply, LeaseReply, Done, WatchReply.
type Reply interface{ isReply() }

// KeyValue is one version of a key. Of a deletion only Key and Mod are set.
type KeyValue struct {
	Key         string
	Value       []byte
	Create, Mod core.Revision
	Version     int64
	Lease       LeaseID
}

// RangeReply is what a Range, or a Get of a Txn, found.
type RangeReply struct {
	KVs   []KeyValue
	Count int64 // of all keys in the range, whatever the limit
	More  bool  // the limit has cut the answer
}

// Result is what one operation of a Txn came to.
type Result struct {
	Kind    OpKind
	Range   RangeReply // of Get
	Deleted int64      // keys, of Delete
}

type (
	// TxnReply says which branch was carried out.
	TxnReply struct {
		Succeeded bool
		Results   []Result // of the branch, in order
	}

	// LeaseReply answers Grant and KeepAlive.
	LeaseReply struct {
		Lease LeaseID
		TTL   int64 // seconds
	}

	// Done answers what has no more to say.
	Done struct{}

	// WatchReply is one message of a watch. It holds whole revisions. Without events it is a
	// progress notification: all changes up to the Answer's Revision have been told.
	WatchReply struct {
		Created   bool // the first message
		Events    []Event
		Ended     bool          // nothing follows; the Answer has the error
		Compacted core.Revision // with ErrCompacted: what is there begins here
	}
)

// Event is one change of one key.
type Event struct {
	Deleted bool
	KV      KeyValue
}

func (TxnReply) isReply()   {}
func (RangeReply) isReply() {}
func (LeaseReply) isReply() {}
func (Done) isReply()       {}
func (WatchReply) isReply() {}

// Commit is one entry of the log as it was carried out: what really happened, whatever the
// client was told.
type Commit struct {
	At       core.Time
	Proposed core.Time // when it entered the leader's log
	Client   ClientID  // "": the cluster's own, when a lease has expired
	ID       RequestID
	Do       Action
	Revision core.Revision // of the store afterwards
	Err      Error         // it was refused when it was carried out: nothing has changed
}
