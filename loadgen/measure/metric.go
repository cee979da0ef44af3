package measure

import "math"

// Names of the metrics that do not come from a call's times alone.
const (
	MediaOneWay       = "media_one_way"
	MediaCallerHears  = "media_caller_hears"
	MediaAgentHears   = "media_agent_hears"
	MouthToEar        = "mouth_to_ear"         // packet by packet
	MouthToEarTypical = "mouth_to_ear_typical" // the median of each party: its p99 is not that of packets
	Setup             = "setup"
	Register          = "register"
	SendJitter        = "send_jitter"
	Teardown          = "teardown"
	ArrivalLateness   = "arrival_lateness"
)

// Metric is one of the things that a run measures.
type Metric struct {
	Name, Unit, What string

	ofCall func(*Call) (steps int64, ok bool)  // one sample for each call
	ofEar  func(*Audio) (steps int64, ok bool) // one for each party that heard
}

// InCalls says whether the metric follows from the calls file.
func (m Metric) InCalls() bool {
	return m.Name != Register && m.Name != SendJitter && m.Name != MouthToEar
}

// Metrics are all metrics, in the order in which a reader wants them.
func Metrics() []Metric {
	all := append(signalling(), audio()...)
	return append(all,
		Metric{Name: Register, Unit: UnitTime, What: "REGISTER to its 200, authentication included"},
		Metric{Name: SendJitter, Unit: UnitTime, What: "the generator itself: RTP packet sent after its due time"},
		Metric{Name: ArrivalLateness, Unit: UnitTime, What: "the generator itself: INVITE sent after its due time", ofCall: between(
			func(c *Call) Micros { return c.Due }, func(c *Call) Micros { return c.Invited })},
	)
}

func signalling() []Metric {
	due := func(c *Call) Micros { return c.Due }
	invited := func(c *Call) Micros { return c.Invited }
	provisional := func(c *Call) Micros { return c.Provisional }
	rang := func(c *Call) Micros { return c.AgentRang }
	answered := func(c *Call) Micros { return c.Answered }
	offered := func(c *Call) Micros { return c.Offered }
	agentAnswer := func(c *Call) Micros { return c.AgentAnswer }
	routing := between(invited, offered)
	teardown := between(func(c *Call) Micros { return c.HungUp }, func(c *Call) Micros { return c.OtherBye })
	return []Metric{
		{Name: Setup, Unit: UnitTime, What: "INVITE sent to 200 received by the caller", ofCall: between(invited, answered)},
		{Name: "setup_from_due", Unit: UnitTime, What: "INVITE due (not sent: free of coordinated omission) to 200 received by the caller", ofCall: between(due, answered)},
		{Name: "provisional", Unit: UnitTime, What: "INVITE sent to the first 1xx received by the caller", ofCall: between(invited, provisional)},
		{Name: "provisional_from_due", Unit: UnitTime, What: "INVITE due to the first 1xx received by the caller", ofCall: between(due, provisional)},
		{Name: "ringing", Unit: UnitTime, What: "INVITE sent to 180 sent by the agent who answered", ofCall: between(invited, rang)},
		{Name: "ringing_from_due", Unit: UnitTime, What: "INVITE due to 180 sent by the agent who answered", ofCall: between(due, rang)},
		{Name: "routing", Unit: UnitTime, What: "caller's INVITE sent to the agent's INVITE received; only calls that found an agent free", ofCall: func(c *Call) (int64, bool) {
			if c.FreeAgents <= 0 {
				return 0, false
			}
			return routing(c)
		}},
		{Name: "queue_wait", Unit: UnitTime, What: "caller's INVITE sent to the agent's INVITE received; every call that was offered to an agent", ofCall: routing},
		{Name: "speed_of_answer", Unit: UnitTime, What: "caller's INVITE sent to 200 sent by the agent", ofCall: between(invited, agentAnswer)},
		{Name: "abandoned_after", Unit: UnitTime, What: "caller's INVITE sent to the end, of those who gave up: they are not in queue_wait unless they were offered", ofCall: func(c *Call) (int64, bool) {
			if c.Outcome != Abandoned {
				return 0, false
			}
			return between(invited, func(c *Call) Micros { return c.Ended })(c)
		}},
		{Name: Teardown, Unit: UnitTime, What: "BYE sent by one party to BYE received by the other", ofCall: func(c *Call) (int64, bool) {
			if c.oneSided() { // the one did not follow from the other
				return 0, false
			}
			return teardown(c)
		}},
	}
}

