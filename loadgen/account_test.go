package loadgen

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

func ofFive(t *testing.T) *profile.Profile {
	t.Helper()
	caller, err := profile.ParsePattern("9{n:7}")
	if err != nil {
		t.Fatal(err)
	}
	return &profile.Profile{Caller: caller, Agents: profile.Agents{Count: 5}}
}

// halves are what the two workers tell of call i, which is answered at once and lasts a second.
func halves(p *profile.Profile, i int64) (caller, agent measure.Call) {
	w := worker{job: cluster.Job{Profile: *p}}
	start := measure.Micros(i) * 1_000_000
	caller, agent = w.blank(i), w.blank(i)
	caller.Due, caller.Invited, caller.Answered, caller.HungUp, caller.Ended, caller.Status = start, start, start+1000, start+1_000_000, start+1_001_000, 200
	agent.Agent, agent.Offers, agent.Offered, agent.AgentAnswer, agent.AgentAck, agent.OtherBye, agent.Ended = "1001", 1, start+500, start+1000, start+1500, start+1_000_500, start+1_001_000
	return caller, agent
}

// forgotten is the half of an agent whom the server never tells that the caller has gone: it waits
// as long as an agent does and gives up.
func forgotten(agent measure.Call) measure.Call {
	agent.OtherBye = measure.Never
	agent.HungUp = agent.AgentAnswer + 1_000_000 + micros(grace)
	agent.Ended = agent.HungUp + micros(byeWait)
	agent.Outcome, agent.Reason = measure.Failed, "the caller's BYE did not come"
	return agent
}

// A server that swallows the BYE is found out, however long the load goes on meanwhile.
func TestAnAgentWhomNobodyToldIsAFailedCall(t *testing.T) {
	p := ofFive(t)
	a := newAccount(p)
	var waiting []measure.Call // agents' halves that have not come yet
	const calls, swallowed = 120, 7
	for i := range int64(calls) {
		caller, agent := halves(p, i)
		if i == swallowed {
			agent = forgotten(agent)
		}
		waiting = append(waiting, agent)
		up := cluster.Up{Halves: []measure.Call{caller}}
		waiting = slices.DeleteFunc(waiting, func(half measure.Call) bool {
			if half.Ended > caller.Ended {
				return false
			}
			up.Halves = append(up.Halves, half)
			return true
		})
		a.take(up)
	}
	a.close()
	c := a.recorder.Counts()
	if c.Failed != 1 || c.Completed != calls-1 || c.Offered != calls || len(a.invalid) != 0 || len(a.unlikely) != 0 {
		t.Errorf("%+v, %q, %q", c, a.invalid, a.unlikely)
	}
}

// What comes later than any agent should take, or without a caller, is not in the counts: the run
// must not pass. Calls from elsewhere are only told of.
func TestAnOrphanOfThisLoadMakesTheRunInvalid(t *testing.T) {
	p := ofFive(t)
	caller, agent := halves(p, 3)
	other, _ := halves(p, 4)
	late := forgotten(agent)
	other.Ended = caller.Ended + halvesLinger + 1 // the first one is let go
	late.Ended = other.Ended
	stranger := agent
	stranger.Index, stranger.Caller = -1, "anybody"
	for name, c := range map[string]struct {
		halves          []measure.Call
		invalid, wonder int
	}{
		"too late":      {[]measure.Call{caller, other, late}, 1, 0},
		"no caller":     {[]measure.Call{agent}, 1, 0},
		"not this load": {[]measure.Call{caller, agent, stranger}, 0, 1},
		"together":      {[]measure.Call{agent, caller}, 0, 0},
	} {
		a := newAccount(p)
		a.take(cluster.Up{Halves: c.halves})
		r := run{profile: p, account: a, plan: new(arrival.Schedule), members: []*cluster.Member{{}}, told: make([]tells, 1), start: time.Now(), end: time.Now()}
		res, err := r.result()
		if err != nil {
			t.Fatal(err)
		}
		if len(a.invalid) != c.invalid || len(a.unlikely) != c.wonder || c.invalid > 0 && !strings.Contains(strings.Join(res.Invalid, " "), "agents had calls of this load") {
			t.Errorf("%s: %q, %q; the result says %q", name, a.invalid, a.unlikely, res.Invalid)
		}
	}
}
