package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Config is what Peers is told at birth. The zero value of Beat and Misses means the default.
type Config struct {
	Addr   netip.AddrPort        // where peers reach this process, TCP and UDP; port 0: any that is free for both
	Self   core.Member           // its ID; an Incarnation of 0 is made known later, by SetSelf; Addr is not read
	Secret []byte                // the cluster's shared key, at least 16 bytes; may be missing on loopback only
	Beat   time.Duration         // between two heartbeats, 1 ms to 1 s, default 20 ms; the same in the whole cluster
	Misses int                   // heartbeats that must be missed for a silence, at least 3, default 5
	Emit   func(core.Event) bool // hands an event on, never blocks; false: no room now, it comes again
	Log    *slog.Logger
}

// Peers keeps in touch with the other processes of the cluster. Its methods may be called
// from any goroutine, and none of them waits for the network.
type Peers struct {
	cfg    Config
	log    *slog.Logger
	addr   netip.AddrPort
	bell   int // of the gate
	socket *socket
	clock  *clock
	birth  time.Time // all instants are durations since then

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	closing sync.Once
	work    sync.WaitGroup
	news    chan struct{} // something is to be told

	mu       sync.Mutex
	self     process
	peers    map[core.NodeID]*peer
	order    []*peer // the same, by ID
	inbound  map[process]*inbound
	ears     map[tag]*ear
	heralded []core.Event // PeerAsked and PeerTold that are to be told
	ticked   time.Duration
	tally    tally
}

// process is one incarnation of a node.
type process struct {
	id          core.NodeID
	incarnation core.Revision
}

func processOf(m core.Member) process { return process{m.ID, m.Incarnation} }

// The bounds of what is kept.
const (
	maxPeers     = 64  // more than any cluster of nodes that all see each other should have
	maxStrangers = 64  // connections of processes that know the secret and are no members (yet)
	maxShaking   = 256 // connections of which nothing is known, each for handshakeTime at most
	maxHeralded  = 64  // questions and answers that the core has no room for
	maxID        = 64  // bytes of a node's name
	leastSecret  = 16  // bytes
)

func (c *Config) check() error {
	if c.Beat == 0 {
		c.Beat = 20 * time.Millisecond
	}
	if c.Misses == 0 {
		c.Misses = 5
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Emit == nil:
		return errors.New("peers: Config.Emit is missing")
	case !c.Addr.IsValid():
		return errors.New("peers: no address to listen on; give one that the other nodes reach")
	case len(c.Self.ID) == 0 || len(c.Self.ID) > maxID:
		return fmt.Errorf("peers: a node's id has 1 to %d bytes, this one %d", maxID, len(c.Self.ID))
	case c.Beat < time.Millisecond || c.Beat > time.Second:
		return fmt.Errorf("peers: heartbeats every %v; choose 1 ms to 1 s", c.Beat)
	case c.Misses < 3:
		return fmt.Errorf("peers: a silence of %d heartbeats is no sign of anything; choose 3 or more", c.Misses)
	case len(c.Secret) == 0 && !c.Addr.Addr().IsLoopback():
		return fmt.Errorf("peers: on %v anybody could speak as a node; give the cluster's secret to every node, or listen on loopback", c.Addr)
	case len(c.Secret) > 0 && len(c.Secret) < leastSecret:
		return fmt.Errorf("peers: the cluster's secret must have at least %d bytes", leastSecret)
	}
	return nil
}

// New binds the address, for TCP and UDP, and begins to answer. Its errors say what to do.
func New(cfg Config) (*Peers, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.Secret = bytes.Clone(cfg.Secret)
	p := &Peers{
		cfg: cfg, log: cfg.Log, birth: time.Now(), self: processOf(cfg.Self),
		news:  make(chan struct{}, 1),
		peers: map[core.NodeID]*peer{}, inbound: map[process]*inbound{}, ears: map[tag]*ear{},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	clock, err := newClock(cfg.Beat)
	if err != nil {
		return nil, err
	}
	p.clock = clock
	if err := p.bind(); err != nil {
		p.stop()
		p.clock.close()
		return nil, err
	}
	if err := p.socket.only(nil); err != nil {
		p.log.Warn("the kernel takes no socket filter; a flood of datagrams can hide heartbeats", slog.Any("error", err))
	}
	p.work.Go(func() { onThread(p.beat) })
	p.work.Go(p.tell)
	return p, nil
}

// Addr returns the bound address.
func (p *Peers) Addr() netip.AddrPort {
	return p.addr
}

// Do carries out SetPeers, AskPeer and TellPeer; other effects are not for this edge.
func (p *Peers) Do(e core.Effect) {
	switch e := e.(type) {
	case core.SetPeers:
		p.setPeers(e.Members)
	case core.AskPeer:
		p.send(e.Whom, appendAsk(nil, e.About))
	case core.TellPeer:
		p.send(e.Whom, appendTell(nil, e.About, e.Hears))
	}
}

// SetSelf makes this process's incarnation known. Until then it answers, as a process that
// has none, and judges nobody. A second call means that the process has joined anew: its
// peers learn that who it was before is gone.
func (p *Peers) SetSelf(incarnation core.Revision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.self.incarnation == incarnation || p.ctx.Err() != nil {
		return
	}
	p.self.incarnation = incarnation
	p.ring()
	for _, q := range p.order {
		q.hush()
		p.court(q)
	}
}

// Close ends everything without a word. To its peers that is the end of the process, so it
// comes when there is nothing left to be taken over. No event is emitted afterwards.
func (p *Peers) Close() {
	p.closing.Do(func() {
		p.mu.Lock()
		p.stop()
		p.mu.Unlock()
		p.ring()
		p.clock.end()
		p.work.Wait()
		p.socket.close()
		p.clock.close()
		_ = unix.Close(p.bell)
	})
}

// now returns the time since birth, which no change of the wall clock touches.
func (p *Peers) now() time.Duration { return time.Since(p.birth) }
