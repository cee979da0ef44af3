// Package command is the vocabulary of the API: what can be asked of a node (the Do of
// core.Commanded) and what it answers (the Value of core.Reply). The HTTP edge turns paths
// and JSON into these and back; the core does the deciding.
package command

import (
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Of tenants: for the operator's key only. CreateTenant answers Tenant.
type (
	CreateTenant struct {
		Tenant tenant.Tenant
		Key    core.KeyHash // the first API key's; the edge made the key and shows it once
	}
	// ChangeTenant changes the members that are not nil. Answers Tenant.
	ChangeTenant struct {
		ID      core.TenantID
		Domain  *string
		Name    *string
		Sources *[]string
		Limits  *tenant.Limits
	}
	GetTenant    struct{ ID core.TenantID }
	DeleteTenant struct{ ID core.TenantID } // refused with in-use while calls live
)

// Of one tenant's configuration. Puts answer the stored value and whether it is new
// (Put); gets the value; lists a Page; deletes nothing.
type (
	PutQueue     struct{ Queue tenant.Queue }
	PutAgent     struct{ Agent tenant.Agent } // an empty password keeps the one that is stored
	PutNumber    struct{ Number tenant.Number }
	GetQueue     struct{ ID core.QueueID }
	GetAgent     struct{ ID core.AgentID } // answers AgentView
	GetNumber    struct{ Number string }
	DeleteQueue  struct{ ID core.QueueID } // refused with in-use while a number or a waiting call names it
	DeleteAgent  struct{ ID core.AgentID } // refused with in-use while in a call
	DeleteNumber struct{ Number string }
	ListTenants  struct{ Range }
	ListQueues   struct{ Range }
	ListAgents   struct{ Range }
	ListNumbers  struct{ Range }
)

// Of the running center.
type (
	SetStatus struct { // answers AgentView
		Agent  core.AgentID
		Status acd.Status
		Reason string // with NotReady, up to 64 characters
	}
	GetRealtime    struct{ Queue core.QueueID } // answers Realtime
	ListLive       struct{ Range }              // answers Page[Interaction]
	GetInteraction struct{ ID core.InteractionID }
	HangUp         struct{ ID core.InteractionID }
	WhoAmI         struct{} // answers Identity
)

// Range is a window of a list ordered by id: Limit entries (1..100) after After.
type Range struct {
	After string
	Limit int
}

// Page is a window of a list. More says that the list goes on; the next After is the last id.
type Page[T any] struct {
	Data []T
	More bool
}

// Put answers a put.
type Put[T any] struct {
	Value   T
	Created bool
}

// Identity says whose key was shown.
type Identity struct {
	Operator bool
	Tenant   core.TenantID // "" for the operator without a tenant
}

// AgentView is an agent with what it does now.
type AgentView struct {
	tenant.Agent
	Status      acd.Status         `json:"status"`
	Reason      string             `json:"reason,omitempty"`
	State       acd.State          `json:"state"`
	StateSince  core.Time          `json:"state_since"`
	Interaction core.InteractionID `json:"interaction,omitempty"`
	Registered  int                `json:"registered_contacts"`
}

// Realtime is a queue at this moment. Counts of answered and abandoned are since the start
// of the node or of the day (UTC), whichever is later.
type Realtime struct {
	Queue              core.QueueID `json:"queue"`
	Waiting            int          `json:"waiting"`
	LongestWaitS       float64      `json:"longest_wait_s"`
	AgentsReady        int          `json:"agents_ready"` // logged in, ready and idle
	AgentsBusy         int          `json:"agents_busy"`  // reserved, ringing, talking, held or in wrap-up
	AgentsNotReady     int          `json:"agents_not_ready"`
	Offered            int          `json:"offered"` // arrived at the queue
	Answered           int          `json:"answered"`
	AnsweredInTime     int          `json:"answered_in_time"`
	Abandoned          int          `json:"abandoned"`
	AbandonedShort     int          `json:"abandoned_short"`
	Overflowed         int          `json:"overflowed"`
	ServiceLevel       *float64     `json:"service_level"` // 0..1; null before the first call
	ServiceLevelRule   string       `json:"service_level_formula"`
	ServiceLevelTarget float64      `json:"service_level_s"`
}

// Interaction is a live interaction, or one that has ended, in the shape of its CDR;
// Phase says which.
type Interaction struct {
	Phase string `json:"phase"` // live: arriving queued offering bridged ending; ended
	core.CDR
}
