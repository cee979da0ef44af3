package core

import (
	"net/netip"
	"time"
)

// What nodes of a cluster see of each other. The records are those of CLUSTER.md.

// Revision is a version of etcd's store; commits are numbered in their order.
type Revision int64

// Change is one key that was written or deleted. A cluster's own records have no tenant,
// and their whole key.
type Change struct {
	Tenant   TenantID
	Key      string
	Value    []byte   // nil: deleted
	Revision Revision // of the commit that did it
}

// Watched is what was committed, by anybody, this node included: in the order of commits,
// nothing left out, and nothing twice. It ends at a commit, never within one.
type Watched struct{ Changes []Change }

// Guard is a comparison that a Store makes before it writes anything.
type Guard struct {
	Tenant   TenantID
	Key      string
	Revision Revision // of the last write of the key; 0: the key must not be there
}

// Member is a process of the cluster as another sees it.
type Member struct {
	ID          NodeID         `json:"id"`
	Incarnation Revision       `json:"incarnation"`
	Addr        netip.AddrPort `json:"addr"` // where its peers reach it, TCP and UDP
}

// SetPeers states which processes this one keeps in touch with, all but itself, and under
// which incarnation it is known to them.
type SetPeers struct {
	Self    Revision
	Members []Member
	SIP     []netip.Addr // from which they send SIP: a request of theirs may pass to a phone here
}

// PeerUp says that a peer is connected and heard.
type PeerUp struct{ Peer Member }

// PeerDead says that a peer's process has ended: its connection was reset and the next one
// refused. Nothing more need be known.
type PeerDead struct{ Peer Member }

// PeerSilent says that nothing was heard of a peer for so long, while this process was
// awake: it may be dead, cut off, or asleep. It comes once per silence; PeerUp ends it.
type PeerSilent struct {
	Peer Member
	For  time.Duration
}

// AskPeer asks one peer whether it hears another.
type AskPeer struct{ Whom, About Member }

// PeerAsked is that question as it arrives; TellPeer answers it.
type PeerAsked struct{ From, About Member }

// TellPeer answers PeerAsked.
type TellPeer struct {
	Whom, About Member
	Hears       bool
}

// PeerTold is the answer to AskPeer. No answer is no event: who asked sets a time.
type PeerTold struct {
	From, About Member
	Hears       bool
}

func (Watched) isEvent()    {}
func (PeerUp) isEvent()     {}
func (PeerDead) isEvent()   {}
func (PeerSilent) isEvent() {}
func (PeerAsked) isEvent()  {}
func (PeerTold) isEvent()   {}

func (SetPeers) isEffect() {}
func (AskPeer) isEffect()  {}
func (TellPeer) isEffect() {}
