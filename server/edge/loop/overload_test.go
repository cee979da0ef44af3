package loop

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

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

// A hiccup is forgotten once nothing new waits: an idle node takes a burst whole.
func TestAHiccupIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := true
		node := &scripted{deadline: core.Never, step: func(core.Time, core.Event, []core.Effect) []core.Effect {
			if slow {
				time.Sleep(150 * time.Millisecond)
			}
			return nil
		}}
		l := New(Config{Node: node, Dispatch: func(core.Effect) {}})
		end := start(l)
		for range 3 {
			l.Emit(invite())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		slow = false
		before := l.Shed()
		for range 1000 {
			l.Emit(invite())
		}
		if shed := l.Shed() - before; shed != 0 {
			t.Errorf("%d of a burst of 1000 were shed", shed)
		}
		_ = end()
	})
}

// No event is lost and none wakes the loop in vain, with many who emit and ask.
func TestManyWriters(t *testing.T) {
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
	for range writers {
		all.Go(func() {
			for i := range each {
				for !l.Emit(core.Stored{}) {
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
