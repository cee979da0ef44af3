package measure

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// half makes the agent's view of a call that it answered at 5,000.
func agentHalf(with func(*Call)) Call {
	c := never()
	c.Caller, c.Agent, c.Offered, c.Offers = "100", "1001", 3_000, 1
	c.AgentRang, c.AgentAnswer, c.AgentAck, c.Ended = 3_100, 5_000, 5_900, 90_000
	c.AgentEar = &Audio{Voice: 7}
	with(&c)
	return c
}

func callerHalf(with func(*Call)) Call {
	c := never()
	c.Index, c.Caller, c.Outcome, c.Due, c.Invited, c.Answered, c.Ended = 4, "100", Completed, 1_000, 1_000, 2_000, 91_000
	c.CallerEar = &Audio{Voice: 9}
	with(&c)
	return c
}

func TestJoinSettlesTheOutcome(t *testing.T) {
	as := func(o Outcome) func(*Call) { return func(c *Call) { c.Outcome = o } }
	for name, story := range map[string]struct {
		caller Call
		agents []Call
		want   Outcome
		hungUp Micros
		other  Micros
	}{
		"the caller hangs up": {callerHalf(func(c *Call) { c.HungUp = 80_000 }), []Call{agentHalf(func(c *Call) { c.OtherBye = 80_700 })}, Completed, 80_000, 80_700},
		"the agent hangs up": {callerHalf(func(c *Call) { c.Outcome = Unanswered; c.OtherBye = 81_000 }),
			[]Call{agentHalf(func(c *Call) { c.HungUp = 80_100 })}, Completed, 80_100, 81_000},
		"both at once, the agent first": {callerHalf(func(c *Call) { c.HungUp, c.OtherBye = 80_000, 80_600 }),
			[]Call{agentHalf(func(c *Call) { c.HungUp, c.OtherBye = 79_900, 80_500 })}, Completed, 79_900, 80_600},
		"the server hangs up on both": {callerHalf(func(c *Call) { c.Outcome = Unanswered; c.OtherBye = 70_000 }),
			[]Call{agentHalf(func(c *Call) { c.OtherBye = 70_100 })}, Cut, Never, 70_100},
		"the server hangs up on the queue": {callerHalf(func(c *Call) { c.Outcome = Cut; c.OtherBye = 70_000 }), nil, Unanswered, Never, 70_000},
		"the caller gives up in the queue": {callerHalf(func(c *Call) { c.HungUp = 60_000 }), nil, Abandoned, 60_000, Never},
		"the agent does not answer, the caller gives up": {callerHalf(func(c *Call) { c.HungUp = 60_000 }),
			[]Call{agentHalf(func(c *Call) { c.AgentAnswer, c.AgentRang, c.AgentAck, c.AgentEar = Never, Never, Never, nil })}, Abandoned, 60_000, Never},
		"gives up while an agent answers": {callerHalf(func(c *Call) { c.Outcome = Abandoned; c.HungUp = 5_001 }), []Call{agentHalf(func(c *Call) { c.OtherBye = 5_500 })}, Abandoned, 5_001, 5_500},
		"refused":                         {callerHalf(as(Refused)), nil, Refused, Never, Never},
		"dropped":                         {callerHalf(as(Dropped)), nil, Dropped, Never, Never},
		"the caller's side failed":        {callerHalf(as(Failed)), []Call{agentHalf(func(*Call) {})}, Failed, Never, Never},
		// One party is left on the line: it hangs up when it would have anyway.
		"the server hangs up on the agent alone": {callerHalf(func(c *Call) { c.HungUp = 2_080_000 }), []Call{agentHalf(func(c *Call) { c.OtherBye = 80_000 })}, Cut, 2_080_000, 80_000},
		"the server hangs up on the caller alone": {callerHalf(func(c *Call) { c.Outcome = ""; c.OtherBye = 80_000 }),
			[]Call{agentHalf(func(c *Call) { c.HungUp = 2_080_000 })}, Cut, 2_080_000, 80_000},
		"the agent was cut, and then the caller gave up": {callerHalf(func(c *Call) { c.Outcome = Abandoned; c.HungUp = 2_080_000 }),
			[]Call{agentHalf(func(c *Call) { c.OtherBye = 80_000 })}, Cut, 2_080_000, 80_000},
		"cut on the agent's side, which failed": {callerHalf(func(c *Call) { c.HungUp = 2_080_000 }),
			[]Call{agentHalf(func(c *Call) { c.Outcome, c.OtherBye = Failed, 80_000 })}, Failed, 2_080_000, 80_000},
		"just outside the tolerance": {callerHalf(func(c *Call) { c.HungUp = 80_001 + simultaneous }), []Call{agentHalf(func(c *Call) { c.OtherBye = 80_000 })}, Cut, 80_001 + simultaneous, 80_000},
		"by two clocks at once":      {callerHalf(func(c *Call) { c.HungUp = 80_000 + simultaneous }), []Call{agentHalf(func(c *Call) { c.OtherBye = 80_000 })}, Completed, 80_000 + simultaneous, 80_000},
		"at once, by the agent's clock": {callerHalf(func(c *Call) { c.Outcome = ""; c.OtherBye = 80_000 }),
			[]Call{agentHalf(func(c *Call) { c.HungUp = 80_000 + simultaneous })}, Completed, 80_000 + simultaneous, 80_000},
		"transferred: the server ends the first agent's leg": {callerHalf(func(c *Call) { c.HungUp = 2_080_000 }),
			[]Call{agentHalf(func(c *Call) { c.OtherBye = 80_000 }), agentHalf(func(c *Call) { c.AgentAnswer, c.OtherBye = 90_000, 2_081_000 })}, Completed, 2_080_000, 80_000},
		"transferred: the first agent hangs up": {callerHalf(func(c *Call) { c.HungUp = 2_080_000 }), []Call{agentHalf(func(c *Call) { c.HungUp, c.OtherBye = 80_000, 80_000 })}, Completed, 80_000, Never},
		"the agent's side failed": {callerHalf(func(c *Call) { c.HungUp = 80_000 }),
			[]Call{agentHalf(func(c *Call) { c.Outcome, c.Reason = Failed, "no ACK" })}, Failed, 80_000, Never},
	} {
		got, err := Join(story.caller, story.agents...)
		if err != nil || got.Outcome != story.want || got.HungUp != story.hungUp || got.OtherBye != story.other {
			t.Errorf("%s: %s, hung up %d, other %d (%v); want %s, %d, %d", name, got.Outcome, got.HungUp, got.OtherBye, err, story.want, story.hungUp, story.other)
		}
	}
}

