package check

import (
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

// Findable: an interaction that an agent's phone was rung for can be looked at from then
// on: the node shows it, or the records store has it already. Who asks the one and then
// the other never hears that there is none, not even in the moment in which it ends.
type Findable struct {
	named
	known    map[owned]bool
	recorded map[core.InteractionID]bool
}

type owned struct {
	tenant core.TenantID
	id     core.InteractionID
}

// NewFindable returns the checker.
func NewFindable(*Setup) *Findable {
	return &Findable{"findable", map[owned]bool{}, map[core.InteractionID]bool{}}
}

// See compares what the node says that it does not have with what it rang for.
func (c *Findable) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Sent:
		if r := f.Request; r != nil && fresh(r) && f.Far.Agent != "" {
			c.known[owned{f.Far.Tenant, core.InteractionID(r.Get("X-Dialtone-Interaction"))}] = true
		}
	case Recorded:
		c.recorded[f.CDR.ID] = true
	case Answered:
		get, ok := f.Do.(command.GetInteraction)
		missing := ok && !f.Behind && f.Problem != nil && f.Problem.Kind == core.NotFound
		if missing && c.known[owned{f.Tenant, get.ID}] && !c.recorded[get.ID] {
			return broken("interaction %s of tenant %s is neither with the node nor in the history", get.ID, f.Tenant)
		}
	}
	return nil
}
