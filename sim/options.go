package sim

import (
	"math/rand/v2"
	"time"
)

// Options are all sizes and probabilities of one world. They follow from the seed alone:
// each seed draws a subset of troubles and how bad each is (swarm testing), since a world
// where everything fails at once hides what one trouble alone would show.
type Options struct {
	Seed   uint64        `json:"seed"`
	Chaos  time.Duration `json:"chaos"` // virtual length of the first phase
	Bound  time.Duration `json:"bound"` // virtual time in which everything must have settled
	Plant  string        `json:"plant,omitempty"`
	Nodes  int           `json:"nodes"`
	Events int           `json:"events"` // a world that needs more events than this is inconclusive

	Tenants   int           `json:"tenants"`
	Queues    int           `json:"queues"`  // per tenant
	Agents    int           `json:"agents"`  // per tenant
	Callers   int           `json:"callers"` // all tenants
	Gap       time.Duration `json:"gap"`     // mean time between arrivals
	Bursts    float64       `json:"bursts"`  // share of arrivals that come in a burst
	TwoPhones float64       `json:"two_phones"`

	Loss      float64       `json:"loss"`
	Duplicate float64       `json:"duplicate"`
	DelayMin  time.Duration `json:"delay_min"`
	DelayMean time.Duration `json:"delay_mean"`
	Shuffle   time.Duration `json:"shuffle"` // the edge's goroutines reorder within this
	TCP       float64       `json:"tcp"`     // share of phones that use it
	Resets    float64       `json:"resets"`  // of TCP connections, per minute and connection

	StoreMean  time.Duration `json:"store_mean"`
	StoreSlow  float64       `json:"store_slow"` // share of commits that take up to StoreWorst
	StoreWorst time.Duration `json:"store_worst"`
	Unknown    float64       `json:"unknown"`  // share of commits whose outcome is open for a while
	Conflict   float64       `json:"conflict"` // share of writes that are refused
	Away       time.Duration `json:"away"`     // length of a store outage, 0: none
	Fence      bool          `json:"fence"`    // the node loses ownership once

	RecordsFail float64       `json:"records_fail"`
	RecordsMean time.Duration `json:"records_mean"`
	MediaPorts  int           `json:"media_ports"` // legs at once

	Crashes    int           `json:"crashes"`
	Down       time.Duration `json:"down"` // longest time between crash and restart
	Pauses     int           `json:"pauses"`
	Floods     int           `json:"floods"`
	Faults     int           `json:"faults"` // of a cluster, at so many moments
	FaultKinds weights       `json:"fault_kinds"`
	Strangers  bool          `json:"strangers"`

	API           time.Duration `json:"api"` // mean time between random commands, 0: none
	CallerTempers weights       `json:"caller_tempers"`
	AgentTempers  weights       `json:"agent_tempers"`
	Reboots       float64       `json:"reboots"`   // of agents' phones, per minute and phone
	TalkMean      time.Duration `json:"talk_mean"` // of conversations
	Holds         float64       `json:"holds"`     // holds per conversation
}

// weights is a distribution over tempers; a temper with weight 0 does not occur.
type weights []int

// some returns x in a share p of the worlds and 0 in the rest.
func some(r *rand.Rand, p float64, x func() float64) float64 {
	on := r.Float64() < p
	value := x() // drawn in any case, so that one option does not shift the others
	if !on {
		return 0
	}
	return value
}

// uniform returns a number in [low, high).
func uniform(r *rand.Rand, low, high float64) func() float64 {
	return func() float64 { return low + (high-low)*r.Float64() }
}

func span(r *rand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(r.Int64N(int64(high-low)+1))
}

// swarm draws n weights; about half of them are zero, one at least is not.
func swarm(r *rand.Rand, n int) weights {
	w := make(weights, n)
	total := 0
	for i := range w {
		if r.IntN(2) == 0 {
			w[i] = 1 + r.IntN(10)
			total += w[i]
		}
	}
	if total == 0 {
		w[r.IntN(n)] = 1
	}
	return w
}

// pick draws an index.
func (w weights) pick(r *rand.Rand) int {
	total := 0
	for _, x := range w {
		total += x
	}
	at := r.IntN(max(1, total))
	for i, x := range w {
		if at < x {
			return i
		}
		at -= x
	}
	return 0
}

