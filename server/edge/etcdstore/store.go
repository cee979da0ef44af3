package etcdstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Config is what a Store needs.
type Config struct {
	Client *clientv3.Client
	Node   core.NodeID

	// LeaseTTL is how long the node counts as alive without a sign of it; whole seconds,
	// default 5 s. etcd may grant more (at least 1.5 election timeouts).
	LeaseTTL time.Duration

	// Emit hands an event to the core; it must not block. When it returns false the event
	// is kept and handed over again: an outcome is never dropped.
	Emit func(core.Event) bool

	// Observe, where given, is called after each commit with the time from the first
	// sending to the certainty, and the number of keys written.
	Observe func(took time.Duration, ops int)

	Log *slog.Logger

	pace     pace // default defaultPace
	queueOps int  // default queueOps
}

// Gauges is how a Store stands at a moment.
type Gauges struct {
	QueuedOps   int           // changes that wait to be sent
	QueuedBytes int           // their keys and values
	InFlight    time.Duration // age of the batch whose outcome is awaited; 0: none
	Commits     uint64        // batches
	Ops         uint64        // keys written by them
	Unknown     uint64        // times that Unknown was told
	Refused     uint64        // times that Conflict was told
	Claims      uint64        // claims of this node by itself, the one of Open included
	Fenced      bool          // another owns what this node owned: it must not act any more
}

// Store is one node's writer. Do queues; one goroutine sends, batch after batch.
type Store struct {
	cfg    Config
	node   string // nodes/{id}
	chain  string // nodes/{id}/chain
	prefix string // of the ids of this process's links

	mu      sync.Mutex
	queue   queue
	answers []core.Event // of Stores that were answered without being sent
	closing bool
	sent    time.Time // when the batch in flight was first sent; zero: none
	listens bool      // the writer rests until something comes
	gauges  Gauges

	wake    chan struct{}
	flushed chan struct{} // closed when closing and nothing is left
	done    chan struct{} // closed when the goroutine has ended
	base    context.Context
	end     context.CancelFunc
	writer  *writer
}

// pace is the times of the writer.
type pace struct {
	attempt      time.Duration // for one Txn; then its outcome is open
	warn         time.Duration // then Unknown is told
	firstBackoff time.Duration // after an attempt whose outcome stayed open
	lastBackoff  time.Duration
	// Between the starts of two batches, unless the second is full. A batch costs about as much
	// however little it carries: its syncs, its way through raft and back, the wake-ups. After
	// a pause the first goes at once; under load the calls share.
	spacing time.Duration
}

func defaultPace() pace {
	return pace{attempt: time.Second, warn: 100 * time.Millisecond, firstBackoff: 20 * time.Millisecond, lastBackoff: 500 * time.Millisecond,
		spacing: 3 * time.Millisecond}
}

const (
	emitBackoff = time.Millisecond // the core's inbox is full
	revokeTime  = time.Second
)

