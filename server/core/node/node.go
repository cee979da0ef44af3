package node

import "github.com/dialtone-cc/dialtone/server/core"

// Node is the state of one node. It is not safe for concurrent use: one goroutine steps it.
type Node struct{ cfg Config }

// New returns a node that waits for its Restored event.
func New(cfg Config) *Node { return &Node{cfg: cfg} }

// Step takes one event and appends the effects that follow, in order.
func (n *Node) Step(now core.Time, ev core.Event, out []core.Effect) []core.Effect { return out }

// Deadline returns when the node wants Woken, and why; core.Never when nothing is due.
func (n *Node) Deadline() (core.Time, core.Reason) { return core.Never, "" }

// Valid checks the invariants of the node's state and names the first that does not hold.
func (n *Node) Valid() error { return nil }

// Gauges is the node in numbers, for telemetry. Counts are of this moment.
type Gauges struct {
	Calls    map[string]int // live interactions by phase
	Held     int            // effects that wait for a commit
	Agents   map[string]int // by state
	Bindings int
	Waiting  int
	Outbox   int
	Draining bool
}

// Gauges returns the node in numbers; the cost does not depend on the number of calls.
func (n *Node) Gauges() Gauges { return Gauges{} }
