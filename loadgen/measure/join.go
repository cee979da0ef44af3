package measure

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Join puts the halves of one call together, that of the caller and those of the agents who
// were offered it, when they come from different workers. Caller ties them. The agent who
// answered first gives the agent's moments; of the others only the number of offers counts.
//
// The caller alone cannot know how its call ended, so the outcome is settled here. Dropped,
// Refused and Failed stay. Where no agent answered: Abandoned if the caller hung up,
// Unanswered if it was hung up on. Where one did: Completed if a party hung up, Cut if both
// were hung up on, or one of them before the other hung up; a caller that gave up in the same
// moment stays Abandoned; a half that failed makes the call Failed.
func Join(caller Call, agents ...Call) (Call, error) {
	answering, answers := -1, 0
	for i := range agents {
		a := &agents[i]
		if a.AgentAnswer >= 0 {
			answers++
		}
		if a.Caller != caller.Caller {
			return caller, fmt.Errorf("the halves are of two calls: callers %q and %q", caller.Caller, a.Caller)
		}
		if a.AgentAnswer >= 0 && (answering < 0 || a.AgentAnswer < agents[answering].AgentAnswer) {
			answering = i
		}
		caller.Offers += a.Offers
		caller.Offered = earliest(caller.Offered, a.Offered)
		caller.Ended = max(caller.Ended, a.Ended)
	}
	if answering < 0 {
		caller.settle(nil)
		return caller, nil
	}
	a := &agents[answering]
	caller.Agent, caller.AgentEar = a.Agent, a.AgentEar
	caller.AgentRang, caller.AgentAnswer, caller.AgentAck = a.AgentRang, a.AgentAnswer, a.AgentAck
	caller.settle(a)
	alone := "caller"
	if a.HungUp >= 0 && (caller.HungUp < 0 || a.HungUp < caller.HungUp) {
		caller.HungUp = a.HungUp // and OtherBye is the caller's
	} else {
		caller.OtherBye, alone = a.OtherBye, "agent"
	}
	// After a transfer the first agent is gone while the caller talks to the second.
	if answers == 1 && caller.oneSided() && (caller.Outcome == Completed || caller.Outcome == Abandoned) {
		caller.Outcome, caller.Reason = Cut, "the server hung up on the "+alone+" alone"
	}
	return caller, nil
}

// simultaneous is how long before HungUp the other party's BYE may have come without a cut: a
// BYE that follows from one is later by the clock of one machine, and the clocks of two are
// closer than this, or the run says so.
const simultaneous Micros = 250_000

// oneSided says whether a party was hung up on before the other one hung up.
func (c *Call) oneSided() bool {
	return c.HungUp >= 0 && c.OtherBye >= 0 && c.OtherBye < c.HungUp-simultaneous
}

// settle decides the outcome, with the agent's half or with nil where none answered.
func (c *Call) settle(agent *Call) {
	switch c.Outcome {
	case Dropped, Refused, Failed:
		return
	}
	if agent == nil {
		if c.Outcome = Unanswered; c.HungUp >= 0 {
			c.Outcome = Abandoned
		}
		return
	}
	switch {
	case agent.Outcome == Failed:
		c.Outcome, c.Reason = Failed, agent.Reason
	case c.Outcome == Abandoned:
	case c.HungUp >= 0 || agent.HungUp >= 0:
		c.Outcome, c.Reason = Completed, ""
	default:
		if c.Outcome = Cut; c.Reason == "" {
			c.Reason = "the server hung up on both"
		}
	}
}

func earliest(a, b Micros) Micros {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// Joiner joins halves as they come. A caller's half has Due set, an agent's has not. It holds
// the agents' halves of calls that are up, and callers' halves for a while after they ended.
type Joiner struct {
	linger  Micros
	now     Micros // the latest end seen
	waiting map[string]*halves
	order   []string // callers that have ended, in the order in which they came
	orphans []Call
}

type halves struct {
	caller *Call
	came   Micros
	agents []Call
}

// NewJoiner makes a Joiner that waits linger (of the run's time) for agents' halves after the
// caller's half has come.
func NewJoiner(linger Micros) *Joiner {
	return &Joiner{linger: linger, waiting: map[string]*halves{}}
}

// Add takes a half and returns the calls that are whole now.
func (j *Joiner) Add(half Call) ([]Call, error) {
	h := j.waiting[half.Caller]
	if h == nil {
		h = &halves{}
		j.waiting[half.Caller] = h
	}
	j.now = max(j.now, half.Ended)
	if half.Due < 0 {
		h.agents = append(h.agents, half)
		return j.release(false)
	}
	if h.caller != nil {
		return nil, fmt.Errorf("two arrivals have the number %q", half.Caller)
	}
	h.caller, h.came = &half, j.now
	j.order = append(j.order, half.Caller)
	return j.release(false)
}

// Flush returns all calls that are left. Agents' halves whose caller never came are orphans.
func (j *Joiner) Flush() ([]Call, error) {
	calls, err := j.release(true)
	for _, h := range j.waiting {
		j.orphans = append(j.orphans, h.agents...)
	}
	clear(j.waiting)
	return calls, err
}

// Orphans are the agents' halves without a caller's, as of Flush: calls from outside the
// generator, or halves that came too late.
func (j *Joiner) Orphans() []Call { return j.orphans }

func (j *Joiner) release(all bool) ([]Call, error) {
	var whole []Call
	var problems []error
	for len(j.order) > 0 {
		number := j.order[0]
		h := j.waiting[number]
		if !all && j.now < h.came+j.linger {
			break
		}
		call, err := Join(*h.caller, h.agents...)
		if err != nil {
			problems = append(problems, err)
		}
		whole = append(whole, call)
		delete(j.waiting, number)
		j.order = j.order[1:]
	}
	if all {
		slices.SortFunc(whole, func(a, b Call) int {
			if a.Index != b.Index {
				return int(min(max(a.Index-b.Index, -1), 1))
			}
			return strings.Compare(a.Caller, b.Caller)
		})
	}
	return whole, errors.Join(problems...)
}
