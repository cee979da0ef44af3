package e2e

import (
	"testing"
	"time"
)

// Who is who by sound: neither a note of the hold music nor a multiple of the 50 Hz at which
// our own phone puts its stamps.
const (
	callerTone = 1130
	agentTone  = 1530
)

func enoughTone(hz, seconds float64) func(samples) bool {
	return func(s samples) bool { return s.tone(hz) >= seconds }
}

func enoughClear(hz, seconds float64) func(samples) bool {
	return func(s samples) bool { return s.clear(hz) >= seconds }
}

// A caller waits with music, reaches the agent, both hear each other, the caller hangs up.
func TestSippCallsSippAndHangsUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	mine, theirs := newMouth(t, pcmu(), callerTone), newMouth(t, pcmu(), agentTone)
	agent := sippAgent(t, d, 0, scenario{file: "agent", mouth: theirs})
	caller := sippCaller(t, d, scenario{file: "caller", mouth: mine})
	d.reaches(t, 0, "ready", "talking")
	hearsClearly(t, "the caller", listenFor(mine.all, enoughClear(agentTone, 1)), agentTone, 1)
	hearsClearly(t, "the agent", listenFor(theirs.all, enoughClear(callerTone, 1)), callerTone, 1)
	caller.cue()
	caller.succeeds()
	agent.succeeds()
	if agent.noted("hung up by the server") != 1 {
		t.Errorf("the agent was not hung up: %s", agent.read("log"))
	}
	d.reaches(t, 0, "ready", "idle")
	if r := d.record(t); r.Termination.Reason != "caller_hangup" || r.Termination.Result != "completed" || r.Agent != d.agents[0] || r.did("answered") != 1 {
		t.Errorf("the record: %s", r)
	}
}

func TestSippAgentHangsUp(t *testing.T) {
	t.Parallel()
	for name, tcp := range map[string]bool{"UDP": false, "TCP": true} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, commonServer(t), 1, "")
			mine, theirs := newMouth(t, pcmu(), callerTone), newMouth(t, pcmu(), agentTone)
			agent := sippAgent(t, d, 0, scenario{file: "agent-leaves", mouth: theirs, tcp: tcp, pause: 2 * time.Second})
			caller := sippCaller(t, d, scenario{file: "caller", mouth: mine, tcp: tcp})
			agent.succeeds()
			caller.succeeds()
			if caller.noted("hung up by the server") != 1 {
				t.Errorf("the caller was not hung up: %s", caller.read("log"))
			}
			hearsClearly(t, "the caller", mine.all(), agentTone, 1)
			hearsClearly(t, "the agent", theirs.all(), callerTone, 1)
			if r := d.record(t); r.Termination.Reason != "agent_hangup" || r.Termination.HungUpBy != "agent" {
				t.Errorf("the record: %s", r)
			}
		})
	}
}

func TestSippCallerHangsUpOverTCP(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	mine, theirs := newMouth(t, pcmu(), callerTone), newMouth(t, pcmu(), agentTone)
	agent := sippAgent(t, d, 0, scenario{file: "agent", mouth: theirs, tcp: true})
	caller := sippCaller(t, d, scenario{file: "brief", mouth: mine, tcp: true, pause: 4 * time.Second})
	caller.succeeds()
	agent.succeeds()
	hearsClearly(t, "the caller", mine.all(), agentTone, 1)
	hearsClearly(t, "the agent", theirs.all(), callerTone, 1)
	if r := d.record(t); r.Termination.Reason != "caller_hangup" {
		t.Errorf("the record: %s", r)
	}
}
