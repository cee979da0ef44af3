// Package loop calls Step: it takes one event after the other from two bounded inboxes,
// hands it to the node, carries the effects out in order and wakes the node at its deadline.
// It knows no other rule.
package loop

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Stepper is the part of node.Node that the loop drives.
type Stepper interface {
	Step(now core.Time, ev core.Event, out []core.Effect) []core.Effect
	Deadline() (core.Time, core.Reason)
}

// Config is what a loop is made of.
type Config struct {
	Node     Stepper
	Dispatch func(core.Effect) // must not block; may call Emit
	Clock    func() core.Time  // default: wall clock at the start plus the monotonic clock since
	Inbox    int               // events that each of the two inboxes holds, default 16,384
	Flight   int               // events and effects that the flight recorder keeps at most, default 4,096
	Observe  func(Observation) // after each step, on the loop's goroutine; may be nil
}

// Observation is one step in numbers.
type Observation struct {
	Event    core.Event
	Lag      time.Duration // from Emit (or the deadline, for Woken) to Step
	Step     time.Duration // spent in Step
	Dispatch time.Duration // spent in carrying out the effects
	Effects  int
}

// Broken is what Run returns when Step or Dispatch panicked: the state of the core can no
// longer be trusted, so the process must end. The store holds all that was promised.
type Broken struct {
	Cause any
	Stack []byte
}

// Error says what broke, without the stack.
func (b *Broken) Error() string { return fmt.Sprintf("the core broke: %v", b.Cause) }

// Loop is one node's loop. Emit, Ask and the flight recorder are safe for concurrent use.
type Loop struct {
	cfg    Config
	flight *Flight

	inboxes

	// Of the loop's goroutine.
	woken bool // the last step was a Woken
	out   []core.Effect
}

// The least pause between two Woken when a deadline does not move: a core that forgets to
// move it must not take the whole processor.
const leastPause = time.Millisecond

// New returns a loop that Run starts. Events may be emitted before.
func New(cfg Config) *Loop {
	if cfg.Inbox <= 0 {
		cfg.Inbox = 16384
	}
	if cfg.Flight <= 0 {
		cfg.Flight = 4096
	}
	if cfg.Clock == nil {
		cfg.Clock = clock()
	}
	return &Loop{
		cfg: cfg, flight: newFlight(cfg.Flight),
		inboxes: inboxes{urgent: fifo{limit: cfg.Inbox}, fresh: fifo{limit: cfg.Inbox}, bell: make(chan struct{}, 1)},
	}
}

// clock never steps back: a change of the wall clock moves no deadline of a live call.
func clock() func() core.Time {
	start := time.Now()
	wall := core.Time(start.UnixNano())
	return func() core.Time { return wall.Add(time.Since(start)) }
}

// Flight returns the flight recorder.
func (l *Loop) Flight() *Flight { return l.flight }

// Run steps the node until ctx ends (nil) or the core breaks (*Broken). It is called once.
func (l *Loop) Run(ctx context.Context) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = &Broken{Cause: cause, Stack: debug.Stack()}
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		// A deadline that has come goes before the inboxes, but not twice in a row: no
		// load delays the timers, and no stuck timer delays the load.
		at, _ := l.cfg.Node.Deadline()
		now := l.cfg.Clock()
		if due := at <= now && !l.woken; due {
			l.woken = true
			l.step(item{at: at, ev: core.Woken{}}, now)
			continue
		}
		l.woken = false
		it, ok := l.take(now)
		switch {
		case !ok:
			timer.Reset(max(at.Sub(now), leastPause))
			l.rest(ctx, timer)
		case it.ask != nil:
			it.ask()
		default:
			l.step(it, l.cfg.Clock())
		}
	}
	return nil
}

func (l *Loop) step(it item, now core.Time) {
	l.flight.event(now, it.ev)
	l.out = l.cfg.Node.Step(now, it.ev, l.out[:0])
	stepped := l.cfg.Clock()
	l.flight.effects(stepped, l.out)
	for _, effect := range l.out {
		l.cfg.Dispatch(effect)
	}
	if l.cfg.Observe != nil {
		l.cfg.Observe(Observation{
			Event: it.ev, Lag: now.Sub(it.at), Effects: len(l.out),
			Step: stepped.Sub(now), Dispatch: l.cfg.Clock().Sub(stepped),
		})
	}
	clear(l.out) // the backing array must not keep finished calls alive
}
