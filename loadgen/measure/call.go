// Package measure holds what a load run has measured: one Call for each arrival, and what
// follows from many of them.
package measure

// Micros is a time in microseconds since the start of the run, or a span in microseconds.
type Micros int64

// Never is the time of what did not happen.
const Never Micros = -1

// Outcome is how an arrival ended. Each ends in exactly one.
type Outcome string

const (
	Completed  Outcome = "completed"  // an agent answered, they talked as long as planned, all hung up
	Dropped    Outcome = "dropped"    // no free line in the generator when it was due: never dialled, never postponed
	Refused    Outcome = "refused"    // a final status of 300 or more
	Abandoned  Outcome = "abandoned"  // the caller gave up before an agent answered, as its patience said
	Unanswered Outcome = "unanswered" // the server ended it before an agent answered
	Cut        Outcome = "cut"        // the server ended it while the two talked
	Failed     Outcome = "failed"     // no answer to a request, a broken message, no port, no connection
)

// Call is one arrival: a line of the calls file. Times that did not come are Never.
type Call struct {
	Index   int64   `json:"index"`  // number of the arrival, from 0, over all workers
	Worker  int     `json:"worker"` // who made it
	Caller  string  `json:"caller"` // its number (ANI), unique in the run; ties the agent's side to it
	Agent   string  `json:"agent,omitempty"`
	Outcome Outcome `json:"outcome"`
	Status  int     `json:"sip_status,omitempty"` // the last final status to the INVITE
	Reason  string  `json:"reason,omitempty"`     // in words, where it did not complete

	Due         Micros `json:"due_us"`          // when the schedule wanted the INVITE
	Invited     Micros `json:"invited_us"`      // INVITE sent
	Provisional Micros `json:"provisional_us"`  // first 1xx received
	Ringing     Micros `json:"ringing_us"`      // 180 received by the caller
	Answered    Micros `json:"answered_us"`     // 200 received by the caller
	Offered     Micros `json:"offered_us"`      // first INVITE received by an agent
	AgentRang   Micros `json:"agent_rang_us"`   // 180 sent by the agent who answered
	AgentAnswer Micros `json:"agent_answer_us"` // 200 sent by that agent
	AgentAck    Micros `json:"agent_ack_us"`    // its ACK received
	HungUp      Micros `json:"hung_up_us"`      // BYE sent by whoever hung up
	OtherBye    Micros `json:"other_bye_us"`    // BYE received by the other party
	Ended       Micros `json:"ended_us"`        // the last of it

	Offers     int    `json:"offers,omitempty"` // INVITEs that agents received for this caller
	FreeAgents int    `json:"free_agents"`      // agents free when it was dialled, by the generator's own count
	CallerEar  *Audio `json:"caller_hears,omitempty"`
	AgentEar   *Audio `json:"agent_hears,omitempty"`
}

// Audio is what one party received of the other's voice, and sent.
type Audio struct {
	Sent       uint64  `json:"sent"`      // packets
	Received   uint64  `json:"received"`  // RTP packets of any kind
	Voice      uint64  `json:"voice"`     // of them, those that carry the other party's stamp
	Expected   uint64  `json:"expected"`  // stamped packets that should have come, by their index
	Lost       uint64  `json:"lost"`      // Expected - those that came (RFC 3550 A.3, never negative)
	Duplicate  uint64  `json:"duplicate"` // came before
	Reordered  uint64  `json:"reordered"` // came after one that was sent later
	Late       uint64  `json:"late"`      // came after the jitter buffer had played past them
	First      Micros  `json:"first_us"`  // first packet of the other's voice
	Jitter     Micros  `json:"jitter_us"` // RFC 3550 s.6.4.1, at the end
	JitterMax  Micros  `json:"jitter_max_us"`
	LongestGap Micros  `json:"longest_gap_us"` // between two packets of the voice
	Way        string  `json:"way"`            // how latency was read: "stamp", "marker" or "" (not at all)
	LatencyN   uint64  `json:"latency_n"`
	LatencyP50 Micros  `json:"latency_p50_us"` // one way, packet by packet
	LatencyP99 Micros  `json:"latency_p99_us"`
	LatencyMax Micros  `json:"latency_max_us"`
	Packets    Tally   `json:"latency_us_counts,omitempty"` // every latency, within 1.6%, with its count: what LatencyN..Max sum up
	MouthToEar Micros  `json:"mouth_to_ear_us"`             // median; packetisation, network, server and jitter buffer together
	MOS        float64 `json:"mos_cqe"`                     // E-model, ITU-T G.107; 0 where nothing was heard
}
