// Package cluster lets several processes, here or on other machines, make one load: each its
// share of the arrivals and of the agents, all from one start. One of them coordinates. The
// others tell it what they see: it joins the halves of calls whose parties are in different
// processes, and keeps the one account.
//
// They speak JSON, a message a line, over pipes or TCP. Nothing secret is in it: who joins
// shows by a keyed digest that it knows the join token, and each machine has the agents'
// password from its own environment.
package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// Protocol is the version of the messages.
const Protocol = "dialtone.cluster/1"

// mostMessage bounds a message in bytes. The largest is a Job with a trace of a million
// arrivals; before a peer has shown that it knows the token much less is read.
const (
	mostMessage = 64 << 20
	mostHello   = 64 << 10
)

// Up is what a worker tells. Any of its parts may be missing.
type Up struct {
	Hello    *Hello         `json:"hello,omitempty"`
	Clock    *time.Time     `json:"clock,omitempty"` // answer to Down.Clock
	Ready    *Ready         `json:"ready,omitempty"`
	Second   *Second        `json:"second,omitempty"`
	Moves    []Move         `json:"moves,omitempty"`
	Answered []int64        `json:"answered,omitempty"` // callers elsewhere with whom an agent of this worker talks now
	Halves   []measure.Call `json:"halves,omitempty"`   // of calls that have ended
	Called   bool           `json:"called,omitempty"`   // all callers of this worker have ended
	Summary  *Summary       `json:"summary,omitempty"`  // the last message
	Failed   string         `json:"failed,omitempty"`   // instead of it: the worker cannot go on
}

// Down is what the coordinator tells.
type Down struct {
	Challenge *Challenge `json:"challenge,omitempty"`
	Clock     bool       `json:"clock,omitempty"` // what time is it?
	Job       *Job       `json:"job,omitempty"`
	Start     *time.Time `json:"start,omitempty"`    // by the worker's clock; whole seconds after Job.Origin
	Answered  []int64    `json:"answered,omitempty"` // callers of this worker who talk to an agent now
	Finish    bool       `json:"finish,omitempty"`   // all callers of all workers have ended
	Stop      bool       `json:"stop,omitempty"`     // hang up and finish
}

// Challenge is the first message of a connection.
type Challenge struct {
	Protocol string `json:"protocol"`
	Nonce    string `json:"nonce"`
}

// Hello answers it.
type Hello struct {
	Protocol  string            `json:"protocol"`
	Nonce     string            `json:"nonce"`
	Proof     string            `json:"proof"`
	Generator measure.Generator `json:"generator"`
	Machine   measure.Machine   `json:"machine"`
}

// Job is a worker's part.
type Job struct {
	Proof   string          `json:"proof,omitempty"` // that the coordinator knows the token too
	Profile profile.Profile `json:"profile"`
	Worker  int             `json:"worker"` // from 0
	Of      int             `json:"of"`
	Origin  time.Time       `json:"origin"` // by the worker's clock: from here audio is timed
}

// Ready says that the worker's agents are registered.
type Ready struct {
	Agents    int              `json:"agents"`
	Registers []measure.Micros `json:"registers_us,omitempty"` // how long each took
}

// Second is how a worker does, once a second.
type Second struct {
	At      measure.Micros `json:"at_us"`             // of the run
	Live    int            `json:"live"`              // calls of its callers
	CPU     float64        `json:"cpu_s"`             // so far, user and system
	Lag     measure.Micros `json:"lag_us"`            // how late its own timers were, at worst
	Arrived bool           `json:"arrived,omitempty"` // all its arrivals were due
}

// Moves, as the account of free agents needs them.
const (
	Dialled  = "dialled"  // a caller waits from now on
	Offered  = "offered"  // an agent is taken for a caller
	Declined = "declined" // the agent is free again, the caller waits again
	Freed    = "freed"    // the agent is free again
	Left     = "left"     // a caller waits no longer
)

// Move is a change of who waits and who is free.
type Move struct {
	At    measure.Micros `json:"t"`
	What  string         `json:"w"`
	Index int64          `json:"i"` // of the caller; -1: nobody of ours
}

// Summary is what a worker measured of itself.
type Summary struct {
	Pacing      measure.Pacing `json:"pacing"`
	SendJitter  measure.Tally  `json:"send_jitter_us_counts"`
	MouthToEar  measure.Tally  `json:"mouth_to_ear_us_counts"` // packet by packet
	Latencies   []Latency      `json:"latencies,omitempty"`
	Overrun     uint64         `json:"overrun,omitempty"` // packets that the kernel threw away, for we read too late
	OtherClock  uint64         `json:"other_clock,omitempty"`
	Lag         measure.Micros `json:"lag_us"`
	Lost        int            `json:"lost_registrations,omitempty"`
	Interrupted bool           `json:"interrupted,omitempty"`
	Notes       []string       `json:"notes,omitempty"`
}

// Latency is the one-way latency of the packets that were read in one second of the run.
type Latency struct {
	Second int64         `json:"s"`
	Tally  measure.Tally `json:"us_counts"`
}

// line is a connection in both directions.
type line struct {
	in  *bufio.Reader
	out io.Writer
	end io.Closer

	mu sync.Mutex // of out
}

func newLine(in io.Reader, out io.Writer, end io.Closer) *line {
	return &line{in: bufio.NewReaderSize(in, 64<<10), out: out, end: end}
}

func (l *line) send(message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > mostMessage {
		return fmt.Errorf("a message of %d bytes: at most %d are allowed", len(text), mostMessage)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.out.Write(append(text, '\n'))
	return err
}

// receive reads a message of at most so many bytes.
func (l *line) receive(into any, most int) error {
	var text []byte
	for {
		part, err := l.in.ReadSlice('\n')
		if len(text)+len(part) > most {
			return fmt.Errorf("a message of more than %d bytes", most)
		}
		text = append(text, part...)
		switch {
		case err == nil:
			if err := json.Unmarshal(text, into); err != nil {
				return fmt.Errorf("not a message of %s: %w", Protocol, err)
			}
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}
