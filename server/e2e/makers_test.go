package e2e

import (
	"testing"
	"time"
)

func TestBaresipAgentTakesACall(t *testing.T) {
	t.Parallel()
	for name, tcp := range map[string]bool{"UDP": false, "TCP": true} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, commonServer(t), 1, "")
			agent := baresipAgent(t, d, 0, account{tone: agentTone, tcp: tcp})
			caller := dials(t, d, "caller", callerTone)
			d.reaches(t, 0, "ready", "talking")
			soon(t, "the caller", hearing(caller), agentTone, 0.8)
			soon(t, "baresip", agent.heard, callerTone, 1)
			agent.hangUp()
			if cause := over(t, caller); cause != "remote" {
				t.Errorf("the caller's call ended by %s", cause)
			}
			if r := d.record(t); r.Termination.Reason != "agent_hangup" {
				t.Errorf("the record: %s", r)
			}
		})
	}
}

func TestBaresipCalls(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	caller := startBaresip(t, account{server: d.s, user: "caller", tone: callerTone})
	caller.dial(d.uri())
	caller.told("CALL_ESTABLISHED")
	musicComes(t, "baresip", caller.heard)
	call := answers(t, joins(t, d, 0, agentTone))
	soon(t, "baresip", caller.heard, agentTone, 1)
	soon(t, "the agent", hearing(call), callerTone, 0.8)
	caller.hangUp()
	if cause := over(t, call); cause != "remote" {
		t.Errorf("the agent's call ended by %s", cause)
	}
	if r := d.record(t); r.Termination.Reason != "caller_hangup" {
		t.Errorf("the record: %s", r)
	}
}

// livekit/sip#779: hold hangs up the call; jambonz/sbc-outbound#123: one way after resume.
func TestBaresipAgentHoldsAndResumes(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := baresipAgent(t, d, 0, account{tone: agentTone})
	caller := startBaresip(t, account{server: d.s, user: "caller", tone: callerTone})
	caller.dial(d.uri())
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller", caller.heard, agentTone, 1)
	soon(t, "the agent", agent.heard, callerTone, 1)
	agent.command("hold", "")
	d.reaches(t, 0, "ready", "held")
	musicComes(t, "the held caller", since(caller.heard))
	agent.command("resume", "")
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller after the hold", since(caller.heard), agentTone, 1)
	caller.hangUp()
	agent.told("CALL_CLOSED")
	if r := d.record(t); r.did("held") != 1 || r.did("resumed") != 1 {
		t.Errorf("the record: %s", r)
	}
}

// The caller may hold too; the one who held hears again afterwards.
func TestBaresipIsHeldAndResumed(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := baresipAgent(t, d, 0, account{tone: agentTone})
	caller := dials(t, d, "caller", callerTone)
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	if err := caller.Hold(soonish(t)); err != nil {
		t.Fatal(err)
	}
	d.reaches(t, 0, "ready", "held")
	musicComes(t, "the held agent", since(agent.heard))
	caller.Media.Forget()
	if err := caller.Resume(soonish(t)); err != nil {
		t.Fatal(err)
	}
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller after the hold", hearing(caller), agentTone, 0.8)
	soon(t, "the agent after the hold", since(agent.heard), callerTone, 1)
	hangsUp(t, caller)
	agent.told("CALL_CLOSED")
}

func TestLinphoneAgentTakesACallAndPauses(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := linphoneAgent(t, d, 0, account{tone: agentTone})
	caller := startBaresip(t, account{server: d.s, user: "caller", tone: callerTone})
	caller.dial(d.uri())
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller", caller.heard, agentTone, 1.5)
	agent.command("pause")
	d.reaches(t, 0, "ready", "held")
	musicComes(t, "the held caller", since(caller.heard))
	soon(t, "linphone", agent.heard, callerTone, 1)
	agent.record()
	agent.command("resume 1")
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller after the pause", since(caller.heard), agentTone, 1.5)
	agent.command("terminate")
	caller.told("CALL_CLOSED")
	soon(t, "linphone after the pause", agent.heard, callerTone, 1)
	if r := d.record(t); r.Termination.Reason != "agent_hangup" || r.did("held") != 1 || r.did("resumed") != 1 {
		t.Errorf("the record: %s", r)
	}
}

func TestLinphoneCalls(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	caller := startLinphone(t, account{server: d.s, user: "caller", tone: callerTone})
	caller.command("call " + d.uri())
	caller.shows("Media streams established")
	call := answers(t, joins(t, d, 0, agentTone))
	soon(t, "the agent", hearing(call), callerTone, 0.8)
	soon(t, "the agent, who stays on", func() samples { call.Media.Forget(); time.Sleep(1200 * time.Millisecond); return hearing(call)() }, callerTone, 0.8)
	hangsUp(t, call)
	caller.shows("ended")
	soon(t, "linphone", caller.heard, agentTone, 1)
	if r := d.record(t); r.Termination.Reason != "agent_hangup" {
		t.Errorf("the record: %s", r)
	}
}

func TestBaresipTalksWithLinphone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := linphoneAgent(t, d, 0, account{tone: agentTone})
	caller := startBaresip(t, account{server: d.s, user: "caller", tone: callerTone})
	caller.dial(d.uri())
	d.reaches(t, 0, "ready", "talking")
	soon(t, "baresip", caller.heard, agentTone, 3)
	caller.hangUp()
	agent.shows("ended")
	soon(t, "linphone", agent.heard, callerTone, 2)
	d.reaches(t, 0, "ready", "idle")
	if r := d.record(t); r.Termination.Reason != "caller_hangup" {
		t.Errorf("the record: %s", r)
	}
}
