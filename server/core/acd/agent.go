// Package acd distributes interactions to agents: who waits where, who may take what,
// who is offered next. One Center is one tenant's. It is pure: no clock, no chance.
package acd

// Status is what an agent declares.
type Status string

// The statuses.
const (
	LoggedOut Status = "logged_out"
	Ready     Status = "ready"
	NotReady  Status = "not_ready"
)

// State is what the system sees an agent do.
type State string

// The states.
const (
	Idle     State = "idle"
	Reserved State = "reserved"
	Ringing  State = "ringing"
	Talking  State = "talking"
	Held     State = "held"
	WrapUp   State = "wrap_up"
)
