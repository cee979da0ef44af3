// Package node is the root machine: every event of a node enters by Step, every effect
// leaves by it, and Deadline says when it wants to be woken.
package node

import (
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Config is all that a node is told at birth. The zero value of a duration or a count
// means its default.
type Config struct {
	ID       core.NodeID
	Seed     [32]byte // of identifiers, tags, branches, jitter; secret in production
	NonceKey [32]byte // signs digest nonces; secret
	Operator core.KeyHash

	// Where peers reach this node, by transport: goes into Contact.
	Contact map[core.Transport]netip.AddrPort
	// Media address that goes into SDP when the media edge is bound to an unspecified one.
	MediaAddr netip.Addr

	// Literal is the tenant of a Request-URI whose host is an address; "" for none.
	Literal core.TenantID

	RingTimeout    time.Duration // overrides the ring timeout of every queue; 0: theirs
	IdleAfter      time.Duration // silence that starts keepalives in the dialog, default 10 s
	KeepaliveEvery time.Duration // default 5 s
	KeepaliveTries int           // unanswered ones that end a call, default 3: 10+3*5 = 25 s
	DrainWithin    time.Duration // how long calls may finish before they move, when the operator drains this node
	StoreGrace     time.Duration // how long a hang-up waits for a slow store, default 500 ms

	MaxCalls     int           // live interactions of the node, default 20,000; then 503
	SourceRate   int           // INVITEs per second from one address, default 50; the burst is twice that
	RegisterRate int           // REGISTERs per second from one address, default 20; burst ten times that
	MinExpires   time.Duration // of a binding, default 60 s (423 below)
	MaxExpires   time.Duration // default 3600 s

	Plant string // a known bug to plant, for the simulator's own test; "" in every other use
}