// How long a BYE takes can't be told where it did not follow from the other party's.
func TestAOneSidedEndIsNoTeardown(t *testing.T) {
	for _, c := range []struct {
		hungUp, other Micros
		want          int64
	}{{80_000, 80_700, 1}, {2_080_000, 80_000, 0}, {80_000 + simultaneous, 80_000, 1}, {80_001 + simultaneous, 80_000, 0}, {Never, 80_000, 0}} {
		for name, halves := range map[string][2]Call{
			"agent":  {callerHalf(func(h *Call) { h.HungUp = c.hungUp }), agentHalf(func(h *Call) { h.OtherBye = c.other })},
			"caller": {callerHalf(func(h *Call) { h.Outcome, h.OtherBye = "", c.other }), agentHalf(func(h *Call) { h.HungUp = c.hungUp })},
		} {
			call, err := Join(halves[0], halves[1])
			if err != nil {
				t.Fatal(err)
			}
			r := NewRecorder()
			r.Add(&call)
			if _, _, n := r.Quantiles("teardown"); n != c.want {
				t.Errorf("hung up at %d, the %s's BYE came at %d: %d samples of teardown, want %d", c.hungUp, name, c.other, n, c.want)
			}
		}
	}
}

func TestJoinTakesTheAgentWhoAnswered(t *testing.T) {
	first := agentHalf(func(c *Call) {
		c.Agent, c.Offered, c.AgentAnswer, c.AgentRang, c.AgentAck, c.AgentEar = "1000", 2_500, Never, 2_600, Never, nil
	})
	second := agentHalf(func(c *Call) { c.OtherBye = 80_700 })
	got, err := Join(callerHalf(func(c *Call) { c.HungUp = 80_000 }), first, second)
	if err != nil {
		t.Fatal(err)
	}
	want := callerHalf(func(c *Call) {
		c.HungUp, c.OtherBye, c.Agent, c.Offered, c.Offers = 80_000, 80_700, "1001", 2_500, 2
		c.AgentRang, c.AgentAnswer, c.AgentAck, c.AgentEar = 3_100, 5_000, 5_900, &Audio{Voice: 7}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Join(callerHalf(func(*Call) {}), agentHalf(func(c *Call) { c.Caller = "200" })); err == nil {
		t.Error("halves of two calls were joined")
	}
}

// In whatever order the halves come, each call comes out once and whole.
func TestJoinerGivesBackTheCallsThatWereSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		calls := drawCalls(t, 15)
		var halves []Call
		for _, c := range calls {
			caller, agent := split(c)
			halves = append(halves, caller)
			if agent.Offers > 0 {
				halves = append(halves, agent)
			}
		}
		halves = rapid.Permutation(halves).Draw(t, "order")
		j := NewJoiner(1 << 40)
		var got []Call
		for _, h := range halves {
			whole, err := j.Add(h)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, whole...)
		}
		rest, err := j.Flush()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(calls, append(got, rest...)); diff != "" {
			t.Fatal(diff)
		}
		if len(j.Orphans()) != 0 {
			t.Fatalf("%d orphans", len(j.Orphans()))
		}
	})
}

