package sipstack

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
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
	MaxTransactions   int           // of peers, and as many of ours, default 50,000; one source gets half
	ConnectTimeout    time.Duration // DNS and TCP dial of one request, default 3 s
	T1                time.Duration // RFC 3261 s.17.1.1.1; 0: 500 ms. One value per process: the library keeps its timers in variables
	Software          string        // User-Agent and Server, default "dialtone"
	Resolver          *net.Resolver // default net.DefaultResolver
}

func (c *Config) setDefaults() {
	c.MaxFlows = positive(c.MaxFlows, 10000)
	c.MaxFlowsPerSource = positive(c.MaxFlowsPerSource, max(1, c.MaxFlows/4))
	c.MaxMessage = positive(c.MaxMessage, 64*1024)
	c.MaxTransactions = positive(c.MaxTransactions, 50000)
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

const (
	outboxSize = 8192 // effects that wait in one worker
	maxReaches = 256  // requests that wait for DNS or a TCP dial at a time
)

// Stack is a running SIP edge. Do is called from one goroutine; everything else from any.
type Stack struct {
	cfg    Config
	log    *slog.Logger
	parser *sip.Parser
	quiet  *slog.Logger // for the library, which logs what strangers send

	udp     []*socket
	tcp     []*listener
	flows   flowTable
	servers serverTable
	clients clientTable
	inbox   inbox
	tally   tally
	direct  directory // peers that did not answer on TCP

	outbox  []chan core.Effect // one per worker; by Call-ID, so that a dialog keeps its order
	seed    maphash.Seed
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
	if cfg.T1 > 0 && cfg.T1 != sip.T1 {
		sip.SetTimers(cfg.T1, 8*cfg.T1, 10*cfg.T1)
	}
	s := &Stack{
		cfg: cfg, log: cfg.Log, parser: newParser(cfg.MaxMessage), quiet: slog.New(slog.DiscardHandler),
		outbox: make([]chan core.Effect, min(8, max(2, runtime.GOMAXPROCS(0)))),
		seed:   maphash.MakeSeed(), reaches: make(chan struct{}, maxReaches), done: make(chan struct{}),
	}
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
	for i := range s.outbox {
		s.outbox[i] = make(chan core.Effect, outboxSize)
		s.workers.Go(func() { s.work(s.outbox[i]) })
	}
	s.workers.Go(s.sweep)
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

// Do carries out SendRequest and Respond; other effects are not for this edge. It hands
// the work to a worker and never waits: with a full outbox a request fails as Undelivered
// and a response is dropped, so that its request is repeated.
func (s *Stack) Do(e core.Effect) {
	if s.closed.Load() {
		return
	}
	var callID string
	switch e := e.(type) {
	case core.SendRequest:
		callID = e.Request.CallID
	case core.Respond:
		callID = e.Response.CallID
	default:
		return
	}
	box := s.outbox[maphash.String(s.seed, callID)%uint64(len(s.outbox))]
	select {
	case box <- e:
	default:
		s.tally.shedOutbox.Add(1)
		if e, ok := e.(core.SendRequest); ok && e.Request.Method != core.ACK {
			s.inbox.keep(core.TransactionFailed{Txn: clientID(e), Cause: core.Undelivered})
		}
	}
}

func (s *Stack) work(box <-chan core.Effect) {
	for {
		select {
		case e := <-box:
			s.carryOut(e)
		case <-s.done:
			for { // what was asked for before Close still leaves
				select {
				case e := <-box:
					s.carryOut(e)
				default:
					return
				}
			}
		}
	}
}

func (s *Stack) carryOut(e core.Effect) {
	switch e := e.(type) {
	case core.SendRequest:
		s.send(e)
	case core.Respond:
		s.respond(e)
	}
}

// sweep ends transactions of peers that the core never answered: after 64*T1 the peer has
// given up (RFC 3261 s.17.1.2.2). An INVITE may wait for as long as the core likes.
func (s *Stack) sweep() {
	tick := time.NewTicker(sip.Timer_F / 4)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case now := <-tick.C:
			for _, t := range s.servers.unanswered(now.Add(-sip.Timer_F)) {
				s.tally.unanswered.Add(1)
				t.machine.Terminate()
			}
		}
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
