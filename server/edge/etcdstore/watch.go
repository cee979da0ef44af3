package etcdstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds of the watch.
const (
	watchBytes   = 16 << 20 // of keys and values that wait for the core: then nothing more is read
	watchChanges = 256      // in one Watched, but a commit is never divided
	relistTime   = 30 * time.Second
)

// watcher tells the core what is committed. One goroutine reads, one tells.
//
// The client of etcd reads on without bounds when its reader does not take what came. So
// this reader always takes; when too much waits for the core it ends the stream, and begins
// a new one behind what it has when the core has taken that. Whatever ends a stream (a
// connection, a leader, a member that has none), the next one begins where it ended. What
// was compacted meanwhile is found by reading all records again and comparing revisions.
type watcher struct {
	s     *Store
	next  int64            // revision at which the next stream begins: all before is told, or waits to be
	index map[string]int64 // the keys that are there, as told or waiting, with their revisions
	stray bool             // a key that is not ours was warned of

	mu       sync.Mutex
	pending  []portion
	bytes    int
	behind   int // changes
	seen     int64
	relisted uint64

	more  chan struct{} // there is something to tell
	taken chan struct{} // all was told
}

// portion is one Watched that waits for the core: whole commits.
type portion struct {
	changes []core.Change
	heads   []int // where in changes each commit begins
	size    int
	until   int64 // told it, the core has seen so far
}

