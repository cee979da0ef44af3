package core

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
)

// Identifiers. Each is a type of its own, so that a queue cannot be looked up by an agent's id.
type (
	TenantID      string
	QueueID       string
	AgentID       string
	InteractionID string
	NodeID        string

	// LegID names one party of one interaction: the interaction's id, a slash, a number.
	LegID string
	// TxnID names a SIP transaction. For one of ours it is the Via branch that we chose
	// (plus the method for CANCEL); for a peer's the edge chooses it (RFC 3261 s.17.2.3).
	TxnID string
	// FlowID names a transport flow (RFC 5626): one TCP connection, or one UDP socket and peer.
	FlowID string
	// Token ties the answer of an edge to the effect that asked for it.
	Token uint64
)

// Interaction returns the interaction that a leg belongs to.
func (l LegID) Interaction() InteractionID {
	for i := range l {
		if l[i] == '/' {
			return InteractionID(l[:i])
		}
	}
	return InteractionID(l)
}

// Secret is a text that must not reach a log, a metric or an error: it prints as stars.
type Secret string

// String hides the value.
func (s Secret) String() string { return "***" }

// GoString hides the value from %#v.
func (s Secret) GoString() string { return "***" }

// MarshalJSON hides the value; a secret is never written down, only what was derived from it.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"***"`), nil }

// Reveal returns the value, for hashing.
func (s Secret) Reveal() string { return string(s) }

// KeyHash is the SHA-256 of an API key, in hex: the key itself is shown once and never kept.
type KeyHash string

// HashKey returns the hash under which a key is known.
func HashKey(key string) KeyHash {
	sum := sha256.Sum256([]byte(key))
	return KeyHash(hex.EncodeToString(sum[:]))
}

// Transport is a SIP transport in lower case, as in a URI parameter.
type Transport string

// The transports that the server listens on.
const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
)

// Peer is the far end that a message came from.
type Peer struct {
	Transport Transport      `json:"transport"`
	Addr      netip.AddrPort `json:"addr"`
	Flow      FlowID         `json:"flow,omitempty"`
	// Token comes with a REGISTER over a connection: the URI by which other nodes reach the
	// peer while that lasts (RFC 5626 s.5.2). It is the first Route of their request, and
	// where they send it. "" for a datagram, and for a connection that this node opened.
	Token string `json:"token,omitempty"`
}

// Target is where a request goes. With a Flow the edge uses that connection and nothing
// else while it is open (RFC 5626 s.5.3); without one, or when it is closed, it resolves Host.
type Target struct {
	Transport Transport `json:"transport"`
	Host      string    `json:"host"`
	Port      uint16    `json:"port"`
	Flow      FlowID    `json:"flow,omitempty"`
}
