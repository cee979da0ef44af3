// Package profile says what a load run is to do: one Profile, made by a YAML file, by flags,
// or by both. Every value in it has been checked.
package profile

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
)

// Profile is one load.
type Profile struct {
	Target   Target        `json:"target"`
	To       Pattern       `json:"to"`     // what is dialled
	Caller   Pattern       `json:"caller"` // number (ANI) of the caller of arrival i
	Domain   string        `json:"domain"` // of the addresses; "": the host of To
	Local    string        `json:"local"`  // address to bind; "": the one that leads to the target
	Arrivals []Phase       `json:"arrivals"`
	Lines    int           `json:"lines"`    // calls at the same time; an arrival beyond is dropped
	Hold     Span          `json:"hold"`     // how long the two talk
	Patience Span          `json:"patience"` // a caller gives up after it; zero: never
	Drain    time.Duration `json:"drain_ns"` // callers may still wait so long after the last arrival
	HangUp   Share         `json:"agent_hangs_up"`
	Agents   Agents        `json:"agents"`
	Media    Media         `json:"media"`
	Seed     uint64        `json:"seed"`
	SLO      []string      `json:"slo,omitempty"`
	API      API           `json:"api"`

	dir string // of the file that is read, for the paths in it
}

// Phase is one stretch of the arrivals.
type Phase struct {
	Rate   Pace          `json:"rate"`
	Step   arrival.Rate  `json:"step,omitempty"` // stairs instead of a ramp
	Length time.Duration `json:"for_ns"`
	Trace  string        `json:"trace,omitempty"`
	Column string        `json:"column,omitempty"`

	// What the trace holds, so that other machines need not have the file.
	Offsets []time.Duration `json:"offsets_ns,omitempty"`
}

// Agents answer.
type Agents struct {
	Count       int         `json:"count"`
	URI         Pattern     `json:"uri"` // address of agent i; it registers as that
	Password    Secret      `json:"-"`
	AnswerAfter Span        `json:"answer_after"`
	WrapUp      Span        `json:"wrap_up"` // not free for so long after a call, by our count
	Behaviours  []Behaviour `json:"behaviours,omitempty"`
}

// Act is what an agent does with a call that it is offered.
type Act string

// The acts. What the shares of the others leave over, Answer takes.
const (
	Answer   Act = "answer"
	Reject   Act = "reject"   // with a status of 400 to 699
	Ignore   Act = "ignore"   // rings and is never answered
	Hold     Act = "hold"     // answers, holds after After for For, and goes on
	Transfer Act = "transfer" // answers, and transfers to To after After (blind, RFC 3515)
)

// Behaviour is an act and the share of offered calls that get it.
type Behaviour struct {
	Do     Act           `json:"do"`
	Share  Share         `json:"share"`
	Status int           `json:"status,omitempty"`
	After  time.Duration `json:"after_ns,omitempty"`
	For    time.Duration `json:"for_ns,omitempty"`
	To     Pattern       `json:"to"`
}

// The ways of reading one-way latency.
const (
	Ordinary = "ordinary" // the threads that carry audio go first where that is permitted
	RealTime = "realtime" // the whole generator goes before all else on the machine

	Stamp  = "stamp"  // the time of sending stands in the payload; needs audio passed through whole
	Marker = "marker" // a sound in the audio; survives mixing and transcoding
)

// Media is the audio.
type Media struct {
	Codec        string        `json:"codec"`
	Latency      string        `json:"latency"`
	Priority     string        `json:"priority"`
	Network      Network       `json:"network"`
	JitterBuffer time.Duration `json:"jitter_buffer_ns"`
}

// Network is a one-way network between the parties, which the generator emulates in each
// direction.
type Network struct {
	Delay  time.Duration `json:"delay_ns"`
	Jitter time.Duration `json:"jitter_ns"`
	Loss   Share         `json:"loss"`
}

// API is a dialtone server's REST API: asked whether it is ready before the load, and how many
// calls it has counted after it.
type API struct {
	URL    string `json:"url,omitempty"`
	Tenant string `json:"tenant,omitempty"`
	Key    Secret `json:"-"`
}

// Default is what holds where nothing is said.
func Default() Profile {
	return Profile{
		Caller: mustPattern("9{n:7}"),
		Lines:  1000,
		Hold:   Constant(20 * time.Second),
		Drain:  30 * time.Second,
		Seed:   1,
		Agents: Agents{Count: 0, AnswerAfter: Constant(time.Second)},
		Media:  Media{Codec: "pcmu", Latency: Stamp, Priority: Ordinary, JitterBuffer: 20 * time.Millisecond},
	}
}

// The bounds of a profile.
const (
	MaxLines  = 100_000
	MaxAgents = 100_000
	maxSpan   = 24 * time.Hour
)

