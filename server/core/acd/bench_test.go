//go:build unix

package acd_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// load is a center of a size. Agents have five queues each, one of eight skill sets.
type load struct {
	*acd.Center
	queues, agents, waiting int
	every                   bool // every agent has every queue
	unique                  bool // every agent has skills of its own
	next                    int
	now                     core.Time
	dice                    *rand.Rand
	kinds                   map[core.InteractionID]int
}

func newLoad(l load) *load {
	l.Center, l.now, l.dice = acd.New(), 1, rand.New(rand.NewPCG(1, 1))
	for i := range l.queues {
		l.PutQueue(tenant.Queue{ID: queueID(i), MaxWaiting: 1 << 20, AgeingS: 60, Strategy: tenant.LongestIdle})
	}
	for i := range l.agents {
		a := tenant.Agent{ID: agentID(i), Skills: map[string]int{"a": i & 1, "b": i >> 1 & 1, "c": i >> 2 & 1}}
		n := 5
		if l.every {
			n = l.queues
		}
		for k := range n {
			a.Queues = append(a.Queues, queueID((i+k)%l.queues))
		}
		if l.unique {
			for s := range 14 {
				a.Skills[fmt.Sprint("s", s)] = 1 + i>>s&1
			}
		}
		l.PutAgent(a)
		l.SetReachable(l.now, a.ID, true)
	}
	for i := range l.agents {
		l.SetStatus(l.now, agentID(i), acd.Ready, "")
	}
	return &l
}

func queueID(i int) core.QueueID { return core.QueueID(fmt.Sprintf("q%04d", i)) }
func agentID(i int) core.AgentID { return core.AgentID(fmt.Sprintf("a%05d", i)) }

// call lets a caller come to a queue, with a requirement or none.
func (l *load) call(tb testing.TB, q core.QueueID, skills map[string]int) core.InteractionID {
	l.next++
	l.now++
	e := acd.Entry{ID: core.InteractionID(fmt.Sprint("int_", l.next)), Queue: q, Skills: skills, ArrivedAt: l.now, Priority: l.dice.IntN(3)}
	if err := l.Enqueue(l.now, e); err != nil {
		tb.Fatal(err)
	}
	return e.ID
}

// wish is what every fourth caller requires.
func (l *load) wish(i int) map[string]int {
	if i/l.queues%4 == 3 {
		return map[string]int{"a": 1}
	}
	return nil
}

// fill gives everybody a call, and lets callers wait.
func (l *load) fill(tb testing.TB) {
	for i := range l.agents {
		id := l.call(tb, queueID(i%l.queues), nil)
		for _, r := range l.Match(l.now) {
			_ = l.Progress(l.now, r.Agent, acd.Talking)
		}
		l.Leave(l.now, id)
	}
	l.kinds = make(map[core.InteractionID]int)
	for i := range l.waiting {
		l.kinds[l.call(tb, queueID(i%l.queues), l.wish(i))] = i
	}
}

// busy runs n interactions with everybody busy and callers waiting: an agent ends a call,
// gets the next, answers, and a caller of the same kind comes.
func (l *load) busy(tb testing.TB, n int) {
	served := 0
	for range n {
		l.now++
		_ = l.Release(l.now, agentID(l.dice.IntN(l.agents)), acd.Done, 0)
		for _, r := range l.Match(l.now) {
			_ = l.Progress(l.now, r.Agent, acd.Ringing)
			_ = l.Progress(l.now, r.Agent, acd.Talking)
			i := l.kinds[r.Interaction]
			delete(l.kinds, r.Interaction)
			l.kinds[l.call(tb, r.Queue, l.wish(i))] = i
			served++
		}
		l.Match(l.now)
	}
	if n > 100 && served < n*9/10 {
		tb.Fatalf("%d of %d interactions were served: this measures something else", served, n)
	}
}

