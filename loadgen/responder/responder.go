package responder

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"
)

// Responder is a running one.
type Responder struct{ x *exchange }

// Start opens the SIP port and answers until Close.
func Start(cfg Config) (*Responder, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s, err := listen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	x := &exchange{cfg: cfg, sip: s, parser: sip.NewParser(), started: time.Now(), timers: newAgenda(), packets: newAgenda(), done: make(chan struct{}),
		chance: rand.New(rand.NewPCG(cfg.Seed, 1<<63)), legs: map[string]*leg{}, agents: map[string]*agent{}, attempts: map[string]*attempt{}}
	x.toCaller.h, x.toAgent.h = newHold(), newHold()
	x.nonce, x.prefix = token(), token()[:8]
	x.running.Go(func() { x.timers.run(x.done) })
	x.running.Go(func() { x.packets.run(x.done) })
	x.running.Go(func() { x.sip.read(x.take) })
	return &Responder{x}, nil
}

// Addr is where it takes SIP.
func (r *Responder) Addr() netip.AddrPort { return r.x.sip.addr }

// Close ends all calls, as a power cut does: nobody is told. Truth stays.
func (r *Responder) Close() {
	x := r.x
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return
	}
	x.closed = true
	for _, c := range x.alive() {
		x.end(c)
	}
	x.mu.Unlock()
	close(x.done)
	x.sip.close()
	x.running.Wait()
}

// Truth is what was done until now.
func (r *Responder) Truth() Truth {
	x := r.x
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.tally
	t.Started = x.started
	for _, c := range x.alive() {
		x.account(c)
	}
	t.Calls = slices.Clone(x.told)
	t.ToCaller, t.ToAgent = x.sums[0], x.sums[1]
	for _, c := range x.alive() {
		t.ToCaller.add(c.truth.ToCaller)
		t.ToAgent.add(c.truth.ToAgent)
	}
	x.toCaller.mu.Lock()
	t.HeldA = heldOf(x.toCaller.h)
	x.toCaller.mu.Unlock()
	x.toAgent.mu.Lock()
	t.HeldB = heldOf(x.toAgent.h)
	x.toAgent.mu.Unlock()
	t.Agents = len(x.agents)
	return t
}

// exchange is the whole state, under one lock. Messages come from the reader of the SIP
// socket, timers from an agenda; audio has locks and an agenda of its own.
type exchange struct {
	cfg      Config
	sip      *socket
	parser   *sip.Parser
	started  time.Time
	timers   *agenda
	packets  *agenda
	done     chan struct{}
	running  sync.WaitGroup
	toCaller hold
	toAgent  hold

	mu       sync.Mutex
	closed   bool
	chance   *rand.Rand
	tokens   uint64
	nonce    string              // of digests
	prefix   string              // of names
	legs     map[string]*leg     // by Call-ID; of calls that ended too, for 32 s
	attempts map[string]*attempt // our requests, by the branch of their Via
	agents   map[string]*agent   // by user
	free     []*agent            // longest idle first
	queue    []*call             // longest wait first
	calls    uint64              // so far
	tally    Truth               // its counters
	told     []Call
	sums     [2]Flow // of ended calls, to the caller and to the agent
}

// micros is a time as Truth tells it.
func (x *exchange) micros(t time.Time) Micros { return Micros(t.Sub(x.started).Microseconds()) }

// later does do under the lock at a time.
func (x *exchange) later(at time.Time, do func()) {
	x.timers.at(at, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.closed {
			do()
		}
	})
}

// alive returns the calls that have not ended, in no order.
func (x *exchange) alive() []*call {
	var calls []*call
	for _, l := range x.legs {
		if l == l.call.caller && l.call.phase != over {
			calls = append(calls, l.call)
		}
	}
	return calls
}

// name makes a token for tags and branches. Nobody is kept out by it.
func (x *exchange) name() string {
	x.tokens++
	return x.prefix + strconv.FormatUint(x.tokens, 36)
}

// send sends a message, or loses it on purpose.
func (x *exchange) send(b []byte, to netip.AddrPort) {
	x.tally.Sent++
	if x.chance.Float64() < x.cfg.DropSIP {
		x.tally.LostOut++
		return
	}
	_ = x.sip.send(b, to) // one that the kernel refuses is lost; whoever waits for it repeats
}

// take handles a datagram of the SIP port.
func (x *exchange) take(b []byte, from netip.AddrPort, arrived time.Time) {
	if len(b) <= 4 { // keepalive, RFC 5626 s.3.5.1
		return
	}
	m, err := parse(x.parser, b)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return
	}
	x.tally.Received++
	if err != nil {
		x.tally.Malformed++
		return
	}
	if x.chance.Float64() < x.cfg.DropSIP {
		x.tally.LostIn++
		return
	}
	m.from, m.arrived = from, arrived
	if m.response != nil {
		x.answer(m)
		return
	}
	switch m.method {
	case "REGISTER":
		x.register(m)
	case "INVITE":
		x.invite(m)
	case "ACK":
		x.ack(m)
	case "CANCEL":
		x.cancel(m)
	case "BYE":
		x.bye(m)
	case "OPTIONS":
		x.reply(m, 200, "OK", "")
	default:
		x.reply(m, 501, "Not Implemented", "")
	}
}
