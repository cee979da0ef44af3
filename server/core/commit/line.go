// Package commit holds effects back until the state that they follow from is durable
// (output commit): a 200 OK leaves after the record that makes its call recoverable.
package commit

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Waiting is an effect that waits for a commit. An urgent one (a hang-up, an answer inside
// a live call) waits for a while only: with the store away, who hangs up is let go. One
// with patience lets its commit come so much later, together with other changes: nobody
// outside waits for it, or not so that they would notice.
type Waiting struct {
	Effect   core.Effect
	Urgent   bool
	Patience time.Duration
}

// Line is the queue at the gate of one record. At most one Store of a record is in flight;
// what changes meanwhile goes with the next one, so a slow store makes fewer writes, not
// more. What always holds:
//  1. An effect leaves at most once, and only effects that were withdrawn never leave.
//  2. One that is not urgent leaves after the commit of a Store made at or after its Add.
//  3. Effects that wait for the same kind of reason leave in the order of their Add.
type Line struct {
	token  core.Token // of the Store in flight; 0: none
	since  core.Time  // when the oldest effect that waits began to
	flying []Waiting  // leave when token is committed
	queued []Waiting  // leave when the next Store is
	ops    []core.Op  // of the next Store, beside the record itself
	dirty  bool       // the record changed since the Store in flight was made
	from   core.Time  // since when it is dirty
	soon   core.Time  // when the first of queued has lost its patience
}

// Touch says that the record changed, with other keys that must change in the same commit.
func (l *Line) Touch(now core.Time, ops ...core.Op) {
	if !l.dirty {
		l.dirty, l.from, l.soon = true, now, core.Never
	}
	for _, op := range ops {
		l.put(op)
	}
}

func (l *Line) put(op core.Op) {
	for i := range l.ops {
		if l.ops[i].Key == op.Key {
			l.ops[i] = op
			return
		}
	}
	l.ops = append(l.ops, op)
}

// Add queues effects behind the changes so far. When nothing is open they leave at once.
func (l *Line) Add(now core.Time, waiting []Waiting, out []core.Effect) []core.Effect {
	if len(waiting) == 0 {
		return out
	}
	switch {
	case l.dirty:
		l.wait(now)
		l.queued = append(l.queued, waiting...)
		for _, w := range waiting {
			l.soon = min(l.soon, now.Add(w.Patience))
		}
	case l.token != 0:
		l.wait(now)
		l.flying = append(l.flying, waiting...)
	default:
		for _, w := range waiting {
			out = append(out, w.Effect)
		}
	}
	return out
}

func (l *Line) wait(now core.Time) {
	if len(l.flying)+len(l.queued) == 0 {
		l.since = now
	}
}

// Due returns when a Store should be made: when the first who waits for it has lost its
// patience, at the latest after linger; core.Never when there is nothing to write, or a
// Store is in flight.
func (l *Line) Due(linger time.Duration) core.Time {
	if !l.dirty || l.token != 0 {
		return core.Never
	}
	return min(l.soon, l.from.Add(linger))
}

// Joins reports whether a Store that is not due yet should be made now if another is made
// anyway: when half of the patience is over. Not earlier, since the changes that follow
// soon should find it still here.
func (l *Line) Joins(now core.Time, linger time.Duration) bool {
	due := l.Due(linger)
	return due != core.Never && l.from+(due-l.from)/2 <= now
}

// Send makes the Store that is due, of the record's own op and those that came with it.
func (l *Line) Send(token core.Token, tenant core.TenantID, record ...core.Op) core.Store {
	for _, op := range record {
		l.put(op)
	}
	s := core.Store{Token: token, Tenant: tenant, Ops: l.ops}
	l.token, l.ops, l.dirty = token, nil, false
	l.flying, l.queued = append(l.flying, l.queued...), nil
	return s
}

// Committed lets out what waited for the Store in flight.
func (l *Line) Committed(now core.Time, out []core.Effect) []core.Effect {
	for _, w := range l.flying {
		out = append(out, w.Effect)
	}
	l.token, l.flying, l.since = 0, nil, now
	return out
}

// Refused puts back what a refused Store was to write: it is tried again with the next.
func (l *Line) Refused(ops []core.Op) {
	newer := l.ops
	l.ops, l.token, l.dirty = append([]core.Op(nil), ops...), 0, true
	l.soon = l.from // it has waited long enough
	for _, op := range newer {
		l.put(op)
	}
	l.queued, l.flying = append(l.flying, l.queued...), nil
}

// Abandon forgets what was to be written, and returns what waited for it: it rests on what
// turned out not to be so.
func (l *Line) Abandon() []Waiting {
	waiting := append(l.flying, l.queued...)
	*l = Line{}
	return waiting
}

// Overdue lets out the urgent effects that have waited for grace.
func (l *Line) Overdue(now core.Time, grace time.Duration, out []core.Effect) []core.Effect {
	if l.since.Add(grace) > now {
		return out
	}
	l.flying, out = release(l.flying, out)
	l.queued, out = release(l.queued, out)
	return out
}

func release(all []Waiting, out []core.Effect) ([]Waiting, []core.Effect) {
	kept := all[:0]
	for _, w := range all {
		if w.Urgent {
			out = append(out, w.Effect)
		} else {
			kept = append(kept, w)
		}
	}
	return kept, out
}

// Deadline returns when Overdue has something to let out; core.Never when nothing urgent waits.
func (l *Line) Deadline(grace time.Duration) core.Time {
	for _, w := range l.flying {
		if w.Urgent {
			return l.since.Add(grace)
		}
	}
	for _, w := range l.queued {
		if w.Urgent {
			return l.since.Add(grace)
		}
	}
	return core.Never
}

// Withdraw takes back the effect of a SIP transaction, if it has not left.
func (l *Line) Withdraw(txn core.TxnID) bool {
	var a, b bool
	l.flying, a = Without(l.flying, txn)
	l.queued, b = Without(l.queued, txn)
	return a || b
}

// Without returns the effects but the one of a SIP transaction, and whether there was one.
func Without(all []Waiting, txn core.TxnID) ([]Waiting, bool) {
	for i, w := range all {
		var id core.TxnID
		switch e := w.Effect.(type) {
		case core.Respond:
			id = e.Txn
		case core.SendRequest:
			id = e.Txn
		}
		if id == txn && id != "" {
			return append(all[:i:i], all[i+1:]...), true
		}
	}
	return all, false
}

// Idle reports whether nothing is open: the line can be forgotten.
func (l *Line) Idle() bool { return l.token == 0 && !l.dirty }

// Held returns how many effects wait.
func (l *Line) Held() int { return len(l.flying) + len(l.queued) }
