package measure

import (
	"fmt"
	"math/rand/v2"

	"pgregory.net/rapid"
)

// never is a call of which nothing has happened.
func never() Call {
	return Call{Due: Never, Invited: Never, Provisional: Never, Ringing: Never, Answered: Never, Offered: Never, AgentRang: Never, AgentAnswer: Never, AgentAck: Never, HungUp: Never, OtherBye: Never, Ended: Never}
}

// drawCall is any call that a generator could have made, of the first minute of a run.
func drawCall(t *rapid.T, index int64) Call {
	span := func(most int64, name string) Micros { return Micros(rapid.Int64Range(0, most).Draw(t, name)) }
	c := never()
	c.Index, c.Caller, c.Due = index, fmt.Sprintf("+49%09d", index), span(60_000_000, "due")
	c.Outcome = rapid.SampledFrom([]Outcome{Completed, Completed, Completed, Dropped, Refused, Abandoned, Unanswered, Cut, Failed}).Draw(t, "outcome")
	c.FreeAgents = rapid.IntRange(0, 3).Draw(t, "free agents")
	c.Ended = c.Due
	if c.Outcome == Dropped {
		c.Reason = "no free line"
		return c
	}
	c.Invited = c.Due + span(20_000, "lateness")
	c.Provisional = c.Invited + span(200_000, "provisional")
	c.Ended = c.Provisional + 1
	switch c.Outcome {
	case Refused:
		c.Status, c.Reason = rapid.SampledFrom([]int{486, 503, 603}).Draw(t, "status"), "refused"
		return c
	case Failed:
		c.Reason = "no answer to INVITE within 32 s"
		return c
	}
	c.Answered = c.Provisional + span(100_000, "answered")
	c.Offered, c.Offers = c.Answered+span(3_000_000, "offered"), 1
	c.Ended = c.Offered + span(5_000_000, "ended")
	if c.Outcome == Completed || c.Outcome == Cut {
		c.Agent = fmt.Sprint(1000 + index%7)
		c.AgentRang = c.Offered + span(1_000, "rang")
		c.AgentAnswer = c.AgentRang + span(5_000_000, "agent answers")
		c.AgentAck = c.AgentAnswer + span(10_000, "ack")
		c.CallerEar, c.AgentEar = drawAudio(t, c.AgentAnswer), drawAudio(t, c.AgentAnswer)
		c.Ended = c.AgentAck + span(30_000_000, "talk")
	}
	if c.Outcome == Cut {
		c.Reason = "the server hung up on both"
	}
	if c.Outcome == Completed || c.Outcome == Abandoned {
		c.HungUp = c.Ended
		if c.Outcome == Completed {
			c.OtherBye = c.HungUp + span(20_000, "bye")
			c.Ended = c.OtherBye
		}
	}
	return c
}

func drawAudio(t *rapid.T, answered Micros) *Audio {
	a := &Audio{First: answered + Micros(rapid.Int64Range(-100, 60_000).Draw(t, "first")), Way: rapid.SampledFrom([]string{"stamp", "marker"}).Draw(t, "way")}
	a.Expected = uint64(rapid.IntRange(1, 1000).Draw(t, "expected"))
	a.Lost = uint64(rapid.IntRange(0, int(a.Expected)).Draw(t, "lost"))
	a.Sent, a.Voice, a.Received = a.Expected, a.Expected-a.Lost, a.Expected-a.Lost+10
	values := rapid.SliceOfN(rapid.Int64Range(0, 2_000_000), 1, 8).Draw(t, "latencies")
	h := NewHistogram()
	for _, v := range values {
		_ = h.RecordValue(v)
		a.LatencyMax = max(a.LatencyMax, Micros(v))
	}
	a.Packets, a.LatencyN = TallyOfPacked(h), uint64(h.TotalCount())
	a.LatencyP50, a.LatencyP99 = Micros(h.ValueAtPercentile(50)), Micros(h.ValueAtPercentile(99))
	a.Jitter = Micros(rapid.IntRange(0, 9_000).Draw(t, "jitter"))
	a.JitterMax, a.LongestGap = a.Jitter*2, 20_000+a.Jitter
	a.MouthToEar = Micros(rapid.IntRange(20_000, 300_000).Draw(t, "mouth to ear"))
	a.MOS = float64(rapid.IntRange(1_000, 4_500).Draw(t, "mos")) / 1_000
	return a
}

func drawCalls(t *rapid.T, most int) []Call {
	calls := make([]Call, rapid.IntRange(1, most).Draw(t, "calls"))
	for i := range calls {
		calls[i] = drawCall(t, int64(i))
	}
	return calls
}

// someCalls are calls by a seed, for tests that are no property tests.
func someCalls(seed uint64, n int) []Call {
	calls := rapid.Custom(func(t *rapid.T) []Call {
		all := make([]Call, n)
		for i := range all {
			all[i] = drawCall(t, int64(i))
		}
		return all
	})
	return calls.Example(int(rand.New(rand.NewPCG(seed, 1)).Uint32() >> 1))
}

// recorded is a result of calls, of a generator that kept its limits.
func recorded(calls []Call) (*Result, error) {
	r := NewRecorder()
	for i := range calls {
		r.Add(&calls[i])
	}
	r.samples[SendJitter].add(100, 1_000)
	r.AddRegister(1_500)
	return r.Result(soundRun())
}

func soundRun() Run {
	return Run{Started: epoch(), Finished: epoch().Add(600_000_000_000), Target: "udp:127.0.0.1:5060", Generator: ThisGenerator(), Machine: ThisMachine(),
		Stated: Stated{Packetisation: 20_000, JitterBuffer: 20_000, Buffer: "fixed, 20 ms"},
		Pacing: Pacing{Packets: 1_000, CPUSeconds: 60, CPUCores: 0.1, Cores: 1, Clock: SharedClock}, Limits: Limits{SendJitterP999: 5_000, CPUShare: 0.9, MissedTicks: 0.001}}
}