// split is what two workers see of one call. A caller that was hung up on cannot know whether
// an agent had answered.
func split(c Call) (caller, agent Call) {
	caller, agent = c, never()
	agent.Caller, agent.Agent, agent.Offered, agent.Offers = c.Caller, c.Agent, c.Offered, c.Offers
	agent.AgentRang, agent.AgentAnswer, agent.AgentAck, agent.AgentEar, agent.OtherBye = c.AgentRang, c.AgentAnswer, c.AgentAck, c.AgentEar, c.OtherBye
	caller.Agent, caller.Offered, caller.Offers = "", Never, 0
	caller.AgentRang, caller.AgentAnswer, caller.AgentAck, caller.AgentEar, caller.OtherBye = Never, Never, Never, nil, Never
	if c.Outcome == Cut {
		caller.Outcome, caller.Reason = Unanswered, ""
		agent.Ended = c.Ended
	}
	return caller, agent
}

func TestJoinerLetsGoAndCountsOrphans(t *testing.T) {
	j := NewJoiner(1_000)
	add := func(c Call) []Call {
		t.Helper()
		whole, err := j.Add(c)
		if err != nil {
			t.Fatal(err)
		}
		return whole
	}
	if got := add(callerHalf(func(c *Call) { c.HungUp = 80_000 })); len(got) != 0 {
		t.Fatal("did not wait for the agent's half")
	}
	if got := add(callerHalf(func(c *Call) { c.Caller, c.Index, c.Ended = "200", 5, 92_001 })); len(got) != 1 || got[0].Caller != "100" {
		t.Fatalf("after the wait: %+v", got)
	}
	add(agentHalf(func(*Call) {}))
	if _, err := j.Add(callerHalf(func(c *Call) { c.Caller = "200" })); err == nil {
		t.Error("a number that was used twice was accepted")
	}
	rest, err := j.Flush()
	if err != nil || len(rest) != 1 || rest[0].Caller != "200" || len(j.Orphans()) != 1 || len(j.waiting) != 0 {
		t.Errorf("%d left (%v), %d orphans", len(rest), err, len(j.Orphans()))
	}
	if !slices.IsSortedFunc(rest, func(a, b Call) int { return int(a.Index - b.Index) }) {
		t.Error("not in order")
	}
}