// Open checks the version of etcd, claims the node (taking over from an earlier process of
// the same id at once) and returns all records of all tenants as they stand after the
// claim, ordered by tenant and key. It tries until ctx ends.
func Open(ctx context.Context, cfg Config) (*Store, []core.Entry, error) {
	if err := checkName(string(cfg.Node)); err != nil {
		return nil, nil, fmt.Errorf("node id %.40q: %w", cfg.Node, err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LeaseTTL <= 0 {
		cfg.LeaseTTL = 5 * time.Second
	}
	if cfg.pace == (pace{}) {
		cfg.pace = defaultPace()
	}
	if cfg.queueOps == 0 {
		cfg.queueOps = queueOps
	}
	if err := checkVersion(ctx, cfg); err != nil {
		return nil, nil, err
	}
	var chance [8]byte
	rand.Read(chance[:])
	s := &Store{
		cfg: cfg, node: nodeKey(cfg.Node), chain: chainKey(cfg.Node),
		prefix: string(cfg.Node) + "." + hex.EncodeToString(chance[:]) + ".",
		wake:   make(chan struct{}, 1), flushed: make(chan struct{}), done: make(chan struct{}),
	}
	// Not a child of ctx: that one bounds the opening only.
	s.base, s.end = context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	w := &writer{
		s: s, need: needNothing, answers: make(chan answer, 1),
		lapses: make(chan clientv3.LeaseID, 1), timer: time.NewTimer(0),
	}
	s.writer = w
	if err := w.claimFirst(clientv3.WithRequireLeader(ctx)); err != nil {
		s.end()
		return nil, nil, err
	}
	entries, err := load(ctx, cfg.Client, loadPage, cfg.Log)
	if err != nil {
		s.end()
		return nil, nil, err
	}
	w.keepAlive()
	go w.run()
	return s, entries, nil
}

// Do queues a write; it never blocks. The outcome comes by Emit: Conflict at once when the
// write is malformed, too large or the queue is full, else one of Stored, Conflict and
// Fenced, with at most one Unknown before it. The values must not be changed afterwards.
func (s *Store) Do(effect core.Store) {
	now := time.Now()
	w, err := accept(effect, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing: // the goroutine may be gone; the core is ending too
		s.cfg.Emit(core.Conflict{Token: effect.Token})
		return
	case s.gauges.Fenced:
		s.answers = append(s.answers, core.Fenced{Token: effect.Token})
	case err != nil:
		s.refuse(effect.Token, slog.LevelError, "a write was refused", err, effect.Tenant)
	case s.queue.full(w, s.cfg.queueOps):
		s.refuse(effect.Token, slog.LevelDebug, "a write was refused", errors.New("too many writes wait for etcd"), effect.Tenant)
	default:
		s.queue.push(w)
		// The last of a step wakes the writer, so that one batch takes them all. A writer that is
		// busy or keeps its spacing looks at the queue by itself; a full batch need not wait.
		if effect.More || !s.listens && s.queue.ops < batchOps {
			return
		}
	}
	s.signal()
}

// refuse answers Conflict. Only the token is kept: the core has bounded how many it asks.
func (s *Store) refuse(token core.Token, level slog.Level, text string, err error, tenant core.TenantID) {
	s.gauges.Refused++
	s.answers = append(s.answers, core.Conflict{Token: token})
	s.cfg.Log.Log(context.Background(), level, text, "tenant", tenant, "err", err)
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Gauges returns how the store stands.
func (s *Store) Gauges() Gauges {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gauges
	g.QueuedOps, g.QueuedBytes = s.queue.ops, s.queue.bytes
	if !s.sent.IsZero() {
		g.InFlight = time.Since(s.sent)
	}
	return g
}

// Close takes no more writes, waits until those that were taken are committed or ctx ends,
// and gives the node's lease back. It returns an error when some were not committed: their
// outcome is open.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	already := s.closing
	s.closing = true
	s.mu.Unlock()
	if already {
		<-s.done
		return nil
	}
	s.signal()
	select {
	case <-s.flushed:
	case <-ctx.Done():
	}
	s.end()
	<-s.done
	left := len(s.queue.stores) // the goroutine has ended: no lock is needed
	if s.writer.batch != nil {
		left += len(s.writer.batch.stores)
	}
	if !s.gauges.Fenced { // a fenced node's lease is not its own to end
		revoke(s.cfg.Client, s.writer.lease)
	}
	if left > 0 {
		return fmt.Errorf("%d writes were not committed when the store was closed: %w", left, context.Cause(ctx))
	}
	return nil
}

// link returns a new id for a link of the chain; no other process makes the same.
func (s *Store) link(n uint64) string { return s.prefix + strconv.FormatUint(n, 10) }

// revoke gives a lease back, best effort: it expires anyway.
func revoke(client *clientv3.Client, lease clientv3.LeaseID) {
	if lease == clientv3.NoLease {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), revokeTime)
	defer cancel()
	_, _ = client.Revoke(ctx, lease)
}
