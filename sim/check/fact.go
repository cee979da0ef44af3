package check

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Fact is one thing that an observer outside of the node sees.
type Fact interface{ isFact() }

// Far is the phone at the other end. A caller has no Agent.
type Far struct {
	Phone  string
	Tenant core.TenantID
	Agent  core.AgentID
}

// Sent is a SIP message that left the node for the first time (retransmissions by the
// transaction layer are not repeated here). One of Request and Response is nil.
// Covered says whether the store, at this instant, held a committed record that names
// what a restart would need: the Call-ID and our tag, or the binding's contact.
type Sent struct {
	Far      Far
	Txn      core.TxnID
	Request  *core.Request
	Response *core.Response
	Covered  bool

	Node   core.NodeID // who sent it; "" where there is one node
	Anchor core.NodeID // another process that anchors the call by its committed record, and is there
}

// Stale is a message of a process that has lost its node record: it has been claimed, or its
// lease has ended, and it cannot know that yet.
type Stale struct{ Sent }

// Reserved says which agent the committed records of an interaction name now, "" for none.
type Reserved struct {
	Tenant      core.TenantID
	Interaction core.InteractionID
	Agent       core.AgentID
}

// Received is a SIP message that was handed to the node. Known says whether the store
// then held a record with its Call-ID.
type Received struct {
	Far      Far
	Txn      core.TxnID
	Request  *core.Request
	Response *core.Response
	Known    bool
}

// TxnFailed is a transaction of the node that ended without a final response.
type TxnFailed struct{ Txn core.TxnID }

// Hears says what a phone hears in one dialog from now on. Exactly one of File and Voice
// is set, or none: silence. Voice is the SIP Call-ID of the speaker's dialog, Speaker
// whose phone it is. Readable says that the phone can decode it.
type Hears struct {
	Far      Far
	CallID   string
	File     string
	Voice    string
	Speaker  Far
	Readable bool
	Joined   bool // connected to another party, who may be silent
}

// Talking says how a dialog stands, seen by the phone: up after its ACK, with or without
// hold, alive or switched off. Sends says that it sends audio.
type Talking struct {
	Far    Far
	CallID string
	Caller string // the user part that names the calling phone, on both legs
	Up     bool
	Hold   bool
	Busy   bool // a re-INVITE of its own, or one of ours, is in the air
	Sends  bool
}

// Vanished is a phone that was switched off without a word, with the dialogs it had.
type Vanished struct {
	Far     Far
	CallIDs []string
}

// GaveUp is a phone that ended a dialog by itself, because it heard nothing at all for
// longer than any bound of the server.
type GaveUp struct {
	Far    Far
	CallID string
}

// Recorded is a CDR that reached the records store. Again: it was there before.
type Recorded struct {
	CDR   *core.CDR
	Again bool
}

// Crashed and Restarted are the node's process.
type (
	Crashed   struct{}
	Restarted struct{}
)

// Disturbed begins or ends a trouble from outside: the store away or slow, a pause.
type Disturbed struct {
	What string
	On   bool
}

// Asked is a command of the API that was handed to the node, Answered its reply.
type (
	Asked struct {
		Tenant core.TenantID
		Do     any
	}
	Answered struct {
		Tenant  core.TenantID
		Do      any
		Value   any
		Problem *core.Problem
		Behind  bool   // who answered had not heard of all that was committed
		Foreign string // the id in Do is another tenant's (or nobody's): this is its text
		Absent  bool   // with Foreign: nobody has that id
	}
)

// Written is a text that the node made for one tenant: a message, a record, a reply. It
// is given only when it names another tenant.
type Written struct {
	Tenant core.TenantID
	Where  string
	Names  core.TenantID
}

// Stepped says how large things were after a step.
type Stepped struct {
	Effects int
	Held    int
	Legs    int // media legs that are open
	Phones  int // dialogs that phones still have or had in the last minutes
}

// Healed says that from now on nothing fails and nobody arrives.
type Healed struct{}

func (Sent) isFact()      {}
func (Reserved) isFact()  {}
func (Stale) isFact()     {}
func (Received) isFact()  {}
func (TxnFailed) isFact() {}
func (Hears) isFact()     {}
func (Talking) isFact()   {}
func (Vanished) isFact()  {}
func (GaveUp) isFact()    {}
func (Recorded) isFact()  {}
func (Crashed) isFact()   {}
func (Restarted) isFact() {}
func (Disturbed) isFact() {}
func (Asked) isFact()     {}
func (Answered) isFact()  {}
func (Written) isFact()   {}
func (Stepped) isFact()   {}
func (Healed) isFact()    {}

// Setup is what a world is made of: the configuration that was put, and how kind the
// network is.
type Setup struct {
	Tenants  []Tenant
	Nodes    int
	Lossless bool // no message is ever lost
	Slack    core.Millis
	MaxHeld  int
	MaxStep  int
}

// Tenant is the configuration of one tenant.
type Tenant struct {
	ID      core.TenantID
	Queues  []tenant.Queue
	Agents  []tenant.Agent
	Numbers []tenant.Number
}

func (s *Setup) tenant(id core.TenantID) *Tenant {
	for i := range s.Tenants {
		if s.Tenants[i].ID == id {
			return &s.Tenants[i]
		}
	}
	return nil
}

func (s *Setup) queue(t core.TenantID, id core.QueueID) *tenant.Queue {
	if c := s.tenant(t); c != nil {
		for i := range c.Queues {
			if c.Queues[i].ID == id {
				return &c.Queues[i]
			}
		}
	}
	return nil
}

func (s *Setup) agent(t core.TenantID, id core.AgentID) *tenant.Agent {
	if c := s.tenant(t); c != nil {
		for i := range c.Agents {
			if c.Agents[i].ID == id {
				return &c.Agents[i]
			}
		}
	}
	return nil
}

func (s *Setup) number(t core.TenantID, number string) *tenant.Number {
	if c := s.tenant(t); c != nil {
		for i := range c.Numbers {
			if c.Numbers[i].Number == number {
				return &c.Numbers[i]
			}
		}
	}
	return nil
}

// longest is the largest value of a duration in seconds over the queues of an agent.
func (s *Setup) longest(t core.TenantID, id core.AgentID, of func(*tenant.Queue) float64) time.Duration {
	var most float64
	if a := s.agent(t, id); a != nil {
		for _, q := range a.Queues {
			if c := s.queue(t, q); c != nil {
				most = max(most, of(c))
			}
		}
	}
	return time.Duration(most * float64(time.Second))
}

// shortest is the smallest such value.
func (s *Setup) shortest(t core.TenantID, id core.AgentID, of func(*tenant.Queue) float64) time.Duration {
	least, found := 0.0, false
	if a := s.agent(t, id); a != nil {
		for _, q := range a.Queues {
			if c := s.queue(t, q); c != nil && (!found || of(c) < least) {
				least, found = of(c), true
			}
		}
	}
	return time.Duration(least * float64(time.Second))
}

// party is an agent of a tenant: ids are unique only within their tenant.
type party struct {
	tenant core.TenantID
	agent  core.AgentID
}

func (f Far) party() party { return party{f.Tenant, f.Agent} }

func (f Far) String() string {
	if f.Agent != "" {
		return "agent " + string(f.Agent) + " of " + string(f.Tenant) + " (" + f.Phone + ")"
	}
	return "caller " + f.Phone
}

// side names one half of a dialog: the Call-ID and the node's tag in it.
type side struct{ callID, tag string }

// fresh reports whether a request begins a dialog.
func fresh(r *core.Request) bool { return r.Method == core.INVITE && r.To.Tag() == "" }
