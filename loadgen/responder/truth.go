package responder

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Micros is microseconds since the responder's start, or a span; Never is the time of what
// did not happen.
type Micros int64

const Never Micros = -1

// Truth is what the responder has really done, not what it was told to do.
type Truth struct {
	Started   time.Time `json:"started"`
	Calls     []Call    `json:"calls"`           // in the order of their INVITEs
	Untold    uint64    `json:"calls_not_told"`  // beyond the 200,000 in Calls
	ToCaller  Flow      `json:"to_caller"`       // sums over all calls
	ToAgent   Flow      `json:"to_agent"`        //
	HeldA     Held      `json:"held_to_caller"`  // how long packets were held
	HeldB     Held      `json:"held_to_agent"`   //
	Received  uint64    `json:"sip_received"`    // SIP messages, with those dropped
	Sent      uint64    `json:"sip_sent"`        //
	LostIn    uint64    `json:"sip_dropped_in"`  // of Received
	LostOut   uint64    `json:"sip_dropped_out"` // of Sent
	Malformed uint64    `json:"sip_malformed"`   // of Received
	Agents    int       `json:"agents"`          // registered now
}

// Call is what was done to one. A time that a message came is that of its arrival in the
// kernel; a time that one was sent is just before the system call.
type Call struct {
	Caller string `json:"caller"`
	Agent  string `json:"agent,omitempty"`
	Status int    `json:"sip_status,omitempty"` // the final one to its INVITE

	Invited       Micros `json:"invited_us"`        // INVITE came
	Trying        Micros `json:"trying_us"`         // 100 sent
	Offered       Micros `json:"offered_us"`        // first INVITE sent to an agent
	AgentRang     Micros `json:"agent_rang_us"`     // 180 came from the agent who answered
	Ringing       Micros `json:"ringing_us"`        // 180 sent to the caller
	AgentAnswered Micros `json:"agent_answered_us"` // 200 came from the agent
	Answered      Micros `json:"answered_us"`       // 200 (or a refusal) sent to the caller
	Bye           Micros `json:"bye_us"`            // first BYE came
	ByeSent       Micros `json:"bye_sent_us"`       // BYE sent to the other party
	Offers        int    `json:"offers,omitempty"`  // INVITEs to agents, without repetitions

	ToCaller     Flow `json:"to_caller"`
	ToAgent      Flow `json:"to_agent"`
	PaceToCaller Pace `json:"pace_to_caller"`
	PaceToAgent  Pace `json:"pace_to_agent"`
}

// Pace is when the audio of one direction was sent; copies do not count.
type Pace struct {
	First      Micros `json:"first_us"`       // first packet, Never without
	LongestGap Micros `json:"longest_gap_us"` // between two of them
	Jitter     Micros `json:"jitter_us"`      // RFC 3550 s.6.4.1, of a receiver without any way to it
}

// Flow is the audio packets of one direction.
type Flow struct {
	Received   uint64 `json:"received"`
	Sent       uint64 `json:"sent"`       // of Received; copies are not counted
	Lost       uint64 `json:"lost"`       // Received - Sent: by order, or still held when the call ended
	Edge       uint64 `json:"edge"`       // of Lost, before the first or after the last that was sent: a receiver can't know of them
	Duplicated uint64 `json:"duplicated"` // copies sent
	Reordered  uint64 `json:"reordered"`  // sent after one that had come later
	Early      uint64 `json:"early"`      // before the call was answered; discarded, not in Received
}

func (f *Flow) add(g Flow) {
	f.Received += g.Received
	f.Sent += g.Sent
	f.Lost += g.Lost
	f.Edge += g.Edge
	f.Duplicated += g.Duplicated
	f.Reordered += g.Reordered
	f.Early += g.Early
}

// Held is how long packets were held, from their arrival in the kernel to just before they
// were sent, in microseconds.
type Held struct {
	N    int64   `json:"n"`
	Min  int64   `json:"min_us"`
	Mean float64 `json:"mean_us"`
	P50  int64   `json:"p50_us"`
	P90  int64   `json:"p90_us"`
	P99  int64   `json:"p99_us"`
	P999 int64   `json:"p999_us"`
	Max  int64   `json:"max_us"`
}

func newHold() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
}

func heldOf(h *hdrhistogram.Histogram) Held {
	return Held{h.TotalCount(), h.Min(), h.Mean(), h.ValueAtQuantile(50), h.ValueAtQuantile(90),
		h.ValueAtQuantile(99), h.ValueAtQuantile(99.9), h.Max()}
}
