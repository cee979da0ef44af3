// Package acd distributes interactions to agents: who waits where, who may take what,
// who is offered next. One Center is one tenant's. It is pure: no clock, no chance.
package acd

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

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

// Outcome says how an offer or a conversation ended.
type Outcome string

// The outcomes. All but Done end an offer; Done ends a conversation.
const (
	NoAnswer    Outcome = "no_answer"
	Rejected    Outcome = "rejected"
	Busy        Outcome = "busy"
	Unreachable Outcome = "unreachable"
	Withdrawn   Outcome = "withdrawn" // the caller has gone, or we took the offer back
	Done        Outcome = "done"
)

// ErrStep is returned for a step that an agent's state does not allow; nothing has changed.
var ErrStep = errors.New("acd: not possible in the agent's state")

// Agent is a person as the Center sees it.
type Agent struct {
	ID          core.AgentID       `json:"id"`
	Status      Status             `json:"status"`
	Reason      string             `json:"reason,omitempty"` // with NotReady
	State       State              `json:"state"`
	Since       core.Time          `json:"since"`                 // of State
	Interaction core.InteractionID `json:"interaction,omitempty"` // while Reserved, Ringing, Talking or Held
	Reachable   bool               `json:"reachable"`             // has a phone that is registered
	IdleSince   core.Time          `json:"idle_since,omitzero"`   // the idle clock, see SetStatus and Release
	OfferedAt   core.Time          `json:"offered_at,omitzero"`   // of the last offer
	WrapUpUntil core.Time          `json:"wrap_up_until,omitzero"`
	Misses      int                `json:"misses,omitempty"` // offers not answered since the last conversation
}

// Agent returns an agent, and whether there is one.
func (c *Center) Agent(id core.AgentID) (Agent, bool) {
	if m := c.agents[id]; m != nil {
		return m.Agent, true
	}
	return Agent{}, false
}

// SetStatus records what an agent declares. It never changes what the agent does: a call
// goes on, wrap-up ends when it is over, an offer stands until its Release. Becoming Ready
// starts the idle clock anew; declaring Ready again does not.
func (c *Center) SetStatus(now core.Time, id core.AgentID, status Status, reason string) {
	m := c.agents[id]
	if m == nil {
		return
	}
	c.lift(m)
	if status == Ready && m.Status != Ready {
		m.IdleSince = now
	}
	m.declare(status, reason)
	c.lay(m)
}

// declare keeps a reason only where it belongs.
func (m *member) declare(status Status, reason string) {
	m.Status, m.Reason = status, ""
	if status == NotReady {
		m.Reason = reason
	}
}

// SetReachable records whether the agent has a phone that is registered. The idle clock
// runs on: a phone that drops off for a moment does not cost its owner the turn.
func (c *Center) SetReachable(now core.Time, id core.AgentID, reachable bool) {
	m := c.agents[id]
	if m == nil || m.Reachable == reachable {
		return
	}
	c.lift(m)
	m.Reachable = reachable
	c.lay(m)
}

// Restore sets an agent to what it was before a restart or takeover, in any order with
// Requeue. Reachable is not restored, that is SetReachable's. With Status "" everything stays
// that the agent declared and all its clocks: only State, Since, Interaction and WrapUpUntil
// are set. An interaction that it talked with waits no more. It fails, and leaves the agent
// Idle, when another agent has the interaction; it fails when there is no such agent.
func (c *Center) Restore(now core.Time, a Agent) error {
	m := c.agents[a.ID]
	if m == nil {
		return fmt.Errorf("acd: agent %q is not configured", a.ID)
	}
	var err error
	if other := c.serving[a.Interaction]; other != nil && other != m && a.State.withCall() {
		err = fmt.Errorf("%w: interaction %s is with agent %q", ErrStep, a.Interaction, other.ID)
		a.State = Idle
	}
	if a.Status == "" {
		a.Status, a.Reason = m.Status, m.Reason
		a.IdleSince, a.OfferedAt, a.Misses = m.IdleSince, m.OfferedAt, m.Misses
	}
	a.Reachable = m.Reachable
	c.lift(m)
	had := m.Interaction
	m.Agent = a.sane(now)
	c.lay(m)
	if had != m.Interaction {
		c.free(had)
	}
	if e := c.entries[m.Interaction]; e != nil {
		c.unofferable(e)
		if m.State == Talking || m.State == Held {
			c.leave(e)
		}
	}
	return err
}

// sane returns the agent without members that contradict its state.
func (a Agent) sane(now core.Time) Agent {
	if a.Status != Ready && a.Status != NotReady {
		a.Status = LoggedOut
	}
	if a.Status != NotReady {
		a.Reason = ""
	}
	switch {
	case a.State == WrapUp && a.WrapUpUntil != 0:
		a.Interaction = ""
	case a.State.withCall() && a.Interaction != "":
		a.WrapUpUntil = 0
	default:
		a.State, a.Interaction, a.WrapUpUntil = Idle, "", 0
	}
	a.Since = cmp.Or(a.Since, now)
	a.IdleSince = cmp.Or(a.IdleSince, now)
	return a
}

// withCall reports whether an agent has an interaction in hand in this state.
func (s State) withCall() bool {
	return s == Reserved || s == Ringing || s == Talking || s == Held
}

