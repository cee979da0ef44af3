package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// cell is one field of the failover matrix: a call in some state, at the moment when its
// anchor dies.
type cell struct {
	testing.TB
	c       *cluster
	victim  *server
	at      *server // one that survives
	d       desk    // as the survivor shows it
	agent   *phone.Phone
	caller  *phone.Phone
	a, b    *phone.Call // the caller's side and the agent's
	outcome string
	gap     time.Duration // longest silence; 0: nobody talked
	before  int           // how often the victim had joined again
}

// story brings a call into a state, and says what became of it. A state in which something
// is on its way is made by freezing the victim first: it receives nothing any more.
type story struct {
	state string
	desk  string
	begin func(*cell)
	after func(*cell)
}

func (x *cell) freeze() {
	x.Helper()
	if err := x.victim.Process.Signal(syscall.SIGSTOP); err != nil {
		x.Fatal(err)
	}
}

// mend brings the victim back.
func (x *cell) mend() {
	_ = x.victim.Process.Signal(syscall.SIGCONT)
	if !x.victim.running() {
		x.victim.start(x)
		return
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if x.rejoined() == x.before {
			continue // it does not know yet
		}
		if status, _ := x.victim.ask("GET", "/readyz", "", "", ""); status == 200 {
			return
		}
	}
	x.Error("the node does not come back")
}

// rejoined counts how often the victim found itself fenced, and began again.
func (x *cell) rejoined() int {
	text, _ := os.ReadFile(x.victim.log)
	return strings.Count(string(text), "joining again")
}

func (x *cell) rings() {
	x.Helper()
	x.dial()
	x.b = rings(x, x.agent)
}

func (x *cell) dial() {
	x.Helper()
	var err error
	if x.a, err = x.caller.Call(soonish(x), x.d.uri()); err != nil {
		x.Fatal(err)
	}
}

// joins has the agent's phone register, at a node that survives.
func (x *cell) joins() {
	x.Helper()
	x.agent = newPhone(x, x.at, x.d.agents[0], demoDomain, agentTone)
	if err := x.agent.Register(soonish(x), 5*time.Minute); err != nil {
		x.Fatal(err)
	}
	x.d.reaches(x, 0, "ready", "")
}

func (x *cell) talks() {
	x.Helper()
	x.joins()
	x.rings()
	if err := x.b.Answer(soonish(x)); err != nil {
		x.Fatal(err)
	}
	hearEachOther(x, x.a, x.b, callerTone, agentTone)
	x.a.Media.Forget()
	x.b.Media.Forget()
}

func (x *cell) goesOn(outcome string) {
	x.Helper()
	x.gap = hearEachOther(x, x.a, x.b, callerTone, agentTone)
	x.outcome = outcome
}

// answered has the agent take the call that rings (again), and both talk.
func (x *cell) answered(outcome string) {
	x.Helper()
	x.b = answers(x, x.agent)
	soon(x, "the caller", hearing(x.a), agentTone, 0.8)
	soon(x, "the agent", hearing(x.b), callerTone, 0.8)
	x.outcome = outcome
}

// recorded waits for the end of the call and its record.
func (x *cell) recorded(outcome string) {
	x.Helper()
	eventually(x, "the call is on record, once", func() bool {
		n := 0
		for _, s := range x.c.nodes {
			if s.running() && s != x.victim {
				n += len(s.interactions(x, "ended", x.d.queue))
			}
		}
		return n == 1
	})
	x.outcome = outcome
}

