package phone

import (
	"container/heap"
	"time"
)

// alarm rings once at an instant. It lives inside what it wakes, so setting it costs no
// memory.
type alarm struct {
	at    time.Time
	place int // in the heap, from 1; 0: not set
	ring  func(now time.Time)
}

// alarms are those that are set, the earliest first (container/heap).
type alarms []*alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i+1, j+1
}

func (a *alarms) Push(x any) {
	one := x.(*alarm)
	*a = append(*a, one)
	one.place = len(*a)
}

func (a *alarms) Pop() any {
	last := (*a)[len(*a)-1]
	(*a)[len(*a)-1] = nil
	*a = (*a)[:len(*a)-1]
	last.place = 0
	return last
}

// set makes an alarm ring at an instant, in place of an earlier setting. The lock is held.
func (e *Endpoint) set(a *alarm, at time.Time) {
	a.at = at
	if a.place > 0 {
		heap.Fix(&e.alarms, a.place-1)
	} else {
		heap.Push(&e.alarms, a)
	}
	if e.wake.IsZero() || at.Before(e.wake) {
		e.wake = at
		select {
		case e.kick <- struct{}{}:
		default:
		}
	}
}

func (e *Endpoint) unset(a *alarm) {
	if a.place > 0 {
		heap.Remove(&e.alarms, a.place-1)
	}
}

// tick rings the alarms until the endpoint is closed.
func (e *Endpoint) tick() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		e.mu.Lock()
		now := time.Now()
		for len(e.alarms) > 0 && !e.alarms[0].at.After(now) {
			a := heap.Pop(&e.alarms).(*alarm)
			a.ring(now)
		}
		wait := time.Hour
		e.wake = time.Time{}
		if len(e.alarms) > 0 {
			e.wake = e.alarms[0].at
			wait = time.Until(e.wake)
		}
		e.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-e.kick:
		case <-e.done:
			return
		}
	}
}