func newWatcher(s *Store, entries []core.Entry, rev int64) *watcher {
	w := &watcher{s: s, next: rev + 1, index: make(map[string]int64, len(entries)), seen: rev,
		more: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
	for _, e := range entries {
		w.index[joined(e.Tenant, e.Key)] = int64(e.Revision)
	}
	return w
}

// joined returns the full key of what entryKey has taken apart.
func joined(tenant core.TenantID, key string) string {
	if tenant == "" {
		return key
	}
	return tenantRoot + string(tenant) + "/" + key
}

func (w *watcher) figures() (seen core.Revision, behind int, relisted uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return core.Revision(w.seen), w.behind, w.relisted
}

// read follows one stream after the other.
func (w *watcher) read() {
	base, pace := w.s.base, w.s.cfg.pace
	for fails := 0; base.Err() == nil; {
		from := w.next
		err := w.follow()
		if errors.Is(err, rpctypes.ErrCompacted) {
			err = w.relist()
		}
		if w.next > from {
			fails = 0
		}
		if err == nil {
			continue
		}
		if fails++; fails == 3 && base.Err() == nil {
			w.s.cfg.Log.Warn("etcd does not tell what others write: this node acts on what it knew", "node", w.s.cfg.Node, "err", err)
		}
		select {
		case <-base.Done():
		case <-time.After(min(pace.lastBackoff, pace.firstBackoff<<min(fails-1, 10))):
		}
	}
}

// follow reads one stream until it breaks, or until the core is too far behind; then it
// waits for the core.
func (w *watcher) follow() error {
	ctx, cancel := context.WithCancel(w.s.base) // which requires a leader: a member without one would be silent
	defer cancel()
	for reply := range w.s.cfg.Client.Watch(ctx, rangeFrom, clientv3.WithRange(rangeEnd), clientv3.WithRev(w.next),
		clientv3.WithFragment(), clientv3.WithProgressNotify()) {
		if err := reply.Err(); err != nil {
			return err
		}
		if w.took(reply) {
			cancel()
			return w.drain()
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("etcd ended the watch")
}

// drain waits until all was told.
func (w *watcher) drain() error {
	for {
		w.mu.Lock()
		left := len(w.pending)
		w.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-w.s.base.Done():
			return w.s.base.Err()
		case <-w.taken:
		}
	}
}

// took queues what a reply of etcd tells, and reports whether that is too much by now. A
// reply holds whole commits: etcd divides none between two, and the client joins fragments.
func (w *watcher) took(reply clientv3.WatchResponse) bool {
	if reply.IsProgressNotify() { // all up to there has come: should history be compacted, nothing is missing
		w.next = max(w.next, reply.Header.Revision+1)
		return false
	}
	var all []portion
	var p portion
	at, own := w.next-1, false
	for _, ev := range reply.Events {
		full, rev := string(ev.Kv.Key), ev.Kv.ModRevision
		if rev < w.next {
			continue // it has come already
		}
		tenant, key, ok := entryKey(full)
		if !ok {
			w.warnOf(full)
			continue
		}
		if rev != at && len(p.changes) >= watchChanges {
			all, p = append(all, p), portion{}
		}
		if rev != at || len(p.heads) == 0 {
			p.heads = append(p.heads, len(p.changes))
		}
		c := core.Change{Tenant: tenant, Key: key, Revision: core.Revision(rev)}
		if ev.Type == clientv3.EventTypePut {
			c.Value = present(ev.Kv.Value)
			w.index[full] = rev
		} else {
			delete(w.index, full)
		}
		own = own || full == w.s.node
		p.add(full, c)
		at = rev
	}
	if len(p.changes) > 0 {
		all = append(all, p)
	}
	if n := len(reply.Events); n > 0 {
		w.next = max(w.next, reply.Events[n-1].Kv.ModRevision+1)
	}
	if own {
		w.s.poke()
	}
	return w.queue(all)
}

func (p *portion) add(full string, c core.Change) {
	p.changes = append(p.changes, c)
	p.size += len(full) + len(c.Value)
	p.until = int64(c.Revision)
}

func (w *watcher) queue(all []portion) (tooMuch bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		w.pending = append(w.pending, p)
		w.bytes += p.size
		w.behind += len(p.changes)
	}
	ring(w.more)
	return w.bytes > w.s.cfg.watchBytes
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// relist reads all records and tells how they differ from what was told, as one Watched: it
// stands for all commits that were compacted. A deleted key has the revision of the reading.
func (w *watcher) relist() error {
	ctx, cancel := context.WithTimeout(w.s.base, relistTime)
	defer cancel()
	entries, rev, err := load(ctx, w.s.cfg.Client, loadPage, w.s.cfg.Log)
	if err != nil {
		return err
	}
	var changed []core.Change
	there := make(map[string]int64, len(entries))
	for _, e := range entries {
		full := joined(e.Tenant, e.Key)
		if there[full] = int64(e.Revision); w.index[full] != int64(e.Revision) {
			changed = append(changed, core.Change(e))
		}
	}
	for full := range w.index {
		if _, ok := there[full]; !ok {
			tenant, key, _ := entryKey(full)
			changed = append(changed, core.Change{Tenant: tenant, Key: key, Revision: core.Revision(rev)})
		}
	}
	slices.SortFunc(changed, func(a, b core.Change) int {
		if a.Revision != b.Revision {
			return int(a.Revision - b.Revision)
		}
		return strings.Compare(joined(a.Tenant, a.Key), joined(b.Tenant, b.Key))
	})
	w.s.cfg.Log.Info("etcd has dropped history that this node had not seen: all records were read again", "node", w.s.cfg.Node, "changed", len(changed))
	var p portion
	for i, c := range changed {
		p.heads = append(p.heads, i) // its own may be anywhere
		p.add(joined(c.Tenant, c.Key), c)
	}
	w.index, w.next = there, rev+1
	w.mu.Lock()
	w.relisted++
	w.mu.Unlock()
	if len(changed) > 0 {
		w.queue([]portion{p})
	}
	w.s.poke()
	return w.drain()
}

// warnOf says once that there are keys which are not of this server's making.
func (w *watcher) warnOf(key string) {
	if w.stray || strings.HasPrefix(key, nodeRoot) { // chains of earlier versions
		return
	}
	w.stray = true
	w.s.cfg.Log.Warn(strayKey, "key", key)
}

// tell hands over what waits, in order.
func (w *watcher) tell() {
	for {
		p, ok := w.first()
		if !ok {
			ring(w.taken)
			select {
			case <-w.s.base.Done():
				return
			case <-w.more:
			}
			continue
		}
		if !w.hold(p) {
			return
		}
		w.s.writer.tell(core.Watched{Changes: p.changes})
		w.mu.Lock()
		w.pending[0] = portion{}
		w.pending = w.pending[1:]
		w.bytes -= p.size
		w.behind -= len(p.changes)
		w.seen = p.until
		if len(w.pending) == 0 {
			w.pending = nil
		}
		w.mu.Unlock()
	}
}

func (w *watcher) first() (portion, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return portion{}, false
	}
	return w.pending[0], true
}

// hold waits while a commit of the portion is this store's own and not answered yet. The
// watch is often quicker than the reply:
//
//  1. The writer sends a batch; etcd commits it at revision 9.
//  2. The watch shows revision 9. The core would see its own write before its Stored.
//  3. The reply comes; the writer tells Stored.
//
// A batch is known as in flight before it is sent and until its last Stored is taken, and
// what is watched of its commit are changes of its Stores. So the first change of its commit is one of its
// changes, and looking for that costs nothing while nothing is in flight. It returns false
// when the store is closed.
func (w *watcher) hold(p portion) bool {
	for _, head := range p.heads {
		c := &p.changes[head]
		for {
			settled := w.s.unanswered(c.Tenant, c.Key, c.Value)
			if settled == nil {
				break
			}
			select {
			case <-settled:
			case <-w.s.base.Done():
				return false
			}
		}
	}
	return w.s.base.Err() == nil
}
