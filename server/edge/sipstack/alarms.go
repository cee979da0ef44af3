package sipstack

import (
	"sync"
	"time"
)

// timing are the durations of RFC 3261 s.17, table 4.
type timing struct {
	t1, t2, t4 time.Duration
	d          time.Duration // Timer D: at least 32 s
	trying     time.Duration // an INVITE without an answer gets its 100 after this
}

// giveUp is the duration of Timers B, F, H, J, L and M.
func (t *timing) giveUp() time.Duration { return 64 * t.t1 }

// grain is how late an alarm may ring. What is due within one grain is one wake-up, and a
// wake-up costs more than all else here.
func (t *timing) grain() time.Duration { return max(t.t1/16, time.Millisecond) }

// owner is a transaction with alarms. It calls set and stop with its own lock held, and
// ring takes that lock: the alarm may have been set anew or stopped in between.
type owner interface {
	ring(a *alarm, now time.Duration)
}

// alarm is one timer of a transaction, a part of it: setting one takes no memory.
type alarm struct {
	owner      owner
	at         time.Duration // since the epoch of alarms; 0: not set
	line       *line
	prev, next *alarm
}

// stale says that a ring that is under way is not for what the alarm is set to now.
func (a *alarm) stale(now time.Duration) bool { return a.at == 0 || a.at > now }

// line holds the alarms of one duration in a ring list. The clock goes forward and the
// duration is the same, so the list is in order without sorting: setting and stopping are
// a few pointers, whatever the number of transactions.
type line struct {
	after time.Duration
	late  time.Duration // that its alarms may ring: a grain, less where that would show
	head  alarm         // next is the earliest
}

// alarms are the timers of all transactions. RFC 3261 knows about ten durations (T1 and its
// doublings, T4, 64*T1, Timer D), so there are as many lines, as many again for each other T1
// that the core uses, and one timer of the runtime for all of them.
type alarms struct {
	grain time.Duration
	epoch time.Time

	mu     sync.Mutex
	lines  []*line
	timer  *time.Timer
	wakeAt time.Duration // when timer fires; 0: it is not set
	closed bool
}

func (s *alarms) init(grain time.Duration) {
	s.grain, s.epoch = grain, time.Now().Add(-1) // no alarm is at 0
	s.timer = time.AfterFunc(time.Hour, s.ring)
	s.timer.Stop()
}

// set lets a ring after d, in place of when it would have rung.
func (s *alarms) set(a *alarm, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.unlink()
	if s.closed {
		return
	}
	l := s.lineOf(d)
	now := time.Since(s.epoch)
	a.at, a.line = now+d, l
	a.prev, a.next = l.head.prev, &l.head
	a.prev.next, a.next.prev = a, a
	if s.wakeAt == 0 || a.at+l.late < s.wakeAt {
		s.wake(now, a.at+l.late)
	}
}

// stop keeps a from ringing; a ring that is under way finds it stale.
func (s *alarms) stop(a *alarm) {
	if a.at == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.unlink()
	a.at = 0
}

func (a *alarm) unlink() {
	if a.line != nil {
		a.prev.next, a.next.prev = a.next, a.prev
		a.prev, a.next, a.line = nil, nil, nil
	}
}

func (s *alarms) lineOf(d time.Duration) *line {
	for _, l := range s.lines {
		if l.after == d {
			return l
		}
	}
	l := &line{after: d, late: min(s.grain, max(d/4, time.Millisecond))}
	l.head.prev, l.head.next = &l.head, &l.head
	s.lines = append(s.lines, l)
	return l
}

// wake sets the timer to an instant at which all that is due by then may ring.
func (s *alarms) wake(now, at time.Duration) {
	s.wakeAt = at
	s.timer.Reset(at - now)
}

// ring lets everything ring that is due.
func (s *alarms) ring() {
	all, now := s.due()
	for _, a := range all {
		a.owner.ring(a, now)
	}
}

// due takes what is due out of the lines and sets the timer for the rest.
func (s *alarms) due() ([]*alarm, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(s.epoch)
	var all []*alarm
	var next time.Duration
	for _, l := range s.lines {
		for a := l.head.next; a != &l.head; a = l.head.next {
			if a.at > now {
				if next == 0 || a.at+l.late < next {
					next = a.at + l.late
				}
				break
			}
			a.unlink()
			all = append(all, a)
		}
	}
	s.wakeAt = 0
	if next > 0 && !s.closed {
		s.wake(now, next)
	}
	return all, now
}

// close keeps everything from ringing.
func (s *alarms) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
	for _, l := range s.lines {
		for a := l.head.next; a != &l.head; a = l.head.next {
			a.unlink()
		}
	}
}
