package responder

import (
	"container/heap"
	"sync"
	"time"
)

// agenda does things at their time, in the order of their times; things of one time in the
// order in which they were put down.
type agenda struct {
	mu   sync.Mutex
	due  dueHeap
	n    uint64
	wake chan struct{}
}

type due struct {
	at time.Time
	n  uint64
	do func()
}

func newAgenda() *agenda { return &agenda{wake: make(chan struct{}, 1)} }

// at puts do down for a time; false when the agenda is full.
func (a *agenda) at(when time.Time, do func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.due) >= mostHeld {
		return false
	}
	a.n++
	heap.Push(&a.due, due{when, a.n, do})
	if a.due[0].n == a.n {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (a *agenda) length() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.due)
}

// run works until done is closed.
func (a *agenda) run(done <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		a.mu.Lock()
		wait := time.Hour
		var next func()
		if len(a.due) > 0 {
			if wait = time.Until(a.due[0].at); wait <= 0 {
				next = heap.Pop(&a.due).(due).do
			}
		}
		a.mu.Unlock()
		if next != nil {
			next()
			select {
			case <-done:
				return
			default:
				continue
			}
		}
		timer.Reset(wait)
		select {
		case <-done:
			return
		case <-timer.C:
		case <-a.wake:
		}
	}
}

type dueHeap []due

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].n < h[j].n
	}
	return h[i].at.Before(h[j].at)
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(v any)   { *h = append(*h, v.(due)) }
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	v := (*h)[last]
	(*h)[last] = due{}
	*h = (*h)[:last]
	return v
}
