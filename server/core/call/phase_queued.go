package call

import (
	"errors"
	"net/netip"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

// welcome answers the caller (Arriving) and lets it wait. A caller is in its queue from the
// first moment, the welcome plays meanwhile; only a welcome that must be heard comes first.
func (c *Call) welcome(env *Env, address netip.AddrPort) {
	q, ok := env.QueueOf(c.Queue)
	if !ok {
		c.end(env, core.Failed, core.QueueGone, core.System, 480)
		return
	}
	if env.Desk.Count(c.Queue).Waiting >= q.MaxWaiting && (q.Overflow == nil || q.Overflow.Announce == "" && q.Overflow.Queue == "") {
		c.end(env, core.Rejected, core.QueueFull, core.System, 503)
		return
	}
	if c.Caller.Answer(&env.Env, address) == leg.Refused {
		c.end(env, core.Rejected, core.NoCodec, core.System, c.Caller.Status)
		return
	}
	if q.Overflow != nil && q.Overflow.AfterS > 0 {
		c.OverflowAt = c.ArrivedAt.Add(seconds(q.Overflow.AfterS))
	}
	switch {
	case q.Welcome != "" && q.WelcomeFirst:
		c.Phase = Greeting
		c.play(q.Welcome, false)
		return
	case q.Welcome != "":
		c.play(q.Welcome, false)
	default:
		c.play(c.music(env), true)
	}
	c.enqueue(env)
}

// enqueue takes a place in the queue. The place is that of the first arrival, also after
// an overflow into another queue.
func (c *Call) enqueue(env *Env) {
	c.Phase = Queued
	place := c.ArrivedAt
	if env.Plant == "forget-place" {
		place = env.Now
	}
	err := env.Desk.Enqueue(env.Now, acd.Entry{ID: c.ID, Queue: c.Queue, Priority: c.Priority,
		Skills: c.Skills, ArrivedAt: place, QueuedAt: env.Now})
	switch {
	case err == nil:
		if c.QueuedAt == 0 {
			c.QueuedAt = env.Now
		}
		c.note(env, core.Moment{What: core.Queued, Queue: c.Queue})
		env.Touched = true // the desk may be another node's, which reads it off the record
	case errors.Is(err, acd.ErrNobody):
		c.overflow(env, core.NobodyThere)
	case errors.Is(err, acd.ErrFull):
		c.overflow(env, core.QueueFull)
	default:
		c.refuse(env, core.Failed, core.QueueGone)
	}
}

// requeue takes the place again that the call had.
func (c *Call) requeue(env *Env) {
	err := env.Desk.Requeue(env.Now, acd.Entry{ID: c.ID, Queue: c.Queue, Priority: c.Priority,
		Skills: c.Skills, ArrivedAt: c.ArrivedAt, QueuedAt: c.QueuedAt})
	if err != nil {
		c.refuse(env, core.Failed, core.QueueGone)
	}
}

// overflow follows the queue's rule: another queue, else an announcement and the end.
func (c *Call) overflow(env *Env, why core.EndReason) {
	q := c.queue(env)
	c.OverflowAt = 0
	env.Touched = true
	if c.Phase == Offering {
		c.withdraw(env, acd.Withdrawn, "withdrawn")
	}
	env.Desk.Leave(env.Now, c.ID)
	rule := q.Overflow
	if rule == nil || rule.Queue == "" {
		c.refuse(env, core.Overflowed, why)
		return
	}
	next, ok := env.QueueOf(rule.Queue)
	moves := 0
	for _, m := range c.Timeline {
		if m.What == core.OverflowedTo {
			moves++
		}
	}
	if !ok || moves >= 8 { // rules may form a circle
		c.refuse(env, core.Overflowed, why)
		return
	}
	c.note(env, core.Moment{What: core.OverflowedTo, Queue: rule.Queue, Detail: string(why)})
	c.Queue = rule.Queue
	if next.Overflow != nil && next.Overflow.AfterS > 0 {
		c.OverflowAt = env.Now.Add(seconds(next.Overflow.AfterS))
	}
	c.enqueue(env)
}

// refuse ends a call that will not be served, after the announcement if there is one.
func (c *Call) refuse(env *Env, result core.Result, why core.EndReason) {
	if rule := c.queue(env).Overflow; rule != nil && rule.Announce != "" && c.Caller.MediaOn() {
		c.Phase = Announcing
		c.Why = why
		c.play(rule.Announce, false)
		env.Touched = true
		return
	}
	c.end(env, result, why, core.System, 480)
}

// close ends a call whose announcement was heard.
func (c *Call) close(env *Env) {
	c.end(env, core.Overflowed, c.Why, core.System, 480)
}
