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

	// Record is the value of the node's own key: what other nodes are to know of it. It is
	// written at the claim and must not be changed afterwards.
	Record []byte

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

	pace       pace // default defaultPace
	queueOps   int  // default queueOps
	watchBytes int  // default watchBytes
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

	Seen     core.Revision // up to which the core has been told what was committed
	Behind   int           // changes that were seen and wait for the core to take them
	Relisted uint64        // times that all records were read again, since history was compacted
}

// Store is one node's writer, and its watch. Do queues; one goroutine sends, batch after batch.
type Store struct {
	cfg    Config
	node   string // nodes/{id}
	chain  string // chains/{id}
	prefix string // of the ids of this process's links

	mu      sync.Mutex
	queue   queue
	answers []core.Event // of Stores that were answered without being sent
	closing bool
	sent    time.Time // when the batch in flight was first sent; zero: none
	flight  *batch    // the batch whose Stores are not all answered yet; its form does not change
	poked   bool      // the watch has seen that the node's key was touched
	listens bool      // the writer rests until something comes
	gauges  Gauges

	wake    chan struct{}
	flushed chan struct{} // closed when closing and nothing is left
	done    chan struct{} // closed when the goroutine has ended
	base    context.Context
	end     context.CancelFunc
	writer  *writer
	watcher *watcher
	wait    sync.WaitGroup // of what runs beside the writer
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

	versions time.Duration // between two looks at the versions of etcd's members
}

func defaultPace() pace {
	return pace{attempt: time.Second, warn: 100 * time.Millisecond, firstBackoff: 20 * time.Millisecond, lastBackoff: 500 * time.Millisecond,
		spacing: 3 * time.Millisecond, versions: versionsEvery}
}

const (
	emitBackoff = time.Millisecond // the core's inbox is full
	revokeTime  = time.Second
)

// Open checks the version of etcd, claims the node (taking over from an earlier process of
// the same id at once) and returns the new incarnation and all records as they stand after
// the claim, at one revision, ordered by key: the cluster's own, this node's included, and
// those of all tenants. It tries until ctx ends.
//
// What is committed from then on, by anybody, this Store included, comes by Emit as
// core.Watched, in the order of commits, nothing left out and nothing twice. The Stored of
// a Store always comes before the Watched that shows its commit.
//
// When another has claimed what this node owns, each Store is answered with Fenced; if none
// waits, one Fenced without a token says so. When only the node's lease has expired, which
// happens while etcd is away, the node claims itself again: Watched then shows its key
// deleted and made anew, with a new incarnation, and all else goes on.
func Open(ctx context.Context, cfg Config) (*Store, core.Restored, error) {
	if err := checkName(string(cfg.Node)); err != nil {
		return nil, core.Restored{}, fmt.Errorf("node id %.40q: %w", cfg.Node, err)
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
	if cfg.watchBytes == 0 {
		cfg.watchBytes = watchBytes
	}
	if err := checkVersion(ctx, cfg); err != nil {
		return nil, core.Restored{}, err
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
		return nil, core.Restored{}, err
	}
	entries, rev, err := load(clientv3.WithRequireLeader(ctx), cfg.Client, loadPage, cfg.Log)
	if err != nil {
		s.end()
		return nil, core.Restored{}, err
	}
	s.watcher = newWatcher(s, entries, rev)
	w.keepAlive()
	go w.run()
	s.wait.Go(s.watcher.read)
	s.wait.Go(s.watcher.tell)
	if len(cfg.Client.Endpoints()) > 0 {
		s.wait.Go(s.checkVersions)
	}
	return s, core.Restored{Incarnation: core.Revision(w.at.incarnation), Entries: entries}, nil
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
	case err == nil && w.claim && w.deletes(s.node):
		s.refuse(effect.Token, slog.LevelError, "a write was refused", errors.New("a node does not delete its own key: close the store"), effect.Tenant)
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

// poke has the writer look whether the node's key is still its own.
func (s *Store) poke() {
	s.mu.Lock()
	s.poked = true
	s.mu.Unlock()
	s.signal()
}

func (s *Store) takePoke() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	poked := s.poked
	s.poked = false
	return poked
}

// unanswered returns a channel that is closed when the batch in flight is settled, if that
// batch makes this very change, and else nil. The answer may be wrong in one way: another
// node makes the same change at the same moment, and waits for nothing.
func (s *Store) unanswered(tenant core.TenantID, key string, value []byte) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight == nil || !s.flight.writes(joined(tenant, key), value) {
		return nil
	}
	return s.flight.settled
}

// Gauges returns how the store stands.
func (s *Store) Gauges() Gauges {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gauges
	g.QueuedOps, g.QueuedBytes = s.queue.ops, s.queue.bytes
	g.Seen, g.Behind, g.Relisted = s.watcher.figures()
	if !s.sent.IsZero() {
		g.InFlight = time.Since(s.sent)
	}
	return g
}

// Close takes no more writes, waits until those that were taken are committed or ctx ends,
// and gives the node's lease back, which removes its key. It returns an error when some were not committed: their
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
	s.wait.Wait()
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
