// Package sim is the virtual world: a network, a store, media, phones of many tempers and
// a clock, in which the same core runs that production runs. One seed makes one world, and
// the same seed makes it again, event for event: there is one heap ordered by (time, a
// seeded tie-break, sequence), no goroutine, no wall clock, no visit of a map whose order
// matters. The properties that must hold are in package check.
package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// Core is the machine under test: node.Node in every use but the simulator's own tests.
type Core interface {
	Step(now core.Time, ev core.Event, out []core.Effect) []core.Effect
	Deadline() (core.Time, core.Reason)
	Valid() error
	Gauges() node.Gauges
}

// epoch is the instant at which every world begins: 2030-01-01 00:00 UTC.
const epoch = core.Time(1893456000 * int64(time.Second))

// World is one simulated world. It is not safe for concurrent use.
type World struct {
	opt   Options
	rng   *rand.Rand
	now   core.Time
	heap  timeline
	steps int // events of the heap that were carried out

	newCore func(node.Config) Core
	hosts   map[netip.AddrPort]endpoint
	phones  []*phone
	agents  []*agent
	tenants []*company
	net     network
	nodes   []*server
	plain   *store   // of one node that is alone
	commits *commits // of a cluster
	api     *driver

	streams map[netip.AddrPort]*dialog // a leg's port -> the dialog whose phone sends there
	dirty   bool                       // who hears whom is to be worked out anew
	have    map[core.InteractionID]int // deliveries of CDRs
	cuts    map[[2]int]int             // from node to node: nothing gets through

	lastTrouble core.Time // until when what goes wrong in a cluster may have effects

	checks  []check.Checker
	trace   *trace
	marks   Marks
	failure *Failure
	phase   string
	drained bool
	ids     int
	served  int // calls that were bridged
}

// NewWorld returns the world of the options, ready to Run.
func NewWorld(o Options, newCore func(node.Config) Core) *World {
	w := &World{
		opt: o, rng: rand.New(rand.NewPCG(o.Seed, 0x776f726c64)), now: epoch, newCore: newCore,
		hosts: map[netip.AddrPort]endpoint{}, trace: newTrace(), marks: Marks{}, phase: "chaos",
		streams: map[netip.AddrPort]*dialog{}, have: map[core.InteractionID]int{}, cuts: map[[2]int]int{},
	}
	w.net.w = w
	w.build()
	if o.Nodes > 0 {
		w.commits = newCommits(w)
	}
	for i := range max(1, o.Nodes) {
		w.nodes = append(w.nodes, newServer(w, i))
	}
	w.api = newDriver(w)
	w.checks = check.All(w.setup())
	return w
}

// after schedules do.
func (w *World) after(d time.Duration, do func()) { w.at(w.now.Add(max(0, d)), do) }

func (w *World) at(t core.Time, do func()) {
	w.heap.push(moment{at: max(t, w.now), tie: w.rng.Uint32(), do: do})
}

// chance is true with probability p.
func (w *World) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// between draws a duration in [low, high].
func (w *World) between(low, high time.Duration) time.Duration { return span(w.rng, low, high) }

// about draws a duration with an exponential distribution around its mean, at most ten
// times as long.
func (w *World) about(mean time.Duration) time.Duration {
	return min(time.Duration(w.rng.ExpFloat64()*float64(mean)), 10*mean)
}

// text makes an identifier that no other thing of this world has.
func (w *World) text(prefix string) string {
	w.ids++
	return prefix + strconv.FormatUint(uint64(w.rng.Uint32()), 36) + "x" + strconv.Itoa(w.ids)
}

// fact shows one fact to every checker.
func (w *World) fact(f check.Fact) {
	if w.failure != nil {
		return
	}
	for _, c := range w.checks {
		if err := c.See(w.now, f); err != nil {
			w.fail(c.Name(), err.Error())
			return
		}
	}
}

// fail keeps the first failure; the world stops after the event that caused it.
func (w *World) fail(property, text string) {
	if w.failure != nil {
		return
	}
	w.trace.say(w.now, "!!", property+": "+text)
	w.failure = &Failure{Property: property, Text: text, Seed: w.opt.Seed, Plant: w.opt.Plant, At: w.now,
		Virtual: w.now.Sub(epoch).String(), Phase: w.phase, Options: w.opt, Last: w.trace.last()}
}

// until runs events up to an instant, or until done says so. It returns false when the
// world has failed.
func (w *World) until(end core.Time, done func() bool) bool {
	for w.failure == nil {
		next, ok := w.heap.peek()
		if !ok || next > end {
			w.now = max(w.now, end)
			return true
		}
		m := w.heap.pop()
		w.now = m.at
		w.steps++
		if w.steps > w.opt.Events {
			w.fail("inconclusive", fmt.Sprintf("more than %d events", w.opt.Events))
			return false
		}
		m.do()
		if done != nil && w.steps%64 == 0 && w.failure == nil && done() {
			return true
		}
	}
	return false
}

// Run lets the world happen: chaos, healing, and everything that must have come to its
// end by then.
func (w *World) Run() (result Result) {
	defer func() {
		if p := recover(); p != nil {
			w.fail("simulator", fmt.Sprintf("panic in the world itself: %v\n%s", p, debug.Stack()))
		}
		result = w.result()
	}()
	for _, s := range w.nodes {
		if w.commits == nil {
			s.start()
			continue
		}
		w.after(w.between(0, time.Duration(s.index)*300*time.Millisecond), s.start)
	}
	w.api.configure()
	w.arrivals()
	w.faults()
	if !w.until(epoch.Add(w.opt.Chaos), nil) {
		return
	}
	w.heal()
	if !w.settle() {
		return
	}
	w.drain()
	if w.failure != nil {
		return
	}
	for _, c := range w.checks {
		if err := c.End(w.now); err != nil {
			w.fail(c.Name(), err.Error())
			return
		}
	}
	return
}

func (w *World) result() Result {
	return Result{Seed: w.opt.Seed, Hash: w.trace.sum(), Events: w.steps, Virtual: w.now.Sub(epoch), Marks: w.marks,
		Failure: w.failure, Calls: len(w.have), Served: w.served}
}

// Result is what one world came to.
type Result struct {
	Seed    uint64        `json:"seed"`
	Hash    string        `json:"hash"`
	Events  int           `json:"events"`
	Virtual time.Duration `json:"virtual_ns"`
	Calls   int           `json:"calls"`  // CDRs
	Served  int           `json:"served"` // of them bridged
	Marks   Marks         `json:"marks"`
	Failure *Failure      `json:"failure,omitempty"`
}
