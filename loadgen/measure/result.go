package measure

import (
	"encoding/json"
	"time"
)

// SchemaID names the version of the result document.
const SchemaID = "dialtone.loadgen/1"

// Result is what a run has found: the whole result document.
type Result struct {
	Schema    string          `json:"schema"`
	Started   time.Time       `json:"started"`
	Finished  time.Time       `json:"finished"`
	Duration  Micros          `json:"duration_us"`
	Target    string          `json:"target"`
	Profile   json.RawMessage `json:"profile"` // as it was run, defaults filled in
	Generator Generator       `json:"generator"`
	Machines  []Machine       `json:"machines"`
	Workers   int             `json:"workers"`

	Valid    bool      `json:"valid"` // the generator kept its own promises: the figures are the server's
	Invalid  []string  `json:"invalid"`
	Limits   Limits    `json:"limits"`
	Verdicts []Verdict `json:"verdicts"`

	Counts   Counts                  `json:"counts"`
	Statuses map[string]int64        `json:"sip_statuses"` // final statuses of 300 or more, how often
	Reasons  map[string]int64        `json:"reasons"`      // why calls did not complete, how often
	Metrics  map[string]Distribution `json:"metrics"`      // every metric, also those without samples
	Media    Media                   `json:"media"`
	Stated   Stated                  `json:"stated"`
	Budget   Budget                  `json:"budget"`
	Pacing   Pacing                  `json:"pacing"`
	Series   Series                  `json:"series"`
	Calls    *CallsFile              `json:"calls,omitempty"`
}

// Generator says which program measured.
type Generator struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // commit; "unknown" where it was not built from one
	Modified bool   `json:"modified"` // built from files that differ from the commit
	Go       string `json:"go"`
}

// Machine is where it ran.
type Machine struct {
	Host       string `json:"host"`
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	Memory     uint64 `json:"memory_bytes"`
	Kernel     string `json:"kernel"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Go         string `json:"go"`
}

// Counts are the arrivals, by outcome. Offered is the sum of all outcomes; Attempted those
// that were dialled.
type Counts struct {
	Offered    int64 `json:"offered"`
	Attempted  int64 `json:"attempted"`
	Completed  int64 `json:"completed"`
	Dropped    int64 `json:"dropped"`
	Refused    int64 `json:"refused"`
	Abandoned  int64 `json:"abandoned"`
	Unanswered int64 `json:"unanswered"`
	Cut        int64 `json:"cut"`
	Failed     int64 `json:"failed"`
}

// of is the count of an outcome; an unknown one counts as failed.
func (c *Counts) of(o Outcome) *int64 {
	switch o {
	case Completed:
		return &c.Completed
	case Dropped:
		return &c.Dropped
	case Refused:
		return &c.Refused
	case Abandoned:
		return &c.Abandoned
	case Unanswered:
		return &c.Unanswered
	case Cut:
		return &c.Cut
	default:
		return &c.Failed
	}
}

// outcomes is the number of arrivals that ended in some way.
func (c *Counts) outcomes() int64 {
	return c.Completed + c.Dropped + c.Refused + c.Abandoned + c.Unanswered + c.Cut + c.Failed
}

// Media sums up the packets of all calls. By is how many ears read latency by "stamp", by
// "marker" and not at all ("none").
type Media struct {
	Sent      uint64           `json:"sent"`
	Received  uint64           `json:"received"`
	Voice     uint64           `json:"voice"`
	Expected  uint64           `json:"expected"`
	Lost      uint64           `json:"lost"`
	Duplicate uint64           `json:"duplicate"`
	Reordered uint64           `json:"reordered"`
	Late      uint64           `json:"late"`
	By        map[string]int64 `json:"latency_read_by"`
}

func (m *Media) hear(a *Audio) {
	m.Sent += a.Sent
	m.Received += a.Received
	m.Voice += a.Voice
	m.Expected += a.Expected
	m.Lost += a.Lost
	m.Duplicate += a.Duplicate
	m.Reordered += a.Reordered
	m.Late += a.Late
	switch a.Way {
	case "stamp", "marker":
		m.By[a.Way]++
	default:
		m.By["none"]++
	}
}

// LossRatio is lost of expected, over all packets of the run; 0 to 1.
func (m Media) LossRatio() float64 { return float64(share(m.Lost, m.Expected)) / 1_000_000 }

// Pacing is how exact the generator itself was. The distributions are the metrics
// send_jitter and arrival_lateness.
type Pacing struct {
	Packets     int64   `json:"packets_sent"`
	MissedTicks int64   `json:"missed_ticks"`   // packets never sent, because their time had passed
	CPUSeconds  float64 `json:"cpu_seconds"`    // user and system time of the generator
	CPUCores    float64 `json:"cpu_cores_used"` // cores kept busy, on average over the run
	Cores       float64 `json:"cpu_cores_allowed"`
	Clock       Clock   `json:"clock"`
}

// Clock says whether the sender's and the receiver's stamps come from one clock.
type Clock string

const (
	SharedClock    Clock = "shared"
	SeparateClocks Clock = "separate" // latency from one machine to the other is meaningless
)

// Verdict is what became of one objective (SLO).
type Verdict struct {
	SLO      string  `json:"slo"`      // as it was asked for
	Metric   string  `json:"metric"`   // or the name of a count
	Stat     string  `json:"stat"`     // p50 ... max, mean, count; "" for a count
	Unit     string  `json:"unit"`     // of Measured
	Measured float64 `json:"measured"` // 0 without samples
	Samples  int64   `json:"samples"`
	Passed   bool    `json:"passed"`
	Reason   string  `json:"reason"` // what was measured, in words
}

// CallsFile is the file with a line for each call, from which the metrics can be computed
// again; those of packets where it holds them.
type CallsFile struct {
	Name    string `json:"name"`
	Lines   int64  `json:"lines"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
	Packets bool   `json:"packets"` // lines hold the latency of each packet that was measured
}

// Passed says whether the run may be shown green: valid, and every objective met.
func (r *Result) Passed() bool {
	for _, v := range r.Verdicts {
		if !v.Passed {
			return false
		}
	}
	return r.Valid
}

// ExitCode is 0 for a run that passed, 1 where an objective was missed, and 3 for a run that
// is invalid: of an invalid run nobody knows whether it met its objectives.
func (r *Result) ExitCode() int {
	switch {
	case !r.Valid:
		return 3
	case !r.Passed():
		return 1
	default:
		return 0
	}
}