// Draw returns the options of a seed.
func Draw(seed uint64) Options {
	r := rand.New(rand.NewPCG(seed, 0x6f7074696f6e73))
	o := Options{
		Seed: seed, Chaos: span(r, 60*time.Second, 120*time.Second), Bound: 400 * time.Second, Events: 3_000_000,
		Tenants: 1 + r.IntN(3), Queues: 1 + r.IntN(3), Agents: 1 + r.IntN(4),
		Callers: 5 + r.IntN(30), Gap: span(r, 500*time.Millisecond, 8*time.Second),
		Bursts: some(r, 0.3, uniform(r, 0.1, 0.6)), TwoPhones: some(r, 0.5, uniform(r, 0.1, 0.8)),

		Loss:      some(r, 0.5, func() float64 { f := r.Float64(); return 0.3 * f * f }),
		Duplicate: some(r, 0.5, uniform(r, 0, 0.3)),
		DelayMin:  span(r, 100*time.Microsecond, 5*time.Millisecond), DelayMean: span(r, time.Millisecond, 100*time.Millisecond),
		Shuffle: time.Duration(some(r, 0.6, uniform(r, 1e5, 2e7))), TCP: some(r, 0.6, uniform(r, 0.1, 1)),
		Resets: some(r, 0.4, uniform(r, 0.1, 1)),

		StoreMean: span(r, 500*time.Microsecond, 30*time.Millisecond), StoreSlow: some(r, 0.4, uniform(r, 0, 0.1)),
		StoreWorst: span(r, 100*time.Millisecond, 3*time.Second), Unknown: some(r, 0.4, uniform(r, 0, 0.1)),
		Away: time.Duration(some(r, 0.25, uniform(r, 3e9, 60e9))), Fence: r.IntN(12) == 0,

		RecordsFail: some(r, 0.4, uniform(r, 0, 0.6)), RecordsMean: span(r, time.Millisecond, 500*time.Millisecond),
		MediaPorts: 400,

		Down: span(r, 50*time.Millisecond, 8*time.Second), Strangers: r.IntN(3) == 0,
		API:           time.Duration(some(r, 0.7, uniform(r, 3e8, 5e9))),
		CallerTempers: swarm(r, len(callerTempers)), AgentTempers: swarm(r, len(agentTempers)),
		Reboots: some(r, 0.4, uniform(r, 0.05, 0.5)), TalkMean: span(r, 2*time.Second, 20*time.Second),
		Holds: some(r, 0.8, uniform(r, 0.2, 2)),
	}
	if r.IntN(2) == 0 {
		o.Crashes = 1 + r.IntN(3)
	}
	if r.IntN(4) == 0 {
		o.Pauses = 1 + r.IntN(3)
	}
	if r.IntN(6) == 0 {
		o.Floods = 1 + r.IntN(2)
	}
	if r.IntN(8) == 0 {
		o.MediaPorts = 2 + r.IntN(10)
	}
	// A world where nobody ever answers shows little: the plain tempers are always there.
	o.CallerTempers[0] += 2 + r.IntN(10)
	o.AgentTempers[0] += 2 + r.IntN(10)
	return o
}

// Cluster makes the options of a seed those of several nodes; 0 draws how many.
func (o Options) Cluster(nodes int) Options {
	r := rand.New(rand.NewPCG(o.Seed, 0x636c7573746572))
	o.Nodes = 2 + r.IntN(4)
	if o.Nodes == 2 || r.IntN(2) == 0 {
		o.Nodes = 3
	}
	if nodes > 0 {
		o.Nodes = nodes
	}
	o.TCP, o.Conflict, o.Fence, o.Away = 0, 0, false, 0
	o.StoreMean = min(o.StoreMean, 10*time.Millisecond)
	o.Faults = r.IntN(7)
	o.FaultKinds = swarm(r, len(faultKinds))
	return o
}

// tempers of callers; the first is the plain one.
var callerTempers = [...]string{
	"patient", "impatient", "cancels", "cancels-late", "holds", "vanishes", "bye-and-gone", "weird-codec",
	"no-ack", "repeats", "bad-sdp", "late-offer", "glares", "mute", "unknown-number", "deaf-to-keepalive",
	"opus-only",
}

// tempers of agents, drawn for each ring; the first is the plain one.
var agentTempers = [...]string{
	"answers", "auto-answers", "busy", "rejects", "unavailable", "never-answers", "silent", "races-cancel",
	"vanishes-ringing", "vanishes-talking", "late-200", "hangs-up", "holds", "ends-at-once", "repeats",
	"forks",
}
