// Package loop calls Step: it takes one event after the other from two bounded inboxes,
// hands it to the node, carries the effects out in order and wakes the node at its deadline.
// It knows no other rule. One goroutine steps at a time: the loop's own, or for a few steps
// one that has just brought events and would have nothing to do but to wake it (Help).
package loop

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"
	"sync"
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
	Observe  func(Observation) // after each step, by the one who steps; may be nil
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

// Loop is one node's loop. Emit, Post, Help, Ask and the flight recorder are safe for
// concurrent use.
type Loop struct {
	cfg    Config
	flight *Flight

	inboxes
	broke   chan *Broken   // what broke while another goroutine than the loop's stepped
	helping sync.WaitGroup // goroutines in Help

	// Of the one who steps.
	woken bool // the last step was a Woken
	out   []core.Effect
	timer *time.Timer // wakes the loop's goroutine at the deadline
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
	l := &Loop{
		cfg: cfg, flight: newFlight(cfg.Flight), broke: make(chan *Broken, 1),
		inboxes: inboxes{
			urgent: fifo{limit: cfg.Inbox}, fresh: fifo{limit: cfg.Inbox}, bell: make(chan struct{}, 1),
			working: true, // until Run
		},
	}
	return l
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
	defer l.end()
	defer func() {
		if cause := recover(); cause != nil {
			err = &Broken{Cause: cause, Stack: debug.Stack()}
		}
	}()
	l.timer = time.NewTimer(time.Hour)
	defer l.timer.Stop()
	for mine := true; ; mine = l.begin() {
		if mine {
			l.work(ctx, math.MaxInt)
		}
		select {
		case <-l.bell:
		case <-l.timer.C:
		case broken := <-l.broke:
			return broken
		case <-ctx.Done():
			return nil
		}
	}
}

// end keeps others from stepping and waits until nobody does.
func (l *Loop) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.helping.Wait()
}

// helpSteps bounds Help: its caller has a socket to read.
const helpSteps = 8

// Help steps what waits on the caller's goroutine, a few steps at most, unless another
// does. What it leaves is for the loop's own goroutine.
func (l *Loop) Help() {
	if !l.enter() {
		return
	}
	defer l.helping.Done()
	if !l.begin() {
		return
	}
	defer func() {
		if cause := recover(); cause != nil { // and nobody steps any more
			l.broke <- &Broken{Cause: cause, Stack: debug.Stack()}
		}
	}()
	l.work(context.Background(), helpSteps)
}

// enter counts a helper, unless Run has ended.
func (l *Loop) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.helping.Add(1)
	return true
}

// work steps until nothing waits, or for a number of steps.
func (l *Loop) work(ctx context.Context, steps int) {
	for ctx.Err() == nil && steps > 0 {
		// A deadline that has come goes before the inboxes, but not twice in a row: no
		// load delays the timers, and no stuck timer delays the load.
		at, _ := l.cfg.Node.Deadline()
		now := l.cfg.Clock()
		if due := at <= now && !l.woken; due {
			l.woken = true
			l.step(item{at: at, ev: core.Woken{}}, now)
			steps--
			continue
		}
		l.woken = false
		it, ok := l.take(now)
		switch {
		case !ok:
			l.arm(at, now)
			if l.cease() {
				return
			}
		case it.ask != nil:
			it.ask()
		default:
			l.step(it, l.cfg.Clock())
			steps--
		}
	}
	l.mu.Lock()
	l.working = false
	l.mu.Unlock()
	l.ring()
}

// arm sets the timer that wakes the loop's goroutine.
func (l *Loop) arm(at, now core.Time) {
	l.timer.Reset(max(at.Sub(now), leastPause))
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