// Check says whether the whole fits together, and what is missing.
func (p *Profile) Check() error {
	switch {
	case p.Target.Host == "":
		return errors.New("target is missing: the server's SIP address, as udp:HOST:PORT or tcp:HOST:PORT")
	case p.To.Empty():
		return errors.New("to is missing: the SIP URI to dial, such as sip:5000@example.com")
	case len(p.Arrivals) == 0:
		return errors.New("arrivals are missing: a rate such as 20/s and how long")
	case p.Agents.Count > 0 && p.Agents.URI.Empty():
		return errors.New("agents.uri is missing: the pattern of the agents' addresses, such as sip:{1001..1020}@example.com")
	}
	if err := p.To.URI(); err != nil {
		return fmt.Errorf("to: %w", err)
	}
	if err := p.checkNumbers(); err != nil {
		return err
	}
	s, err := p.Schedule()
	if err == nil && s.Count() == 0 {
		err = errors.New("arrivals: not a single call would arrive")
	}
	return err
}

func (p *Profile) checkNumbers() error {
	if n, ok := p.Caller.Distinct(); ok {
		return fmt.Errorf("caller %q: gives only %d numbers, and each arrival needs its own: use {n}", p.Caller, n)
	}
	if strings.ContainsAny(p.Caller.At(0), "@:; ") {
		return fmt.Errorf("caller %q: must be a number or name without host, such as 9{n:7}", p.Caller)
	}
	if p.Agents.Count > 0 {
		if err := p.Agents.URI.URI(); err != nil {
			return fmt.Errorf("agents.uri: %w", err)
		}
		if n, ok := p.Agents.URI.Distinct(); ok && n < p.Agents.Count {
			return fmt.Errorf("agents.uri %q: names %d agents, but agents.count is %d", p.Agents.URI, n, p.Agents.Count)
		}
	}
	total := Share(0)
	for i, b := range p.Agents.Behaviours {
		if err := b.check(); err != nil {
			return fmt.Errorf("agents.behaviours, entry %d: %w", i+1, err)
		}
		total += b.Share
	}
	if total > 1+1e-9 {
		return fmt.Errorf("agents.behaviours: the shares add up to %v; at most 100%% is allowed", total)
	}
	if p.Local != "" {
		if _, err := netip.ParseAddr(p.Local); err != nil {
			return fmt.Errorf("local %q: must be an address of this machine without port", p.Local)
		}
	}
	return nil
}

func (b Behaviour) check() error {
	switch {
	case b.Do == "":
		return errors.New("do is missing: answer, reject, ignore, hold or transfer")
	case b.Share <= 0:
		return errors.New("share is missing: how many of the offered calls, such as 5%")
	case b.Do == Reject && b.Status == 0:
		return errors.New("reject needs a status, such as 486")
	case b.Do == Hold && b.For == 0:
		return errors.New("hold needs for: how long, such as 5s")
	case b.Do == Transfer && b.To.Empty():
		return errors.New("transfer needs to: the SIP URI")
	case b.Do == Transfer:
		return b.To.URI()
	case b.Do != Reject && b.Status != 0:
		return fmt.Errorf("%s takes no status", b.Do)
	}
	return nil
}

// Schedule is the due time of each arrival.
func (p *Profile) Schedule() (*arrival.Schedule, error) {
	var phases []arrival.Phase
	for i, ph := range p.Arrivals {
		add, err := ph.phases()
		if err != nil {
			return nil, fmt.Errorf("arrivals, entry %d: %w", i+1, err)
		}
		phases = append(phases, add...)
	}
	s, err := arrival.New(phases, p.Seed)
	if err != nil {
		return nil, fmt.Errorf("arrivals: %w", err)
	}
	return s, nil
}

func (ph Phase) phases() ([]arrival.Phase, error) {
	switch {
	case ph.Offsets != nil:
		length, offsets := ph.Length, ph.Offsets
		if length == 0 {
			length = offsets[len(offsets)-1] + time.Second
		}
		// What comes later is not part of the phase.
		offsets = offsets[:sort.Search(len(offsets), func(i int) bool { return offsets[i] > length })]
		return []arrival.Phase{{Length: length, Offsets: offsets}}, nil
	case ph.Trace != "":
		return nil, fmt.Errorf("trace %s has not been read", ph.Trace)
	case ph.Rate.From == 0 && ph.Rate.To == 0 && !ph.Rate.given:
		return nil, errors.New("rate or trace is missing")
	case ph.Length == 0:
		return nil, errors.New("for is missing: how long, such as 60s")
	case ph.Step > 0:
		return arrival.Steps(ph.Rate.From, ph.Rate.To, ph.Step, ph.Length, ph.Rate.Poisson)
	}
	return []arrival.Phase{{From: ph.Rate.From, To: ph.Rate.To, Length: ph.Length, Poisson: ph.Rate.Poisson}}, nil
}

// read loads the trace, if the phase is one.
func (ph *Phase) read(dir string) error {
	if ph.Trace == "" {
		return nil
	}
	file, err := os.Open(below(dir, ph.Trace))
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	defer file.Close()
	if ph.Offsets, err = arrival.ReadTrace(file, ph.Column); err != nil {
		return fmt.Errorf("trace %s: %w", ph.Trace, err)
	}
	return nil
}
