package acd_test

import (
	"errors"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// twin is the Center as one would write it on a page: lists, searched from end to end, and
// nothing kept that can be worked out. It shares no code with the Center.
type twin struct {
	queues  []tenant.Queue
	agents  []twinAgent
	entries []acd.Entry
}

type twinAgent struct {
	acd.Agent
	conf tenant.Agent
}

func (w *twin) queue(id core.QueueID) *tenant.Queue {
	for i := range w.queues {
		if w.queues[i].ID == id {
			return &w.queues[i]
		}
	}
	return nil
}

func (w *twin) agent(id core.AgentID) *twinAgent {
	for i := range w.agents {
		if w.agents[i].ID == id {
			return &w.agents[i]
		}
	}
	return nil
}

func (w *twin) entry(id core.InteractionID) *acd.Entry {
	for i := range w.entries {
		if w.entries[i].ID == id {
			return &w.entries[i]
		}
	}
	return nil
}

// holder returns the agent who has an interaction in hand.
func (w *twin) holder(id core.InteractionID) *twinAgent {
	for i := range w.agents {
		if id != "" && w.agents[i].Interaction == id {
			return &w.agents[i]
		}
	}
	return nil
}

func (w *twin) PutQueue(q tenant.Queue) {
	if old := w.queue(q.ID); old != nil {
		*old = q
		return
	}
	w.queues = append(w.queues, q)
}

func (w *twin) DropQueue(id core.QueueID) []core.InteractionID {
	var gone []acd.Entry
	w.entries = slices.DeleteFunc(w.entries, func(e acd.Entry) bool {
		if e.Queue == id {
			gone = append(gone, e)
		}
		return e.Queue == id
	})
	slices.SortFunc(gone, func(a, b acd.Entry) int {
		if a.ArrivedAt < b.ArrivedAt || a.ArrivedAt == b.ArrivedAt && a.ID < b.ID {
			return -1
		}
		return 1
	})
	w.queues = slices.DeleteFunc(w.queues, func(q tenant.Queue) bool { return q.ID == id })
	var ids []core.InteractionID
	for _, e := range gone {
		ids = append(ids, e.ID)
	}
	return ids
}

func (w *twin) PutAgent(conf tenant.Agent) {
	if a := w.agent(conf.ID); a != nil {
		a.conf = conf
		return
	}
	w.agents = append(w.agents, twinAgent{acd.Agent{ID: conf.ID, Status: acd.LoggedOut, State: acd.Idle}, conf})
}

func (w *twin) DropAgent(id core.AgentID) {
	w.agents = slices.DeleteFunc(w.agents, func(a twinAgent) bool { return a.ID == id })
}

func (w *twin) Agent(id core.AgentID) (acd.Agent, bool) {
	if a := w.agent(id); a != nil {
		return a.Agent, true
	}
	return acd.Agent{}, false
}

func (w *twin) SetStatus(now core.Time, id core.AgentID, s acd.Status, reason string) {
	a := w.agent(id)
	if a == nil {
		return
	}
	if s == acd.Ready && a.Status != acd.Ready {
		a.IdleSince = now
	}
	a.Status, a.Reason = s, ""
	if s == acd.NotReady {
		a.Reason = reason
	}
}

func (w *twin) SetReachable(now core.Time, id core.AgentID, yes bool) {
	if a := w.agent(id); a != nil {
		a.Reachable = yes
	}
}

func inHand(s acd.State) bool {
	return slices.Contains([]acd.State{acd.Reserved, acd.Ringing, acd.Talking, acd.Held}, s)
}

func (w *twin) Restore(now core.Time, r acd.Agent) error {
	a := w.agent(r.ID)
	if a == nil {
		return errors.New("agent \"" + string(r.ID) + "\" is not configured")
	}
	var err error
	if h := w.holder(r.Interaction); h != nil && h != a && inHand(r.State) {
		r.State, err = acd.Idle, acd.ErrStep
	}
	if r.Status != "" {
		a.Status, a.Reason, a.IdleSince, a.OfferedAt, a.Misses = r.Status, "", r.IdleSince, r.OfferedAt, r.Misses
		switch r.Status {
		case acd.Ready:
		case acd.NotReady:
			a.Reason = r.Reason
		default:
			a.Status = acd.LoggedOut
		}
	}
	if a.IdleSince == 0 {
		a.IdleSince = now
	}
	a.State, a.Since, a.Interaction, a.WrapUpUntil = acd.Idle, r.Since, "", 0
	if a.Since == 0 {
		a.Since = now
	}
	if inHand(r.State) && r.Interaction != "" {
		a.State, a.Interaction = r.State, r.Interaction
	}
	if r.State == acd.WrapUp && r.WrapUpUntil != 0 {
		a.State, a.WrapUpUntil = acd.WrapUp, r.WrapUpUntil
	}
	if a.State == acd.Talking || a.State == acd.Held {
		w.Leave(now, a.Interaction)
	}
	return err
}

func (w *twin) Enqueue(now core.Time, e acd.Entry) error {
	q := w.queue(e.Queue)
	if q == nil {
		return acd.ErrNoQueue
	}
	if w.taken(e.ID) {
		return acd.ErrTaken
	}
	if q.Overflow != nil && q.Overflow.WhenNobody && !w.Staffed(q.ID) {
		return acd.ErrNobody
	}
	if w.Count(q.ID).Waiting >= q.MaxWaiting {
		return acd.ErrFull
	}
	return w.Requeue(now, e)
}

func (w *twin) taken(id core.InteractionID) bool {
	h := w.holder(id)
	return w.entry(id) != nil || h != nil && (h.State == acd.Talking || h.State == acd.Held)
}

func (w *twin) Requeue(now core.Time, e acd.Entry) error {
	switch {
	case w.queue(e.Queue) == nil:
		return acd.ErrNoQueue
	case w.taken(e.ID):
		return acd.ErrTaken
	}
	w.entries = append(w.entries, e)
	return nil
}

func (w *twin) Leave(now core.Time, id core.InteractionID) {
	w.entries = slices.DeleteFunc(w.entries, func(e acd.Entry) bool { return e.ID == id })
}

func (w *twin) Waiting(id core.InteractionID) bool { return w.entry(id) != nil }

// before says who is served first: absolute priorities, then arrival moved by priority.
func (w *twin) before(a, b acd.Entry) bool {
	rank := func(e acd.Entry) (int, int) {
		age := w.queue(e.Queue).AgeingS
		if age == 0 {
			return e.Priority, int(e.ArrivedAt)
		}
		return 0, int(e.ArrivedAt) - e.Priority*int(age*1e9)
	}
	ap, at := rank(a)
	bp, bt := rank(b)
	if ap != bp {
		return ap > bp
	}
	if at != bt {
		return at < bt
	}
	return a.ID < b.ID
}

// fits says whether an agent may take an entry at all, now.
func (w *twin) fits(a *twinAgent, e acd.Entry) bool {
	return a.Status == acd.Ready && a.State == acd.Idle && a.Reachable &&
		slices.Contains(a.conf.Queues, e.Queue) && w.able(a, e)
}

func (w *twin) able(a *twinAgent, e acd.Entry) bool {
	for skill, grade := range w.queue(e.Queue).Skills {
		if a.conf.Skills[skill] < grade {
			return false
		}
	}
	for skill, grade := range e.Skills {
		if a.conf.Skills[skill] < grade {
			return false
		}
	}
	return true
}

// better says whether the strategy prefers a to b for an entry.
func (w *twin) better(a, b *twinAgent, e acd.Entry) bool {
	q := w.queue(e.Queue)
	clock := func(x *twinAgent) core.Time { return x.IdleSince }
	switch q.Strategy {
	case tenant.RoundRobin:
		clock = func(x *twinAgent) core.Time { return x.OfferedAt }
	case tenant.MostSkilled:
		sum := func(x *twinAgent) int {
			n := 0
			for skill, grade := range x.conf.Skills {
				if q.Skills[skill] > 0 || e.Skills[skill] > 0 {
					n += grade
				}
			}
			return n
		}
		if sum(a) != sum(b) {
			return sum(a) > sum(b)
		}
	}
	if clock(a) != clock(b) {
		return clock(a) < clock(b)
	}
	return a.ID < b.ID
}

func (w *twin) Match(now core.Time) []acd.Reservation {
	var made []acd.Reservation
	for {
		var e *acd.Entry
		var a *twinAgent
		for i := range w.entries {
			x := &w.entries[i]
			if w.holder(x.ID) != nil || e != nil && !w.before(*x, *e) {
				continue
			}
			var best *twinAgent
			for j := range w.agents {
				if y := &w.agents[j]; w.fits(y, *x) && (best == nil || w.better(y, best, *x)) {
					best = y
				}
			}
			if best != nil {
				e, a = x, best
			}
		}
		if e == nil {
			return made
		}
		a.State, a.Since, a.OfferedAt, a.Interaction = acd.Reserved, now, now, e.ID
		made = append(made, acd.Reservation{Interaction: e.ID, Agent: a.ID, Queue: e.Queue})
	}
}

func (w *twin) Progress(now core.Time, id core.AgentID, to acd.State) error {
	a := w.agent(id)
	if a == nil {
		return errors.New("agent \"" + string(id) + "\" is not configured")
	}
	if a.State == to && inHand(to) {
		return nil
	}
	if !slices.Contains([]string{"reserved>ringing", "reserved>talking", "ringing>talking", "talking>held", "held>talking"},
		string(a.State)+">"+string(to)) {
		return acd.ErrStep
	}
	a.State, a.Since = to, now
	if to == acd.Talking {
		a.Misses = 0
		w.Leave(now, a.Interaction)
	}
	return nil
}

func (w *twin) Release(now core.Time, id core.AgentID, o acd.Outcome, wrapUp time.Duration) error {
	a := w.agent(id)
	if a == nil {
		return errors.New("agent \"" + string(id) + "\" is not configured")
	}
	reasons := map[acd.Outcome]string{acd.NoAnswer: "rona", acd.Rejected: "rejected", acd.Busy: "busy", acd.Unreachable: "unreachable"}
	switch {
	case (a.State == acd.Talking || a.State == acd.Held) && o == acd.Done:
		if wrapUp > 0 {
			a.State, a.WrapUpUntil = acd.WrapUp, now+core.Time(wrapUp)
		} else {
			a.State, a.IdleSince = acd.Idle, now
		}
	case (a.State == acd.Reserved || a.State == acd.Ringing) && o == acd.Withdrawn:
		a.State = acd.Idle
	case (a.State == acd.Reserved || a.State == acd.Ringing) && reasons[o] != "":
		a.State = acd.Idle
		a.Misses++
		if a.Status == acd.Ready {
			a.Status, a.Reason = acd.NotReady, reasons[o]
		}
	default:
		return acd.ErrStep
	}
	a.Since, a.Interaction = now, ""
	return nil
}

func (w *twin) Expire(now core.Time) []core.AgentID {
	var ended []core.AgentID
	for {
		var first *twinAgent
		for i := range w.agents {
			a := &w.agents[i]
			if a.State == acd.WrapUp && a.WrapUpUntil <= now && (first == nil || a.WrapUpUntil < first.WrapUpUntil ||
				a.WrapUpUntil == first.WrapUpUntil && a.ID < first.ID) {
				first = a
			}
		}
		if first == nil {
			return ended
		}
		ended = append(ended, first.ID)
		first.State, first.Since = acd.Idle, first.WrapUpUntil
		if first.IdleSince < first.WrapUpUntil {
			first.IdleSince = first.WrapUpUntil
		}
		first.WrapUpUntil = 0
	}
}

func (w *twin) Deadline() core.Time {
	least := core.Never
	for _, a := range w.agents {
		if a.State == acd.WrapUp {
			least = min(least, a.WrapUpUntil)
		}
	}
	return least
}

func (w *twin) Staffed(id core.QueueID) bool {
	return w.queue(id) != nil && slices.ContainsFunc(w.agents, func(a twinAgent) bool {
		return a.Status != acd.LoggedOut && a.Reachable && slices.Contains(a.conf.Queues, id)
	})
}

func (w *twin) Count(id core.QueueID) acd.Count {
	var n acd.Count
	for _, e := range w.entries {
		if e.Queue == id {
			n.Waiting++
			if n.LongestWaitSince == 0 || e.ArrivedAt < n.LongestWaitSince {
				n.LongestWaitSince = e.ArrivedAt
			}
		}
	}
	for _, a := range w.agents {
		switch {
		case w.queue(id) == nil || !slices.Contains(a.conf.Queues, id):
		case a.State != acd.Idle:
			n.Busy++
		case a.Status == acd.Ready && a.Reachable:
			n.Ready++
		case a.Status != acd.LoggedOut:
			n.NotReady++
		}
	}
	return n
}

func (w *twin) Position(id core.InteractionID) int {
	e := w.entry(id)
	if e == nil {
		return 0
	}
	n := 1
	for _, other := range w.entries {
		if other.Queue == e.Queue && w.before(other, *e) {
			n++
		}
	}
	return n
}

func (w *twin) Valid() error { return nil }