func stories() []story {
	return []story{
		{"INVITE received, nothing stored", "", func(x *cell) {
			x.freeze()
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			_, _ = x.caller.Call(ctx, x.d.uri())
		}, func(x *cell) {
			x.joins()
			x.caller = newPhone(x, x.at, "again", demoDomain, callerTone)
			x.dial()
			x.answered("not accepted: the caller dials the next node")
		}},
		{"queued", "", func(x *cell) { x.dial(); musicPlays(x, "the caller", hearing(x.a)) }, func(x *cell) {
			musicPlays(x, "the caller", hearing(x.a))
			x.joins()
			x.answered("survived: place and wait clock kept")
		}},
		{"offered, the agent's phone rings", "", func(x *cell) { x.joins(); x.rings() }, func(x *cell) {
			over(x, x.b)
			x.answered("re-offered, place kept")
		}},
		{"offered, the agent answers at this moment", "", func(x *cell) {
			x.joins()
			x.rings()
			time.Sleep(200 * time.Millisecond) // a person's: meanwhile it is on record that the phone rings
			x.freeze()
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			_ = x.b.Answer(ctx)
		}, func(x *cell) {
			over(x, x.b)
			x.answered("re-offered, place kept")
		}},
		{"bridged", "", func(x *cell) { x.talks() }, func(x *cell) { x.goesOn("survived") }},
		{"held by the caller", "", func(x *cell) {
			x.talks()
			if err := x.a.Hold(soonish(x)); err != nil {
				x.Fatal(err)
			}
		}, func(x *cell) {
			eventually(x, "the call is taken over", func() bool { return recovered(x) })
			time.Sleep(300 * time.Millisecond) // what the phones are told is answered
			if err := x.a.Resume(soonish(x)); err != nil {
				x.Fatal(err)
			}
			x.a.Media.Forget()
			x.b.Media.Forget()
			x.goesOn("survived: held, and resumed at the new anchor")
			x.gap = 0
		}},
		{"the caller's BYE is on its way", "", func(x *cell) {
			x.talks()
			x.freeze()
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			_ = x.a.HangUp(ctx)
		}, func(x *cell) {
			over(x, x.b)
			x.recorded("ended, with its record; the agent is free")
			x.d.reaches(x, 0, "ready", "idle")
		}},
		{"wrap-up", `{"wrap_up_s":6}`, func(x *cell) {
			x.talks()
			hangsUp(x, x.a)
			over(x, x.b)
			x.d.reaches(x, 0, "", "wrap_up")
		}, func(x *cell) {
			if a := x.d.agent(x, 0); a.State != "wrap_up" {
				x.Errorf("the agent is %s", a.State)
			}
			x.d.reaches(x, 0, "ready", "idle")
			x.outcome = "kept: it ends at its time"
		}},
	}
}

func recovered(x *cell) bool {
	for _, i := range x.at.interactions(x, "live", x.d.queue) {
		if i.did("recovered") > 0 {
			return true
		}
	}
	return false
}

// What becomes of a call whose anchor dies, by its state: run for real, and written down.
// The file is what operators read; the test fails when it is not what happened.
func TestFailoverMatrix(t *testing.T) {
	file := os.Getenv("DIALTONE_FAILOVER")
	if file == "" {
		t.Skip("takes minutes: make test-cluster")
	}
	c := startCluster(t, 3)
	var table strings.Builder
	faults := []struct {
		name  string
		apply func(*cell)
	}{
		{"kill -9", func(x *cell) { x.victim.kill() }},
		{"stopped for 3 s (SIGSTOP)", func(x *cell) {
			x.freeze()
			v := x.victim
			time.AfterFunc(3*time.Second, func() { _ = v.Process.Signal(syscall.SIGCONT) })
		}},
	}
	for _, f := range faults {
		for i, s := range stories() {
			t.Run(f.name+"/"+s.state, func(t *testing.T) {
				x := &cell{TB: t, c: c, victim: c.nodes[i%3], at: c.nodes[(i+1)%3], d: c.desk(t, 1, s.desk)}
				x.d = x.d.at(x.at)
				x.caller = newPhone(t, x.victim, "caller", demoDomain, callerTone)
				x.before = x.rejoined()
				defer x.mend()
				s.begin(x)
				f.apply(x)
				s.after(x)
				gap := "-"
				if x.gap > 0 {
					gap = fmt.Sprintf("%d ms", x.gap.Milliseconds())
				}
				fmt.Fprintf(&table, "| %s | %s | UDP | %s | %s |\n", s.state, f.name, x.outcome, gap)
			})
		}
	}
	text := failoverHead + table.String()
	if t.Failed() {
		return
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const failoverHead = `# What becomes of a call when its anchor dies

Made by ` + "`make test-cluster`" + `: three nodes, three members of etcd, real phones, real faults; one run each.
The audio gap is the longest silence that either party heard.

| state of the call | fault | transport | outcome | audio gap |
|---|---|---|---|---|
`
