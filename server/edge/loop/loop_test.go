package loop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// scripted is a node whose behaviour a test writes down.
type scripted struct {
	step     func(now core.Time, ev core.Event, out []core.Effect) []core.Effect
	deadline core.Time
}

func (s *scripted) Step(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
	return s.step(now, ev, out)
}

func (s *scripted) Deadline() (core.Time, core.Reason) { return s.deadline, "test" }

// start runs a loop in the bubble and returns how to end it and what Run returned.
func start(l *Loop) (end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

func invite() core.Event {
	return core.RequestReceived{Txn: "t", Request: &core.Request{Method: core.INVITE}}
}

func TestEffectsLeaveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		node := &scripted{deadline: core.Never, step: func(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
			flow := ev.(core.FlowClosed).Flow
			for i := range 3 {
				out = append(out, core.Log{Text: fmt.Sprint(flow, i)})
			}
			return out
		}}
		l := New(Config{Node: node, Dispatch: func(e core.Effect) { seen = append(seen, e.(core.Log).Text) }})
		end := start(l)
		l.Emit(core.FlowClosed{Flow: "a"})
		l.Emit(core.FlowClosed{Flow: "b"})
		synctest.Wait()
		if got := strings.Join(seen, " "); got != "a0 a1 a2 b0 b1 b2" {
			t.Errorf("effects left as %q", got)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// An edge answers from inside Do (MediaOpened): with an inbox of one place, and that
// place taken, Emit must say no and not wait for the goroutine that it runs on.
func TestEmitFromDispatchNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *Loop
		var answers []bool
		opened := 0
		node := &scripted{deadline: core.Never, step: func(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
			if _, ok := ev.(core.MediaOpened); ok {
				opened++
				return out
			}
			return append(out, core.OpenMedia{Leg: "x/1"})
		}}
		l = New(Config{Node: node, Inbox: 1, Dispatch: func(core.Effect) {
			answers = append(answers, l.Emit(core.MediaOpened{Leg: "x/1"}), l.Emit(core.MediaOpened{Leg: "x/1"}))
		}})
		end := start(l)
		l.Emit(invite())
		synctest.Wait()
		if fmt.Sprint(answers) != "[true false]" || opened != 1 || l.Shed() != 1 {
			t.Errorf("answers %v, opened %d, shed %d", answers, opened, l.Shed())
		}
		_ = end()
	})
}

func TestWokenAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var woken []time.Duration
		begin := core.Time(time.Now().UnixNano())
		node := &scripted{deadline: begin.Add(5 * time.Second)}
		node.step = func(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
			if _, ok := ev.(core.Woken); ok {
				woken = append(woken, now.Sub(begin))
				node.deadline = core.Never
			} else {
				node.deadline = now.Add(time.Second) // earlier than the armed one
			}
			return out
		}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		end := start(l)
		time.Sleep(2 * time.Second)
		l.Emit(core.FlowClosed{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(woken) != 1 || woken[0] != 3*time.Second {
			t.Errorf("woken at %v, want once at 3s", woken)
		}
		_ = end()
	})
}

// A timer is due while the inbox never empties: it goes first (signalwire/freeswitch#1641:
// a dispatch that starves).
func TestLoadDoesNotDelayTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		node := &scripted{deadline: 1}
		node.step = func(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
			order = append(order, fmt.Sprintf("%T", ev))
			if len(order) == 4 {
				node.deadline = core.Never
			}
			return out
		}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		for range 4 {
			l.Emit(core.FlowClosed{})
		}
		end := start(l)
		synctest.Wait()
		// The deadline stays in the past for four steps: neither side starves the other.
		want := "[core.Woken core.FlowClosed core.Woken core.FlowClosed core.FlowClosed core.FlowClosed]"
		if fmt.Sprint(order) != want {
			t.Errorf("order %v, want %s", order, want)
		}
		_ = end()
	})
}

// A deadline that never moves must not take the whole processor: in a second of virtual
// time there is one Woken per pause, plus the first.
func TestStuckDeadlineIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		woken := 0
		node := &scripted{deadline: 1, step: func(_ core.Time, _ core.Event, out []core.Effect) []core.Effect {
			woken++
			return out
		}}
		end := start(New(Config{Node: node, Dispatch: func(core.Effect) {}}))
		time.Sleep(time.Second)
		_ = end()
		if limit := int(time.Second/leastPause) + 2; woken > limit {
			t.Errorf("woken %d times in a second, want at most %d", woken, limit)
		}
	})
}

func TestUrgentGoesFirstAndFreshKeepsAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order strings.Builder
		node := &scripted{deadline: core.Never, step: func(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
			if isFresh(ev) {
				order.WriteByte('f')
			} else {
				order.WriteByte('u')
			}
			return out
		}}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		for range 3 {
			l.Emit(invite())
		}
		for range 2 * longestStreak {
			l.Emit(core.Stored{})
		}
		end := start(l)
		synctest.Wait()
		u := strings.Repeat("u", longestStreak)
		if want := u + "f" + u + "f" + "f"; order.String() != want {
			t.Errorf("order %s\nwant  %s", order.String(), want)
		}
		_ = end()
	})
}

