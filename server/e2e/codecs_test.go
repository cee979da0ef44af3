package e2e

import (
	"testing"
	"time"
)

// Two phones that share no law of G.711 understand each other.
func TestPhonesOfDifferentLawsUnderstandEachOther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ caller, agent format }{"A-law calls u-law": {pcma(), pcmu()}, "u-law calls A-law": {pcmu(), pcma()}} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, commonServer(t), 1, "")
			mine, theirs := newMouth(t, c.caller, callerTone), newMouth(t, c.agent, agentTone)
			agent := sippAgent(t, d, 0, scenario{file: "agent", mouth: theirs})
			caller := sippCaller(t, d, scenario{file: "caller", mouth: mine})
			hearsClearly(t, "the caller", listenFor(mine.all, enoughClear(agentTone, 1)), agentTone, 1)
			hearsClearly(t, "the agent", listenFor(theirs.all, enoughClear(callerTone, 1)), callerTone, 1)
			caller.cue()
			caller.succeeds()
			agent.succeeds()
			r := d.record(t)
			for _, l := range r.Legs {
				if want := map[string]string{"caller": c.caller.name, "agent": c.agent.name}[l.Party]; l.Codec != want[:4] {
					t.Errorf("the record says %s speaks %s, not %s", l.Party, l.Codec, want)
				}
			}
		})
	}
}

// What the server can't decode it passes on, bit by bit.
func TestWidebandIsPassedThrough(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]format{"G722": g722(), "Opus": opus()} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, commonServer(t), 1, "")
			mine, theirs := newMouth(t, f, callerTone), newMouth(t, f, agentTone)
			agent := sippAgent(t, d, 0, scenario{file: "agent", mouth: theirs})
			caller := sippCaller(t, d, scenario{file: "caller", mouth: mine})
			eventually(t, "they hear each other", func() bool {
				return mine.hears(theirs) > 50 && theirs.hears(mine) > 50
			})
			caller.cue()
			caller.succeeds()
			agent.succeeds()
			d.record(t)
		})
	}
}

// The same with a phone that really speaks it.
func TestBaresipSpeaksWidebandWithBaresip(t *testing.T) {
	t.Parallel()
	for _, c := range []account{{codec: "G722", rate: 16000, channels: 1}, {codec: "opus", rate: 48000, channels: 2}} {
		t.Run(c.codec, func(t *testing.T) {
			d := newDesk(t, commonServer(t), 1, "")
			mine, theirs := c, c
			theirs.tone = agentTone
			agent := baresipAgent(t, d, 0, theirs)
			mine.tone, mine.server, mine.user = callerTone, d.s, "caller"
			caller := startBaresip(t, mine)
			caller.dial(d.uri())
			d.reaches(t, 0, "ready", "talking")
			soon(t, "the caller", caller.heard, agentTone, 1)
			soon(t, "the agent", agent.heard, callerTone, 1)
			caller.hangUp()
			agent.told("CALL_CLOSED")
			d.record(t)
		})
	}
}

// Digits pass end to end, each once, with their ends (RFC 4733 s.2.5).
func TestDigitsReachTheOtherSide(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	mine, theirs := newMouth(t, pcmu(), callerTone), newMouth(t, pcma(), agentTone) // transcoded, the digits are not
	agent := sippAgent(t, d, 0, scenario{file: "agent", mouth: theirs})
	caller := sippCaller(t, d, scenario{file: "caller", mouth: mine})
	hearsTone(t, "the caller", listenFor(mine.all, enoughTone(agentTone, 0.5)), agentTone, 0.5)
	mine.say("1729")
	theirs.say("46")
	eventually(t, "the digits have come", func() bool {
		a, _ := theirs.digits()
		b, _ := mine.digits()
		return len(a) >= 4 && len(b) >= 2
	})
	time.Sleep(short) // the last end is repeated
	if digits, ends := theirs.digits(); digits != "1729" || ends < 4 {
		t.Errorf("the agent got %q with %d ends", digits, ends)
	}
	if digits, ends := mine.digits(); digits != "46" || ends < 2 {
		t.Errorf("the caller got %q with %d ends", digits, ends)
	}
	hearsClearly(t, "the agent", listenFor(theirs.all, enoughClear(callerTone, 1)), callerTone, 1)
	caller.cue()
	caller.succeeds()
	agent.succeeds()
	d.record(t)
}