// Progress records that an agent's phone rings, that it answered, that the call is held or
// resumed: Reserved, Ringing, Talking, Held, Talking. Ringing may be left out and any state
// may be repeated; every other step is ErrStep. With Talking the entry leaves the queue.
func (c *Center) Progress(now core.Time, id core.AgentID, to State) error {
	m := c.agents[id]
	if m == nil {
		return fmt.Errorf("acd: agent %q is not configured", id)
	}
	from := m.State
	switch {
	case from == to && m.Interaction != "":
		return nil
	case from == Reserved && to == Ringing:
	case (from == Reserved || from == Ringing || from == Held) && to == Talking:
	case from == Talking && to == Held:
	default:
		return fmt.Errorf("%w: agent %q is %s, not to be %s", ErrStep, id, from, to)
	}
	c.lift(m)
	m.State, m.Since = to, now
	if to == Talking {
		m.Misses = 0
		if e := c.entries[m.Interaction]; e != nil {
			c.leave(e)
		}
	}
	c.lay(m)
	return nil
}

// Release takes its interaction from an agent. After an offer (Reserved, Ringing) the agent
// is Idle and the entry, if it still waits, can be matched again in its old place:
//
//   - NoAnswer, Rejected, Busy, Unreachable make a Ready agent NotReady with the reason
//     "rona", "rejected", "busy" or "unreachable". So the same call cannot ring the same
//     phone in a tight loop (amazon-connect-streams#292), and whoever wonders where the agent
//     is sees why and since when (kazoo#6609); Ready, declared by agent or supervisor, ends
//     it, and for "unreachable" the next registration does. An agent that has declared
//     something else meanwhile keeps it: a failed offer makes nobody more available than they
//     said (amazon-connect-streams#241).
//   - Withdrawn is not the agent's doing: status and idle clock stay as they were.
//
// After a conversation (Talking, Held) only Done is possible: WrapUp for so long, then, or at
// once with wrapUp 0, Idle with a new idle clock. Every other pair is ErrStep.
func (c *Center) Release(now core.Time, id core.AgentID, o Outcome, wrapUp time.Duration) error {
	m := c.agents[id]
	if m == nil {
		return fmt.Errorf("acd: agent %q is not configured", id)
	}
	offered := m.State == Reserved || m.State == Ringing
	talked := m.State == Talking || m.State == Held
	reason, known := o.reason()
	if !known || !(offered && o != Done || talked && o == Done) {
		return fmt.Errorf("%w: agent %q is %s, outcome %q", ErrStep, id, m.State, o)
	}
	c.lift(m)
	interaction := m.Interaction
	m.State, m.Since, m.Interaction = Idle, now, ""
	switch {
	case o == Done && wrapUp > 0:
		m.State, m.WrapUpUntil = WrapUp, now.Add(wrapUp)
	case o == Done:
		m.IdleSince = now
	case reason != "":
		m.Misses++
		if m.Status == Ready {
			m.declare(NotReady, reason)
		}
	}
	c.lay(m)
	c.free(interaction)
	return nil
}

// reason returns the NotReady reason that an outcome leads to, "" for none, and whether
// there is such an outcome.
func (o Outcome) reason() (string, bool) {
	switch o {
	case NoAnswer:
		return "rona", true
	case Rejected, Busy, Unreachable:
		return string(o), true
	case Withdrawn, Done:
		return "", true
	}
	return "", false
}

// Reason returns the NotReady reason that an outcome gives an agent, "" for none.
func (o Outcome) Reason() string { r, _ := o.reason(); return r }

// Deadline returns when the next wrap-up ends; core.Never when nobody is in one.
func (c *Center) Deadline() core.Time {
	if c.ends.n == 0 {
		return core.Never
	}
	return c.ends.first().at
}

// Expire ends the wrap-ups that are over. Each is an agent's own (opensips#2679) and ends
// when it is due, not before (asterisk#1006): the idle clock starts then, even if Expire
// comes late, or with a Ready declared since. It returns whose wrap-up ended, in that order.
func (c *Center) Expire(now core.Time) []core.AgentID {
	var ended []core.AgentID
	for c.ends.n > 0 && c.ends.first().at <= now {
		m := c.ends.first().value
		c.lift(m)
		m.State, m.Since = Idle, m.WrapUpUntil
		m.IdleSince, m.WrapUpUntil = max(m.IdleSince, m.WrapUpUntil), 0
		c.lay(m)
		ended = append(ended, m.ID)
	}
	return ended
}

// lift takes an agent out of everything that depends on what it is, so that it may be
// changed; lay puts it back.
func (c *Center) lift(m *member) {
	m.tally(-1)
	if m.Interaction != "" {
		delete(c.serving, m.Interaction)
	}
	if m.State == WrapUp {
		c.ends.remove(m.endPlace())
	}
	if m.available() {
		m.team.idle.remove(m.idlePlace())
		m.team.turns.remove(m.turnPlace())
		c.show(m.team)
	}
}

func (c *Center) lay(m *member) {
	m.tally(1)
	if m.Interaction != "" {
		c.serving[m.Interaction] = m
	}
	if m.State == WrapUp {
		c.ends.insert(m.endPlace(), m)
	}
	if m.available() {
		t := m.team
		t.idle.insert(m.idlePlace(), m)
		t.turns.insert(m.turnPlace(), m)
		c.show(t)
		if !t.fresh {
			t.fresh = true
			c.freshTeams = append(c.freshTeams, t)
		}
	}
}

// show tells the boards who is first in a team.
func (c *Center) show(t *team) {
	update(&c.idle, t.number, &t.idle)
	update(&c.turns, t.number, &t.turns)
}

// tally counts the agent in, or with -1 out of, its team.
func (m *member) tally(by int) {
	t := m.team
	switch {
	case m.State != Idle:
		t.busy += by
	case m.available():
		t.ready += by
	case m.Status != LoggedOut:
		t.notReady += by
	}
	if m.Status != LoggedOut && m.Reachable {
		t.staffed += by
	}
}