func TestFloodOfInvitesLeavesRoomForWhatEnds(t *testing.T) {
	l := New(Config{Inbox: 8})
	taken := 0
	for range 100 {
		if l.Emit(invite()) {
			taken++
		}
	}
	if taken != 8 || l.Shed() != 92 {
		t.Errorf("took %d, shed %d; want 8 and 92", taken, l.Shed())
	}
	tagged := core.Address{Params: ";tag=1"}
	ends := []core.Event{
		core.Stored{}, core.MediaClosed{}, core.ResponseReceived{}, core.DrainRequested{}, core.FlowClosed{},
		core.RequestReceived{Request: &core.Request{Method: core.BYE, Message: core.Message{To: tagged}}},
		core.RequestReceived{Request: &core.Request{Method: core.CANCEL}},
		core.RequestReceived{Request: &core.Request{Method: core.ACK, Message: core.Message{To: tagged}}},
	}
	for _, ev := range ends {
		if !l.Emit(ev) {
			t.Errorf("%T was shed by a flood of INVITEs", ev)
		}
	}
	if l.Emit(core.Stored{}) {
		t.Error("the urgent inbox is not bounded")
	}
	if u, f := l.Waiting(); u != 8 || f != 8 {
		t.Errorf("waiting %d, %d", u, f)
	}
}

func TestPanicEndsTheLoopWithItsRecord(t *testing.T) {
	for _, place := range []string{"step", "dispatch"} {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				steps := 0
				node := &scripted{deadline: core.Never, step: func(_ core.Time, _ core.Event, out []core.Effect) []core.Effect {
					steps++
					if place == "step" {
						panic("planted")
					}
					return append(out, core.OpenMedia{Leg: "x/1"})
				}}
				l := New(Config{Node: node, Dispatch: func(core.Effect) { panic("planted") }})
				l.Emit(core.FlowClosed{Flow: "the-last-one"})
				l.Emit(core.FlowClosed{Flow: "never-stepped"})
				err := l.Run(t.Context())
				var broken *Broken
				if !errors.As(err, &broken) || broken.Cause != "planted" || !strings.Contains(string(broken.Stack), "loop_test.go") {
					t.Fatalf("Run returned %v", err)
				}
				var dump strings.Builder
				if _, err := l.Flight().WriteTo(&dump); err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(dump.String(), "the-last-one") || steps != 1 {
					t.Errorf("after %d steps the record is:\n%s", steps, dump.String())
				}
			})
		})
	}
}

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &scripted{deadline: core.Never}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := l.Ask(ctx, func() {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a loop that does not run answered %v", err)
		}
		end := start(l)
		answered := false
		if err := l.Ask(context.Background(), func() { answered = true }); err != nil || !answered {
			t.Errorf("Ask: %v, answered %t", err, answered)
		}
		_ = end()
	})
}

func TestObservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Observation
		node := &scripted{deadline: core.Never, step: func(_ core.Time, _ core.Event, out []core.Effect) []core.Effect {
			time.Sleep(3 * time.Millisecond)
			return append(out, core.Drained{}, core.Drained{})
		}}
		l := New(Config{Node: node, Dispatch: func(core.Effect) { time.Sleep(time.Millisecond) },
			Observe: func(o Observation) { seen = append(seen, o) }})
		l.Emit(core.Stored{Token: 1})
		time.Sleep(10 * time.Millisecond)
		end := start(l)
		time.Sleep(time.Second)
		_ = end()
		want := Observation{Event: core.Stored{Token: 1}, Lag: 10 * time.Millisecond, Step: 3 * time.Millisecond,
			Dispatch: 2 * time.Millisecond, Effects: 2}
		if len(seen) != 1 || seen[0] != want {
			t.Errorf("observed %+v, want %+v", seen, want)
		}
	})
}

// ns per event through Emit, the inbox, Step and one effect. A node that does nothing: what
// is measured is the loop's own cost.
func BenchmarkLoop(b *testing.B) {
	node := &scripted{deadline: core.Never}
	done := make(chan struct{})
	left := b.N
	node.step = func(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
		if left--; left == 0 {
			close(done)
		}
		return append(out, core.CloseMedia{Leg: "int/1"})
	}
	l := New(Config{Node: node, Dispatch: func(core.Effect) {}, Observe: func(Observation) {}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = l.Run(ctx) }()
	var ev core.Event = core.Stored{Token: 7}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		for !l.Emit(ev) {
			time.Sleep(time.Microsecond)
		}
	}
	<-done
}