func audio() []Metric {
	agentAnswer := func(c *Call) Micros { return c.AgentAnswer }
	first := func(a *Audio) Micros {
		if a == nil {
			return Never
		}
		return a.First
	}
	return []Metric{
		{Name: "answer_to_audio_caller", Unit: UnitTime, What: "200 sent by the agent to the agent's first voice packet at the caller", ofCall: between(
			agentAnswer, func(c *Call) Micros { return first(c.CallerEar) })},
		{Name: "answer_to_audio_agent", Unit: UnitTime, What: "200 sent by the agent to the caller's first voice packet at the agent", ofCall: between(
			agentAnswer, func(c *Call) Micros { return first(c.AgentEar) })},
		{Name: MediaOneWay, Unit: UnitTime, What: "voice packet sent to received, every packet of both directions"},
		{Name: MediaCallerHears, Unit: UnitTime, What: "voice packet sent to received, agent to caller"},
		{Name: MediaAgentHears, Unit: UnitTime, What: "voice packet sent to received, caller to agent"},
		{Name: MouthToEar, Unit: UnitTime, What: "packetisation, network, server and jitter buffer; every packet of both directions that was played"},
		{Name: MouthToEarTypical, Unit: UnitTime, What: "the same, one sample for each party that heard: its median", ofEar: func(a *Audio) (int64, bool) {
			return int64(a.MouthToEar), a.MouthToEar > 0
		}},
		{Name: "jitter", Unit: UnitTime, What: "interarrival jitter at the end of the call (RFC 3550 s.6.4.1), one sample for each party", ofEar: func(a *Audio) (int64, bool) {
			return int64(a.Jitter), a.Voice > 1 && a.Jitter >= 0
		}},
		{Name: "jitter_peak", Unit: UnitTime, What: "the highest interarrival jitter within the call, one sample for each party", ofEar: func(a *Audio) (int64, bool) {
			return int64(a.JitterMax), a.Voice > 1 && a.JitterMax >= 0
		}},
		{Name: "longest_gap", Unit: UnitTime, What: "the longest time between two voice packets of a call, one sample for each party", ofEar: func(a *Audio) (int64, bool) {
			return int64(a.LongestGap), a.Voice > 1 && a.LongestGap >= 0
		}},
		{Name: "loss", Unit: UnitRatio, What: "packets lost of those expected (RFC 3550 A.3), one sample for each party", ofEar: func(a *Audio) (int64, bool) {
			return share(a.Lost, a.Expected), a.Expected > 0
		}},
		{Name: "late", Unit: UnitRatio, What: "packets too late for the jitter buffer of those expected, one sample for each party", ofEar: func(a *Audio) (int64, bool) {
			return share(a.Late, a.Expected), a.Expected > 0
		}},
		{Name: "mos", Unit: UnitMOS, What: "MOS-CQE by the E-model (ITU-T G.107), one sample for each party; low is bad: look at p1 and min", ofEar: func(a *Audio) (int64, bool) {
			return int64(math.Round(min(max(a.MOS, 0), 5) * 1_000)), a.MOS > 0
		}},
	}
}

// between is the time from one moment to another, where both came.
func between(from, to func(*Call) Micros) func(*Call) (int64, bool) {
	return func(c *Call) (int64, bool) {
		a, b := from(c), to(c)
		return int64(b - a), a >= 0 && b >= 0
	}
}

// share is a ratio in steps of a millionth, 0 to 1.
func share(part, whole uint64) int64 {
	if whole == 0 {
		return 0
	}
	return int64(math.Round(min(float64(part)/float64(whole), 1) * 1_000_000))
}
