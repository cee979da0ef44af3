package loop

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Who posts and helps steps on its own goroutine, a few steps at most; the rest is the
// loop's own. Nothing is lost, whoever steps.
func TestHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		byHelper, steps := 0, 0
		node := &scripted{deadline: core.Never, step: func(_ core.Time, _ core.Event, out []core.Effect) []core.Effect {
			steps++
			if strings.Contains(string(debug.Stack()), "(*Loop).Help") {
				byHelper++
			}
			return out
		}}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		l.Post(core.Stored{})
		l.Help() // before Run nobody steps
		if steps != 0 {
			t.Errorf("%d steps before Run", steps)
		}
		end := start(l)
		synctest.Wait()
		for range 2 * helpSteps {
			l.Post(core.Stored{})
		}
		synctest.Wait() // Post wakes nobody
		if steps != 1 {
			t.Errorf("%d steps without help", steps)
		}
		l.Help()
		synctest.Wait()
		if byHelper != helpSteps || steps != 1+2*helpSteps {
			t.Errorf("%d of %d steps by the helper", byHelper, steps)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		l.Post(core.Stored{})
		l.Help() // after the end nobody steps
		if steps != 1+2*helpSteps {
			t.Errorf("%d steps after the end", steps)
		}
	})
}

// A helper's step may bring the deadline nearer than what the loop sleeps for.
func TestHelpMovesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := core.Time(time.Now().UnixNano())
		var woken time.Duration
		node := &scripted{deadline: core.Never}
		node.step = func(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
			node.deadline = begin.Add(time.Second)
			if _, ok := ev.(core.Woken); ok {
				woken, node.deadline = now.Sub(begin), core.Never
			}
			return out
		}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		end := start(l)
		synctest.Wait()
		l.Post(core.Stored{})
		l.Help()
		time.Sleep(time.Minute)
		synctest.Wait()
		if woken != time.Second {
			t.Errorf("woken at %v", woken)
		}
		_ = end()
	})
}

func TestPanicOfAHelperEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := 0
		node := &scripted{deadline: core.Never, step: func(core.Time, core.Event, []core.Effect) []core.Effect { steps++; panic("planted") }}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		done := make(chan error)
		go func() { done <- l.Run(context.Background()) }()
		synctest.Wait()
		l.Post(core.Stored{})
		l.Post(core.Stored{})
		l.Help()
		l.Help()
		var broken *Broken
		if err := <-done; !errors.As(err, &broken) || broken.Cause != "planted" || steps != 1 {
			t.Errorf("Run returned %v after %d steps", err, steps)
		}
	})
}

// Steps never overlap and no event is lost, with many who emit, post, help and ask.
func TestOneStepsAtATime(t *testing.T) {
	const writers, each = 6, 2000
	inside, seen := 0, 0 // the race detector watches them
	node := &scripted{deadline: core.Never, step: func(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
		if inside++; inside != 1 {
			t.Error("two steps at a time")
		}
		if _, ok := ev.(core.Stored); ok {
			seen++
		}
		inside--
		return out
	}}
	l := New(Config{Node: node, Dispatch: func(core.Effect) {}, Inbox: 64})
	end := start(l)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				for {
					ok := false
					if w%2 == 0 {
						ok = l.Emit(core.Stored{})
					} else {
						ok = l.Post(core.Stored{})
						l.Help()
					}
					if ok {
						break
					}
					time.Sleep(time.Microsecond)
				}
				if i%500 == 0 {
					_ = l.Ask(t.Context(), func() { seen += 0 })
				}
			}
		})
	}
	all.Wait()
	total := 0
	for deadline := time.Now().Add(10 * time.Second); total != writers*each && time.Now().Before(deadline); {
		if err := l.Ask(t.Context(), func() { total = seen }); err != nil {
			t.Fatal(err)
		}
	}
	if err := end(); err != nil || total != writers*each {
		t.Errorf("%v, %d of %d events", err, total, writers*each)
	}
}

// Overload: what is new waits staleAfter at most, whatever comes, and as many are served
// as there is time for. With an inbox of seconds all would be served too late.
func TestNewWaitsABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost = 2 * time.Millisecond // 500 a second
		served, longest := 0, time.Duration(0)
		node := &scripted{deadline: core.Never, step: func(core.Time, core.Event, []core.Effect) []core.Effect {
			time.Sleep(cost)
			served++
			return nil
		}}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}, Observe: func(o Observation) { longest = max(longest, o.Lag) }})
		end := start(l)
		const offered = 5 * 1000 // five times as many, for two seconds
		for range offered {
			l.Emit(invite())
			time.Sleep(cost / 5)
		}
		_ = end()
		if longest > staleAfter+staleAfter/4 || served < 980 || uint64(offered) > l.Shed()+uint64(served)+uint64(staleAfter/cost)+8 {
			t.Errorf("waited %v, served %d, shed %d", longest, served, l.Shed())
		}
	})
}
