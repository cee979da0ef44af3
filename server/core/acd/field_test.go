package acd_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// What went wrong elsewhere, told with the commands of script_test.go. Below each command
// that prints, after "|", what it must print here.

func story(t *testing.T, text string) {
	t.Helper()
	p := &play{desk: acd.New()}
	var command, want, got string
	check := func() {
		if strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s\nprints\n%s\nmust print\n%s", command, got, want)
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if out, isWanted := strings.CutPrefix(line, "|"); isWanted {
			want += strings.TrimSpace(out) + "\n"
			continue
		}
		check()
		command, want, got = line, "", p.run(line)
		if err := p.desk.Valid(); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	check()
}

// asterisk#176: a queue call was answered by two agents. Here an interaction is with one
// agent, until that one's Release, and a second cannot have it by any way.
func TestOneInteractionOneAgent(t *testing.T) {
	story(t, `
		queue q
		queue r
		agent a queues=q
		agent b queues=q,r
		login a b
		at 1s
		enqueue i queue=q
		match
		| i -> a (q)
		match
		| nothing
		progress b talking
		| error: not possible in the agent's state
		leave i
		enqueue i queue=r
		match
		| nothing
		restore b status=ready state=ringing int=i
		| error: not possible in the agent's state
		progress a talking
		enqueue i queue=r
		| error: the interaction waits already, or an agent talks with it
		match
		| nothing`)
}

// Agents that received two calls at once (the Wazo manual on ASTERISK-16115), and
// freeswitch#2540, agents stuck Reserved by a race: between reservation and release an
// agent gets nothing, and one release makes it free.
func TestOneAgentOneInteraction(t *testing.T) {
	for _, steps := range []string{"", "progress a ringing", "progress a talking", "progress a talking\nprogress a held"} {
		outcome := "withdrawn"
		if strings.Contains(steps, "talking") {
			outcome = "done"
		}
		story(t, `
			queue q
			agent a queues=q
			login a
			at 1s
			enqueue i queue=q
			enqueue j queue=q
			match
			| i -> a (q)
			`+steps+`
			match
			| nothing
			reach a no
			reach a yes
			status a ready
			status a not_ready
			status a ready
			agent a queues=q skills=x:1
			match
			| nothing
			leave i
			match
			| nothing
			release a `+outcome+`
			match
			| j -> a (q)`)
	}
}

// asterisk#1557: the caller hangs up, or the call ends, between answer and bridge, and other
// ringing agents were dropped with it. Here an end touches its own agent and no other.
func TestEndTouchesItsOwnAgent(t *testing.T) {
	story(t, `
		queue q
		agent a queues=q
		agent b queues=q
		login a b
		at 1s
		enqueue i queue=q
		enqueue j queue=q
		match
		| i -> a (q)
		| j -> b (q)
		progress a ringing
		progress b ringing
		progress a talking
		leave i
		release a done
		look b
		| b: ready ringing since 1s, idle clock -, with j, offered 1s, missed 0
		place j
		| j is 1`)
}

// asterisk#1741: one call was counted several times, which skewed the choice of agents. What
// comes twice counts once: round robin goes by offers made, and repeats change nothing.
func TestRepeatsCountOnce(t *testing.T) {
	story(t, `
		queue q strategy=round_robin
		agent a queues=q
		agent b queues=q
		login a b
		at 1s
		enqueue i queue=q
		match
		| i -> a (q)
		progress a ringing
		at 2s
		progress a ringing
		progress a talking
		progress a talking
		release a done
		release a done
		| error: not possible in the agent's state
		release a no_answer
		| error: not possible in the agent's state
		look a
		| a: ready idle since 2s, idle clock 2s, offered 1s, missed 0
		enqueue j queue=q
		match
		| j -> b (q)`)
}

// asterisk#1006: wrap-up ended early and the agent got the next call; asterisk#1255: a
// reload of the members forgot it. Neither time before the end, nor status, reachability,
// configuration or restart ends it.
func TestWrapUpIsNotEndedEarly(t *testing.T) {
	for _, event := range []string{"", "at 29.999s\nexpire\n| ended: []", "status a ready", "status a not_ready\nstatus a ready",
		"status a logged_out\nlogin a", "reach a no\nreach a yes", "agent a queues=q skills=x:1", "queue q ageing=5",
		"restore a status=ready state=wrap_up until=30s"} {
		story(t, `
			queue q
			agent a queues=q
			login a
			at 1s
			enqueue i queue=q
			match
			| i -> a (q)
			progress a talking
			at 10s
			release a done wrapup=20s
			enqueue j queue=q
			`+event+`
			match
			| nothing
			deadline
			| deadline 30s
			at 30s
			expire
			| ended: [a]
			match
			| j -> a (q)`)
	}
}

// opensips#2679: freed agents waited for the last one's wrap-up. Each has its own.
func TestWrapUpIsEachAgentsOwn(t *testing.T) {
	story(t, `
		queue q
		agent a queues=q
		agent b queues=q
		agent c queues=q
		login a b c
		at 1s
		enqueue i queue=q
		enqueue j queue=q
		enqueue k queue=q
		match
		| i -> a (q)
		| j -> b (q)
		| k -> c (q)
		progress a talking
		progress b talking
		progress c talking
		release a done wrapup=100s
		release b done wrapup=2s
		release c done wrapup=3s
		enqueue l queue=q
		enqueue m queue=q
		deadline
		| deadline 3s
		at 3s
		expire
		| ended: [b]
		match
		| l -> b (q)
		at 4s
		expire
		| ended: [c]
		match
		| m -> c (q)
		deadline
		| deadline 1m41s`)
}

// chatwoot#15524: two ways of assignment raced and overwrote each other. There is one way,
// and whoever asks twice is told once; chatwoot#10583: what waits is assigned as soon as an
// agent is free.
func TestOneWayOfAssignment(t *testing.T) {
	story(t, `
		queue q
		agent a queues=q
		at 1s
		enqueue i queue=q
		enqueue j queue=q
		match
		| nothing
		login a
		match
		| i -> a (q)
		match
		| nothing
		progress a talking
		match
		| nothing
		release a done
		match
		| j -> a (q)`)
}

// freeswitch#2511: the eighth caller was connected first. Callers come out as they came in,
// whatever is offered, refused, withdrawn and offered again between.
func TestFirstComeFirstServed(t *testing.T) {
	c := acd.New()
	c.PutQueue(tenant.Queue{ID: "q", MaxWaiting: 100, AgeingS: 60})
	const agents, callers = 3, 40
	for i := range agents {
		id := core.AgentID(fmt.Sprint(i))
		c.PutAgent(tenant.Agent{ID: id, Queues: []core.QueueID{"q"}})
		c.SetReachable(0, id, true)
		c.SetStatus(0, id, acd.Ready, "")
	}
	for i := range callers { // their ids, and the order of their coming to the queue, are not that of arrival
		n := (i*17)%callers + 1
		if err := c.Enqueue(100, acd.Entry{ID: core.InteractionID(fmt.Sprint(1000 - n)), Queue: "q", ArrivedAt: core.Time(n)}); err != nil {
			t.Fatal(err)
		}
	}
	answered := 0
	failures := []acd.Outcome{acd.NoAnswer, acd.Rejected, acd.Busy, acd.Unreachable, acd.Withdrawn}
	for step := 0; answered < callers; step++ {
		now := core.Time(1000 + step)
		for i, r := range c.Match(now) {
			want := fmt.Sprint(1000 - (answered + i + 1))
			if string(r.Interaction) != want {
				t.Fatalf("step %d: %s is offered to agent %s, want %s", step, r.Interaction, r.Agent, want)
			}
		}
		for i := range agents {
			id := core.AgentID(fmt.Sprint(i))
			a, _ := c.Agent(id)
			if a.State != acd.Reserved {
				continue
			}
			if step%2 == 0 {
				if err := c.Release(now, id, failures[(step/2+i)%len(failures)], 0); err != nil {
					t.Fatal(err)
				}
				c.SetStatus(now, id, acd.Ready, "")
				continue
			}
			answered++
			_ = c.Progress(now, id, acd.Talking)
			_ = c.Release(now, id, acd.Done, 0)
		}
		if step > 10*callers {
			t.Fatal("nobody is served")
		}
	}
}

// freeswitch#2529: the caller hung up and the agent was rung on. Leave keeps the agent from
// others until the offer is withdrawn, and the withdrawal costs the agent nothing.
func TestCallerGoneWhileRinging(t *testing.T) {
	story(t, `
		queue q
		agent a queues=q
		agent b queues=q
		at 1s
		login a
		at 2s
		login b
		enqueue i queue=q
		match
		| i -> a (q)
		progress a ringing
		leave i
		place i
		| i is 0
		release a withdrawn
		progress a talking
		| error: not possible in the agent's state
		enqueue j queue=q
		match
		| j -> a (q)`)
}

// freeswitch#1062: the queue froze with an agent stuck in Receiving; freeswitch#1641: the
// thread that offered calls was dead. Whatever ends an offer, the caller goes to the next.
func TestAgentThatNeverAnswersStopsNobody(t *testing.T) {
	for _, outcome := range []string{"no_answer", "rejected", "busy", "unreachable"} {
		story(t, `
			queue q
			agent a queues=q
			agent b queues=q
			login a b
			at 1s
			enqueue i queue=q
			enqueue j queue=q
			enqueue k queue=q
			match
			| i -> a (q)
			| j -> b (q)
			progress a ringing
			progress b talking
			release b done
			match
			| k -> b (q)
			progress b talking
			at 21s
			release a `+outcome+`
			release b done
			match
			| i -> b (q)`)
	}
}

// amazon-connect-streams#292: a rejected call kept ringing the same agent. It gets nothing
// until somebody declares it Ready; kazoo#6609: an agent who missed calls was out of the
// queue for ever. Why it is out can be seen, and Ready brings it back.
func TestMissedCalls(t *testing.T) {
	for outcome, reason := range map[string]string{"no_answer": "rona", "rejected": "rejected", "busy": "busy", "unreachable": "unreachable"} {
		story(t, `
			queue q
			agent a queues=q
			login a
			at 1s
			enqueue i queue=q
			match
			| i -> a (q)
			at 2s
			release a `+outcome+`
			match
			| nothing
			at 1000s
			expire
			| ended: []
			match
			| nothing
			look a
			| a: not_ready{`+reason+`} idle since 2s, idle clock -, offered 1s, missed 1
			show q
			| q: 1 waiting since 1s, 0 ready 0 busy 1 not ready, staffed true
			status a ready
			match
			| i -> a (q)`)
	}
}

// amazon-connect-streams#241: a failed call flipped an agent on break to available. No
// outcome makes an agent more available than declared.
func TestBreakStaysABreak(t *testing.T) {
	for _, declared := range []string{"not_ready lunch", "logged_out"} {
		shown := map[string]string{"not_ready lunch": "not_ready{lunch}", "logged_out": "logged_out"}[declared]
		for _, outcome := range []string{"no_answer", "rejected", "busy", "unreachable", "withdrawn", "done", "done wrapup=1s"} {
			answer, missed, clock := "", 1, "-"
			if strings.HasPrefix(outcome, "done") {
				answer, missed = "progress a talking", 0
				clock = map[bool]string{true: "3s", false: "2s"}[outcome != "done"]
			}
			if outcome == "withdrawn" {
				missed = 0
			}
			since := map[bool]string{true: "3s", false: "2s"}[outcome == "done wrapup=1s"]
			expired := map[bool]string{true: "a", false: ""}[outcome == "done wrapup=1s"]
			story(t, fmt.Sprintf(`
				queue q
				agent a queues=q
				login a
				at 1s
				enqueue i queue=q
				match
				| i -> a (q)
				%s
				status a %s
				at 2s
				release a %s
				at 10s
				expire
				| ended: [%s]
				look a
				| a: %s idle since %s, idle clock %s, offered 1s, missed %d
				match
				| nothing`, answer, declared, outcome, expired, shown, since, clock, missed))
		}
	}
}

// kazoo#2464: an agent with two devices got a ghost call when one of them refused. Devices
// are not known here: an agent is reachable or not, has one offer for all of them, and stays
// in the offer when one device goes.
func TestTwoDevicesAreOneAgent(t *testing.T) {
	story(t, `
		queue q
		agent a queues=q
		login a
		reach a yes
		at 1s
		enqueue i queue=q
		enqueue j queue=q
		match
		| i -> a (q)
		reach a no
		reach a yes
		progress a ringing
		match
		| nothing
		progress a talking
		match
		| nothing`)
}

// asterisk#66: the reason of a pause was lost in a restart.
func TestReasonSurvivesRestart(t *testing.T) {
	story(t, `
		queue q
		agent a queues=q
		at 100s
		restore a status=not_ready reason=training state=idle idle=5s since=7s
		reach a yes
		look a
		| a: not_ready{training} idle since 7s, idle clock 5s, offered -, missed 0`)
}

// A place is a place: what comes back from an offer is before those that came later, by
// whatever way it comes back (design: priority, then first arrival, through every failover).
func TestPlaceIsKept(t *testing.T) {
	for _, back := range []string{"release a no_answer", "release a withdrawn", "drop-agent a",
		"restore a status=not_ready state=idle", "leave i1\nrelease a withdrawn\nrequeue i1 queue=q arrived=1s"} {
		story(t, `
			queue q ageing=60
			agent a queues=q
			agent b queues=q
			login a
			at 1s
			enqueue i1 queue=q
			at 2s
			enqueue i2 queue=q
			match
			| i1 -> a (q)
			place i1
			| i1 is 1
			place i2
			| i2 is 2
			status a not_ready
			`+back+`
			place i1
			| i1 is 1
			login b
			match
			| i1 -> b (q)`)
	}
}

// Requirements that never come again do not pile up.
func TestLinesDoNotPileUp(t *testing.T) {
	c := acd.New()
	c.PutQueue(tenant.Queue{ID: "q", MaxWaiting: 10})
	c.PutAgent(tenant.Agent{ID: "a", Queues: []core.QueueID{"q"}, Skills: map[string]int{"s7": 9}})
	c.SetReachable(0, "a", true)
	keep := core.InteractionID("keep")
	if err := c.Enqueue(1, acd.Entry{ID: keep, Queue: "q", ArrivedAt: 1, Skills: map[string]int{"s7": 9}}); err != nil {
		t.Fatal(err)
	}
	c.SetStatus(2, "a", acd.Ready, "")
	if made := c.Match(2); len(made) != 1 || made[0].Interaction != keep {
		t.Errorf("matched %v", made)
	}
	for i := range 5000 { // its line is empty now, but not done with
		id := core.InteractionID(fmt.Sprint(i))
		if err := c.Enqueue(1, acd.Entry{ID: id, Queue: "q", ArrivedAt: 1, Skills: map[string]int{fmt.Sprint("s", i): 9}}); err != nil {
			t.Fatal(err)
		}
		c.Match(1)
		c.Leave(1, id)
		if i%500 == 0 {
			if err := c.Valid(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := acd.Lines(c); n > 2000 {
		t.Errorf("%d lines are kept for one entry", n)
	}
	if err := c.Release(3, "a", acd.Withdrawn, 0); err != nil {
		t.Error(err)
	}
	if made := c.Match(3); len(made) != 1 || made[0].Interaction != keep {
		t.Errorf("matched %v", made)
	}
	if err := c.Valid(); err != nil {
		t.Error(err)
	}
}
