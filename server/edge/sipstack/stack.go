package sipstack

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// Listen is one address to receive SIP on.
type Listen struct {
	Transport core.Transport
	Addr      netip.AddrPort // port 0: any free one
	Contact   netip.AddrPort // by which peers reach it: goes into Via; zero: as bound
}

// Config is what a Stack is told at birth. The zero value of a count or a duration means
// its default.
type Config struct {
	Listen []Listen
	Emit   func(core.Event) bool // hands an event on, never blocks; false: no room now
	Log    *slog.Logger

	MaxFlows          int           // TCP connections, default 10,000
	MaxFlowsPerSource int           // of one address, default a quarter of MaxFlows
	FlowOpening       time.Duration // until the first message is whole, and for each message, default 30 s
	FlowIdle          time.Duration // nothing received after that, default 65 min: longer than a binding lives
	MaxMessage        int           // bytes, default 64 kB
	Members           []netip.Addr  // of the cluster's nodes, see SetMembers
	MaxPassed         int           // messages in a second from one phone's connection to other nodes, default 2,000: a phone sends five, an exchange that registers as one more
	MaxTransactions   int           // of peers, and as many of ours, default 150,000; one source gets half: 1,170 calls/s of a trunk, each with two for 32 s
	ConnectTimeout    time.Duration // DNS and TCP dial of one request, default 3 s
	T1                time.Duration // RFC 3261 s.17.1.1.1; 0: that of the library, 500 ms
	Software          string        // User-Agent and Server, default "dialtone"
	Resolver          *net.Resolver // default net.DefaultResolver
}

func (c *Config) setDefaults() {
	c.MaxFlows = positive(c.MaxFlows, 10000)
	c.MaxFlowsPerSource = positive(c.MaxFlowsPerSource, max(1, c.MaxFlows/4))
	c.MaxMessage = positive(c.MaxMessage, 64*1024)
	c.MaxPassed = positive(c.MaxPassed, 2000)
	c.MaxTransactions = positive(c.MaxTransactions, 150000)
	c.FlowOpening = positive(c.FlowOpening, 30*time.Second)
	c.FlowIdle = positive(c.FlowIdle, 65*time.Minute)
	c.ConnectTimeout = positive(c.ConnectTimeout, 3*time.Second)
	if c.Software == "" {
		c.Software = "dialtone"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
}

func positive[T int | time.Duration](v, standard T) T {
	if v > 0 {
		return v
	}
	return standard
}

const maxReaches = 256 // requests that wait for DNS or a TCP dial at a time

// Stack is a running SIP edge. Do is called from one goroutine; everything else from any.
type Stack struct {
	cfg    Config
	log    *slog.Logger
	parser *sip.Parser
	timing timing
	alarms alarms

	udp     []*socket
	tcp     []*listener
	flows   flowTable
	servers serverTable
	clients clientTable
	inbox   inbox
	tally   tally
	direct  directory // peers that did not answer on TCP
	members atomic.Pointer[map[netip.Addr]bool]

	scratch sync.Pool     // *[]byte, to write a message in
	reaches chan struct{} // one token per request that waits for DNS or a dial
	done    chan struct{} // closed when Close begins
	closed  atomic.Bool
	workers sync.WaitGroup
	readers sync.WaitGroup
	ctx     context.Context // of DNS and dials; ends with Close
	stop    context.CancelFunc
}

// New binds the addresses and begins to receive. Its errors say which address could not be
// had and what to do about it.
func New(cfg Config) (*Stack, error) {
	cfg.setDefaults()
	if cfg.Emit == nil {
		return nil, errors.New("sipstack: Config.Emit is missing")
	}
	s := &Stack{
		cfg: cfg, log: cfg.Log, parser: newParser(cfg.MaxMessage), timing: timingOf(cfg.T1),
		reaches: make(chan struct{}, maxReaches), done: make(chan struct{}),
	}
	s.scratch.New = func() any { b := make([]byte, 0, 2048); return &b }
	s.alarms.init(s.timing.grain())
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.flows.init()
	s.servers.init(cfg.MaxTransactions)
	s.clients.init(cfg.MaxTransactions)
	s.inbox.init(s, cfg.Emit)
	s.direct.init()
	if err := s.bind(); err != nil {
		s.stop()
		return nil, err
	}
	s.SetMembers(cfg.Members)
	s.workers.Go(s.inbox.retry)
	s.serve()
	return s, nil
}

// Addr returns the bound address of the first listener of a transport; it is not valid
// when there is none.
func (s *Stack) Addr(t core.Transport) netip.AddrPort {
	switch {
	case t == core.UDP && len(s.udp) > 0:
		return s.udp[0].local
	case t == core.TCP && len(s.tcp) > 0:
		return s.tcp[0].local
	}
	return netip.AddrPort{}
}

// timingOf returns the durations that follow from T1; for 0, those of the library, which a
// process may have set.
func timingOf(t1 time.Duration) timing {
	t := timing{t1: t1, t2: 8 * t1, t4: 10 * t1, d: 64 * t1}
	if t1 <= 0 {
		t = timing{t1: sip.T1, t2: sip.T2, t4: sip.T4, d: sip.Timer_D}
	}
	t.trying = t.t1 * 3 / 10 // with the grain not above 200 ms
	return t
}

// Do carries out SendRequest and Respond; other effects are not for this edge. It never
// waits: what takes DNS or a connection goes on beside it.
func (s *Stack) Do(e core.Effect) {
	if s.closed.Load() {
		return
	}
	switch e := e.(type) {
	case core.SendRequest:
		s.send(e)
	case core.Respond:
		s.respond(e)
	}
}

// Close sends what was asked for before it, then closes every socket and transaction. No
// event is emitted afterwards. It returns the context's error when that ends first.
func (s *Stack) Close(ctx context.Context) error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.done)
	err := await(ctx, &s.workers)
	s.flows.drain(ctx)
	s.inbox.close()
	s.stop()
	for _, l := range s.tcp {
		l.Close()
	}
	for _, u := range s.udp {
		u.conn.Close()
	}
	s.flows.closeAll()
	s.servers.terminateAll()
	s.clients.terminateAll()
	s.alarms.close()
	return errors.Join(err, await(ctx, &s.readers))
}

func await(ctx context.Context, g *sync.WaitGroup) error {
	ended := make(chan struct{})
	go func() { g.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
