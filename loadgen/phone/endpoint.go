package phone

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// Target is where requests that have no route of their own go: a registrar, a trunk, a proxy.
type Target struct {
	Network string // "udp" (also "") or "tcp"
	Addr    netip.AddrPort
}

// EndpointConfig is one local SIP address that many phones share.
type EndpointConfig struct {
	Target   Target
	Media    *stream.Engine // of the phones' audio; nil: one of its own
	Addr     netip.Addr     // local address of SIP; default: the one from which the target is reached
	Port     uint16         // 0: any free one
	MaxCalls int            // at a time, default 20,000: what comes in above is refused with 503
	T1       time.Duration  // RFC 3261 s.17.1.1.1, default 500 ms
	Start    time.Time      // of an engine of its own, see stream.Config
	Log      *slog.Logger
}

const (
	maxTransactions = 200_000 // at a time, both ways
	maxRemembered   = 200_000 // answers kept for those who repeat themselves
)

// Endpoint is one SIP transport with many phones behind it.
type Endpoint struct {
	cfg       EndpointConfig
	log       *slog.Logger
	t1        time.Duration
	media     *stream.Engine
	ownMedia  bool
	parser    *sip.Parser
	udp       *datagrams
	tcp       *connections
	local     netip.AddrPort
	network   string // "UDP" or "TCP", as in Via
	sentBy    string
	transport string // parameter of our Contact
	kick      chan struct{}
	done      chan struct{}
	running   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	alarms  alarms
	wake    time.Time // when the clock will look next, zero while it runs
	clients map[string]*clientTxn
	servers map[string]*serverTxn
	past    past
	phones  map[string]*Phone
	calls   map[string]*Call
	tally   Stats
}

// Stats says how the endpoint itself does.
type Stats struct {
	Sent, Received uint64        // SIP messages
	Resent         uint64        // of Sent, repetitions by our timers
	Repeated       uint64        // of Received, requests that had come before
	Garbage        uint64        // what is not SIP, or broken
	Dropped        uint64        // datagrams that the kernel dropped because we read too slowly
	Calls          int           // alive
	Transactions   int           // alive, with what is kept to answer repetitions
	Lag            time.Duration // longest time a datagram waited in the kernel until it was read
}

// Listen opens the SIP port.
func Listen(cfg EndpointConfig) (*Endpoint, error) {
	if !cfg.Target.Addr.IsValid() {
		return nil, errors.New("phone: Target.Addr is missing: give the server's address and port")
	}
	e := &Endpoint{cfg: cfg, log: cfg.Log, t1: cfg.T1, parser: newParser(), media: cfg.Media,
		kick: make(chan struct{}, 1), done: make(chan struct{}),
		clients: map[string]*clientTxn{}, servers: map[string]*serverTxn{}, phones: map[string]*Phone{}, calls: map[string]*Call{}}
	e.past.init(maxRemembered)
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.t1 <= 0 {
		e.t1 = 500 * time.Millisecond
	}
	if e.cfg.MaxCalls <= 0 {
		e.cfg.MaxCalls = 20_000
	}
	if err := e.bind(); err != nil {
		return nil, err
	}
	if e.media == nil {
		var err error
		if e.media, err = stream.New(stream.Config{Addr: e.local.Addr(), Start: cfg.Start, Log: cfg.Log}); err != nil {
			e.closeSockets()
			return nil, err
		}
		e.ownMedia = true
	}
	e.sentBy = e.local.String()
	e.past.alarm.ring = e.forget
	e.running.Go(e.tick)
	if e.udp != nil {
		e.running.Go(e.udp.read)
	} else {
		e.running.Go(e.tcp.accept)
	}
	return e, nil
}

func (e *Endpoint) bind() error {
	target := e.cfg.Target.Addr
	if !e.cfg.Addr.IsValid() {
		probe, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target)) // sends nothing
		if err != nil {
			return fmt.Errorf("no way to %s: %w", target, err)
		}
		e.cfg.Addr = probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = probe.Close()
	}
	at := netip.AddrPortFrom(e.cfg.Addr, e.cfg.Port)
	var err error
	switch strings.ToLower(e.cfg.Target.Network) {
	case "", "udp":
		e.network = "UDP"
		e.udp, err = e.openDatagrams(at)
		if err == nil {
			e.local = e.udp.local
		}
	case "tcp":
		e.network, e.transport = "TCP", ";transport=tcp"
		e.tcp, err = e.openConnections(at)
		if err == nil {
			e.local = e.tcp.local
		}
	default:
		return fmt.Errorf("network %q: must be udp or tcp", e.cfg.Target.Network)
	}
	return err
}

// Addr is where the endpoint takes SIP.
func (e *Endpoint) Addr() netip.AddrPort { return e.local }

// Stats counts since Listen.
func (e *Endpoint) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.tally
	s.Calls = len(e.calls)
	s.Transactions = len(e.clients) + len(e.servers) + len(e.past.byKey)
	return s
}

// Close ends all phones, as a power cut does: nobody is told.
func (e *Endpoint) Close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.closed = true
	for _, c := range e.calls {
		c.finish(Closed, time.Now())
	}
	for _, t := range e.clients {
		t.fail(errClosed)
	}
	for _, p := range e.phones {
		p.stop()
	}
	e.mu.Unlock()
	close(e.done)
	e.closeSockets()
	e.running.Wait()
	if e.ownMedia {
		e.media.Close()
	}
}

func (e *Endpoint) closeSockets() {
	if e.udp != nil {
		e.udp.close()
	}
	if e.tcp != nil {
		e.tcp.close()
	}
}

var errClosed = errors.New("the phone is closed")

// way is how a message leaves: a datagram to an address, or a connection.
type way struct {
	addr netip.AddrPort
	flow *flow // nil: UDP
}

// wayTo is the way to an address. The lock is held.
func (e *Endpoint) wayTo(addr netip.AddrPort) way {
	if !addr.IsValid() {
		addr = e.cfg.Target.Addr
	}
	if e.tcp != nil {
		return way{addr: addr, flow: e.tcp.to(addr)}
	}
	return way{addr: addr}
}

// write sends one message. The lock is held.
func (e *Endpoint) write(w way, wire []byte) error {
	if e.closed {
		return errClosed
	}
	e.tally.Sent++
	if w.flow != nil {
		return w.flow.write(wire)
	}
	if e.udp == nil {
		return errors.New("no connection to answer on")
	}
	return e.udp.write(wire, w.addr)
}

// receive takes one message from a socket, with the time of its arrival.
func (e *Endpoint) receive(data []byte, at time.Time, back way) {
	m, err := read(e.parser, data)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.tally.Received++
	if err != nil {
		e.tally.Garbage++
		e.log.Debug("SIP: a message that can't be read", "from", back.addr, "error", err)
		return
	}
	m.at, m.back = at, back
	if m.status != 0 {
		e.gotResponse(m)
	} else {
		e.gotRequest(m)
	}
}
