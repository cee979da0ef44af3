package node

import (
	"container/heap"

	"github.com/dialtone-cc/dialtone/server/core"
)

// kind is what a timer is for.
type kind uint8

const (
	callTimer     kind = iota // a call's Deadline
	lineTimer                 // an urgent effect, or a refused Store, has waited long enough
	deskTimer                 // a wrap-up ends
	bindingTimer              // a registration expires
	parcelTimer               // a CDR is delivered again
	drainTimer                // patience with live calls ends
	rescueTimer               // a phone has not answered the re-INVITE of its call's new anchor
	farewellTimer             // the audio of a call that has moved is relayed no longer
	offerTimer                // an offer to another node's call has not been accepted
	portTimer                 // agents' legs are tried again after a shortage of media ports
)

func (k kind) String() string {
	return [...]string{"call", "line", "wrap-up", "registration", "delivery", "drain", "takeover", "moved call", "offer", "media ports"}[k]
}

// timer names one timer; the same name set again moves it.
type timer struct {
	kind   kind
	tenant core.TenantID
	id     string
}

// timers is a heap with an index: setting, moving and removing cost O(log n).
type timers struct {
	items []scheduled
	index map[timer]int
}

type scheduled struct {
	timer
	when core.Time
}

func (t *timers) set(name timer, at core.Time) {
	i, known := t.index[name]
	switch {
	case at == core.Never && known:
		heap.Remove(t, i)
	case at == core.Never:
	case known && t.items[i].when == at:
	case known:
		t.items[i].when = at
		heap.Fix(t, i)
	default:
		heap.Push(t, scheduled{name, at})
	}
}

func (t *timers) at(name timer) core.Time {
	if i, ok := t.index[name]; ok {
		return t.items[i].when
	}
	return core.Never
}

func (t *timers) first() (core.Time, core.Reason) {
	if len(t.items) == 0 {
		return core.Never, ""
	}
	return t.items[0].when, core.Reason(t.items[0].kind.String())
}

// due takes the first timer away if its time has come.
func (t *timers) due(now core.Time) (timer, bool) {
	if len(t.items) == 0 || t.items[0].when > now {
		return timer{}, false
	}
	return heap.Pop(t).(scheduled).timer, true
}

// Len, Less, Swap, Push and Pop are heap.Interface. Equal times are ordered by name, so
// that the order of work never depends on the order of insertion.
func (t *timers) Len() int { return len(t.items) }

func (t *timers) Less(i, j int) bool {
	a, b := t.items[i], t.items[j]
	switch {
	case a.when != b.when:
		return a.when < b.when
	case a.kind != b.kind:
		return a.kind < b.kind
	case a.tenant != b.tenant:
		return a.tenant < b.tenant
	}
	return a.id < b.id
}

func (t *timers) Swap(i, j int) {
	t.items[i], t.items[j] = t.items[j], t.items[i]
	t.index[t.items[i].timer], t.index[t.items[j].timer] = i, j
}

func (t *timers) Push(x any) {
	if t.index == nil {
		t.index = map[timer]int{}
	}
	s := x.(scheduled)
	t.index[s.timer] = len(t.items)
	t.items = append(t.items, s)
}

func (t *timers) Pop() any {
	s := t.items[len(t.items)-1]
	t.items = t.items[:len(t.items)-1]
	delete(t.index, s.timer)
	return s
}
