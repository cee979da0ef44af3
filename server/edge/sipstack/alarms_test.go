package sipstack

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// noted is an owner that writes down when it was rung for what is set.
type noted struct {
	alarm alarm
	mu    *sync.Mutex // as transactions have one
	start time.Time
	rung  []time.Duration
	then  func()
}

func (n *noted) ring(a *alarm, now time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !a.stale(now) {
		n.rung = append(n.rung, time.Since(n.start))
		if n.then != nil {
			n.then()
		}
	}
}

// Every alarm rings once, not before its time and a grain later at most, whatever is set
// anew or stopped meanwhile, and in the order of its time.
func TestAlarms(t *testing.T) {
	const grain = 30 * time.Millisecond
	durations := []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 500 * time.Millisecond, time.Second, 4 * time.Second, 32 * time.Second}
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			var s alarms
			s.init(grain)
			defer s.close()
			start := time.Now()
			all := make([]*noted, rapid.IntRange(1, 6).Draw(rt, "alarms"))
			due := make([]time.Duration, len(all)) // 0: none
			want := make([][]time.Duration, len(all))
			for i := range all {
				all[i] = &noted{start: start, mu: &sync.Mutex{}}
				all[i].alarm.owner = all[i]
			}
			settle := func() { // what has certainly rung is written down
				for i := range due {
					if due[i] > 0 && time.Since(start) > due[i]+grain {
						want[i], due[i] = append(want[i], due[i]), 0
					}
				}
			}
			for range rapid.IntRange(1, 40).Draw(rt, "actions") {
				settle()
				i := rapid.IntRange(0, len(all)-1).Draw(rt, "which")
				if near := time.Since(start) - due[i]; due[i] > 0 && near >= 0 { // may ring or not: wait
					time.Sleep(grain + time.Millisecond)
					settle()
				}
				switch rapid.IntRange(0, 2).Draw(rt, "action") {
				case 0:
					d := rapid.SampledFrom(durations).Draw(rt, "after")
					all[i].mu.Lock()
					s.set(&all[i].alarm, d)
					all[i].mu.Unlock()
					due[i] = time.Since(start) + max(d, 1)
				case 1:
					all[i].mu.Lock()
					s.stop(&all[i].alarm)
					all[i].mu.Unlock()
					due[i] = 0
				case 2:
					time.Sleep(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms")) * time.Millisecond)
				}
				synctest.Wait()
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			settle()
			for i, n := range all {
				if len(n.rung) != len(want[i]) || !slices.IsSorted(n.rung) {
					rt.Fatalf("alarm %d rang at %v, want %v", i, n.rung, want[i])
				}
				for k := range n.rung {
					if late := n.rung[k] - want[i][k]; late < -time.Microsecond || late > grain+time.Microsecond {
						rt.Fatalf("alarm %d rang at %v, want %v", i, n.rung, want[i])
					}
				}
			}
		})
	})
}

// An alarm that is much shorter than the grain is not a grain late: a takeover's T1 of 50 ms
// would be 80. A longer one that waits too does not hold it up.
func TestShortAlarmsAreOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s alarms
		s.init(31 * time.Millisecond)
		defer s.close()
		var mu sync.Mutex
		long := &noted{start: time.Now(), mu: &mu}
		long.alarm.owner = long
		s.set(&long.alarm, 500*time.Millisecond)
		time.Sleep(465 * time.Millisecond)
		short := &noted{start: time.Now(), mu: &mu}
		short.alarm.owner = short
		s.set(&short.alarm, 50*time.Millisecond)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(short.rung) != 1 || short.rung[0] < 50*time.Millisecond || short.rung[0] > 63*time.Millisecond || len(long.rung) != 1 {
			t.Errorf("rang at %v, and %v", short.rung, long.rung)
		}
	})
}

// Many alarms within a grain are one wake-up: at 10,000 transactions a second there are
// not 10,000 timers of the runtime.
func TestAlarmsShareWakeUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s alarms
		s.init(30 * time.Millisecond)
		wakes, rung := map[time.Duration]bool{}, 0
		start := time.Now()
		var mu sync.Mutex
		for range 1000 {
			n := &noted{start: start, mu: &mu, then: func() { wakes[time.Since(start)] = true; rung++ }}
			n.alarm.owner = n
			mu.Lock()
			s.set(&n.alarm, 500*time.Millisecond)
			mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		s.close()
		if rung != 1000 || len(wakes) > 1000/30+2 || len(s.lines) != 1 {
			t.Errorf("%d alarms in %d wake-ups of %d lines", rung, len(wakes), len(s.lines))
		}
	})
}

func BenchmarkAlarm(b *testing.B) {
	var s alarms
	s.init(30 * time.Millisecond)
	defer s.close()
	n := &noted{}
	n.alarm.owner = n
	b.ReportAllocs()
	for b.Loop() {
		s.set(&n.alarm, 500*time.Millisecond)
		s.stop(&n.alarm)
	}
}
