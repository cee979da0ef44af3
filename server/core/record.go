package core

// CDR is the one record of a finished interaction. Times are absolute; durations are
// derived by the reader, so that no two fields can disagree.
type CDR struct {
	ID          InteractionID `json:"id"`
	Tenant      TenantID      `json:"tenant"`
	Node        NodeID        `json:"node"`
	Media       string        `json:"media"` // "voice"
	Caller      string        `json:"caller"`
	Called      string        `json:"called"`
	Queue       QueueID       `json:"queue,omitempty"`
	Agent       AgentID       `json:"agent,omitempty"` // the one who answered
	ArrivedAt   Time          `json:"arrived_at"`
	QueuedAt    Time          `json:"queued_at,omitzero"`
	AnsweredAt  Time          `json:"answered_at,omitzero"` // an agent was bridged
	EndedAt     Time          `json:"ended_at"`
	Termination Termination   `json:"termination"`
	Timeline    []Moment      `json:"timeline"`
	Legs        []LegReport   `json:"legs"`
}

// Termination says how an interaction ended.
type Termination struct {
	Result    Result    `json:"result"`
	Reason    EndReason `json:"reason"`
	HungUpBy  Party     `json:"hung_up_by"`
	SIPStatus int       `json:"sip_status,omitempty"` // the final status that ended it, where one did
	Q850      int       `json:"q850_cause"`           // ITU-T Q.850 / RFC 3326
}

// Result is the outcome from the caller's view.
type Result string

// The results. Exactly one holds for each interaction.
const (
	Completed  Result = "completed"  // an agent was bridged
	Abandoned  Result = "abandoned"  // the caller left before that
	Overflowed Result = "overflowed" // the queue's overflow rule ended it
	Rejected   Result = "rejected"   // never accepted: a limit, no codec
	Failed     Result = "failed"     // ours or the network's fault before a bridge
)

// EndReason is the cause in detail.
type EndReason string

// The reasons.
const (
	CallerHangup  EndReason = "caller_hangup"
	CallerCancel  EndReason = "caller_cancel"
	AgentHangup   EndReason = "agent_hangup"
	APIHangup     EndReason = "api_hangup"
	DrainHangup   EndReason = "drain"
	QueueFull     EndReason = "queue_full"
	MaxWait       EndReason = "max_wait"
	NobodyThere   EndReason = "nobody_logged_in"
	NoCodec       EndReason = "no_common_codec"
	NoMedia       EndReason = "no_media_port"
	CallerSilent  EndReason = "caller_silent"  // no RTP, no answer to a keepalive
	AgentSilent   EndReason = "agent_silent"   // the same
	CallerLost    EndReason = "caller_lost"    // a request in the dialog got 481, 408 or no answer
	AgentLost     EndReason = "agent_lost"     // the same
	NoAck         EndReason = "no_ack"         // RFC 3261 s.13.3.1.4
	StoreAway     EndReason = "store_away"     // the store did not answer, so the call could not be taken
	QueueGone     EndReason = "queue_deleted"  // configuration removed under the call
	TenantGone    EndReason = "tenant_deleted" // the same
	InternalError EndReason = "internal_error"
)

// Party is who did something.
type Party string

// The parties.
const (
	Caller Party = "caller"
	Callee Party = "agent"
	System Party = "system"
)

// Moment is one step of an interaction's timeline.
type Moment struct {
	At     Time    `json:"at"`
	What   What    `json:"what"`
	Agent  AgentID `json:"agent,omitempty"`
	Queue  QueueID `json:"queue,omitempty"`
	Party  Party   `json:"party,omitempty"`
	Detail string  `json:"detail,omitempty"`
}

// What names a step of the timeline.
type What string

// The steps of a timeline.
const (
	Arrived      What = "arrived"
	Queued       What = "queued"
	Offered      What = "offered"
	Ringing      What = "ringing"
	OfferFailed  What = "offer_failed" // Detail: rejected, busy, no_answer, unreachable, withdrawn
	Answered     What = "answered"
	Held         What = "held"
	Resumed      What = "resumed"
	OverflowedTo What = "overflowed"
	Recovered    What = "recovered" // after a restart or a takeover
	Ended        What = "ended"
)

// LegReport is one party's part of the CDR.
type LegReport struct {
	ID        LegID      `json:"id"`
	Party     Party      `json:"party"`
	Agent     AgentID    `json:"agent,omitempty"`
	SIPCallID string     `json:"sip_call_id"`
	Peer      string     `json:"peer"` // signalling address
	Codec     string     `json:"codec,omitempty"`
	SIPStatus int        `json:"sip_status,omitempty"` // final status of its INVITE
	Audio     AudioStats `json:"audio"`
}

// AudioStats is what the media edge measured of one leg.
type AudioStats struct {
	PacketsReceived uint64  `json:"packets_received"`
	PacketsSent     uint64  `json:"packets_sent"`
	PacketsLost     uint64  `json:"packets_lost"`    // by sequence numbers, RFC 3550 A.3
	JitterMs        float64 `json:"jitter_ms"`       // RFC 3550 A.8, last value
	LongestGapMs    float64 `json:"longest_gap_ms"`  // between two received packets while receiving was wanted
	Refused         uint64  `json:"packets_refused"` // from strangers, or not RTP
}

// Problem is an error as RFC 9457 shows it; Kind is the last part of its type URI.
type Problem struct {
	Kind   ProblemKind `json:"-"`
	Detail string      `json:"detail"`
	Fields []FieldError
}

// Error makes a Problem an error.
func (p *Problem) Error() string { return string(p.Kind) + ": " + p.Detail }

// FieldError names one field of a request that is wrong and says what is allowed.
type FieldError struct {
	Pointer string `json:"pointer"` // JSON pointer, e.g. "/ring_timeout_s"
	Detail  string `json:"detail"`
}

// ProblemKind is the class of a Problem; the HTTP edge knows the status of each.
type ProblemKind string

// The classes.
const (
	NotFound     ProblemKind = "not-found"
	Unauthorized ProblemKind = "unauthorized"
	Invalid      ProblemKind = "invalid"
	Exists       ProblemKind = "exists"
	InUse        ProblemKind = "in-use"
	Limited      ProblemKind = "limit-reached"
	Unavailable  ProblemKind = "unavailable"
)