// quiet runs n interactions with everybody idle: a caller comes and is served.
func (l *load) quiet(tb testing.TB, n int) {
	for i := range n {
		l.now++
		id := l.call(tb, queueID(l.dice.IntN(l.queues)), l.wish(i*l.queues))
		made := l.Match(l.now)
		for _, r := range made {
			_ = l.Progress(l.now, r.Agent, acd.Ringing)
			_ = l.Progress(l.now, r.Agent, acd.Talking)
			_ = l.Release(l.now, r.Agent, acd.Done, 0)
		}
		if len(made) == 0 {
			l.Leave(l.now, id)
		}
		l.Match(l.now)
	}
}

// measure runs n interactions, not the first of this center, and returns the CPU time of
// one: other processes disturb that less than wall time.
func (l *load) measure(tb testing.TB, n int) float64 {
	run := l.quiet
	if l.waiting > 0 {
		run = l.busy
	}
	start := cpuTime()
	run(tb, n)
	return float64(cpuTime()-start) / float64(n)
}

func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func bench(name string, l load, b *testing.B) {
	b.Run(name, func(b *testing.B) {
		l := newLoad(l)
		if l.waiting > 0 {
			l.fill(b)
		}
		l.measure(b, 100)
		runtime.GC() // the garbage of the preparation
		b.ReportAllocs()
		b.ResetTimer()
		b.ReportMetric(l.measure(b, b.N), "cpu-ns/op")
	})
}

// BenchmarkMatch is the cost of one whole interaction (seven events) as the center grows,
// one dimension at a time. It must stay about level: asterisk#1215 and #1972 tell of a flood
// of device states with many queues and members.
//
//	go test ./server/core/acd -run xxx -bench . -benchtime 20000x
func BenchmarkMatch(b *testing.B) {
	base := load{queues: 10, agents: 1000, waiting: 1000}
	both := func(name string, l load) {
		bench("busy/"+name, l, b)
		l.waiting = 0
		bench("quiet/"+name, l, b)
	}
	for _, n := range []int{1, 10, 100, 1000} {
		l := base
		l.queues = n
		both(fmt.Sprint("queues=", n), l)
	}
	for _, n := range []int{10, 100, 1000, 10_000} {
		l := base
		l.agents = n
		both(fmt.Sprint("agents=", n), l)
	}
	for _, n := range []int{10, 100, 1000, 10_000} {
		l := base
		l.waiting = n
		bench(fmt.Sprint("busy/waiting=", n), l, b)
	}
	both("all=large", load{queues: 1000, agents: 10_000, waiting: 10_000})
	both("every_agent_in_every_queue", load{queues: 1000, agents: 10_000, waiting: 10_000, every: true})
	both("every_agent_with_own_skills", load{queues: 10, agents: 10_000, waiting: 10_000, unique: true})
}

// TestCostStaysLevel compares centers of which one is a hundred times the other. What visits
// every agent, entry or queue costs a hundred times as much; the bound leaves room for
// caches and for other work on this machine.
func TestCostStaysLevel(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for a second")
	}
	for _, c := range []struct {
		name         string
		small, large load
	}{
		{"agents", load{queues: 5, agents: 60}, load{queues: 5, agents: 6000}},
		{"waiting", load{queues: 5, agents: 60, waiting: 60}, load{queues: 5, agents: 60, waiting: 6000}},
		{"queues", load{queues: 5, agents: 600, waiting: 600}, load{queues: 500, agents: 600, waiting: 600}},
		{"queues of each agent", load{queues: 3, agents: 100, waiting: 300, every: true}, load{queues: 300, agents: 100, waiting: 300, every: true}},
		{"skill sets", load{queues: 5, agents: 60, waiting: 60}, load{queues: 5, agents: 6000, waiting: 60, unique: true}},
	} {
		least := func(l load) float64 {
			x := newLoad(l)
			if l.waiting > 0 {
				x.fill(t)
			}
			cost := x.measure(t, 500)
			for range 6 {
				cost = min(cost, x.measure(t, 500))
			}
			return cost
		}
		small, large := least(c.small), least(c.large)
		t.Logf("%s: %.1f us, %.1f us", c.name, small/1000, large/1000)
		if large > 12*small {
			t.Errorf("%s: an interaction costs %.1f us, in a center a hundred times as large %.1f us", c.name, small/1000, large/1000)
		}
	}
}
