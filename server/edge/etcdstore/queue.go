package etcdstore

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds. etcd refuses more than 128 operations, or comparisons, or reads where they fail,
// and 1.5 MiB in one Txn; 64 operations give the best latency with most of the throughput.
const (
	// MaxOps is how many different keys one core.Store may change; more is a Conflict.
	MaxOps = 127
	// MaxGuards is how many guards one core.Store, and one batch, may have; more is a
	// Conflict. Where one fails, it is read together with the three keys of the fence.
	MaxGuards = 125
	// MaxBytes is how large the keys and values of one core.Store may be; more is a Conflict.
	MaxBytes = 1 << 20

	batchOps   = 63        // and the chain: 64
	batchBytes = 512 << 10 // a larger batch delays those behind it more than it saves

	// At these bounds a new core.Store is answered with Conflict: the core sheds load.
	queueOps   = 100_000
	queueBytes = 256 << 20
)

// change is one operation with its full key.
type change struct {
	key   string
	value []byte // nil: delete
}

func (c change) size() int { return len(c.key) + len(c.value) }

// guard is a core.Guard with its full key.
type guard struct {
	key string
	rev int64 // of the last write; 0: absent
}

// waiting is one core.Store that is not committed yet.
type waiting struct {
	token   core.Token
	changes []change // one per key
	guards  []guard
	cluster bool // it writes the cluster's own records
	claim   bool // of another node
	size    int
	since   time.Time
	warned  bool // Unknown was told
}

// accept checks a core.Store and gives it the form in which it waits. Of several changes
// of one key the last holds: etcd refuses a key twice in one Txn, and nobody can see
// what is between two changes of one Txn.
func accept(effect core.Store, now time.Time) (waiting, error) {
	w := waiting{token: effect.Token, since: now, changes: make([]change, 0, len(effect.Ops)), cluster: effect.Tenant == ""}
	for _, op := range effect.Ops {
		key, err := fullKey(effect.Tenant, op.Key)
		if err != nil {
			return waiting{}, err
		}
		switch {
		case !w.cluster:
		case strings.HasPrefix(key, nodeRoot) && op.Value != nil:
			return waiting{}, fmt.Errorf("key %.40q: a node makes its own key itself; others may delete it", key)
		case strings.HasPrefix(key, nodeRoot):
			w.claim = true
		case strings.HasPrefix(key, claimRoot) && op.Value != nil:
			w.claim = true
			w.put(change{chainOfClaim(key), []byte(key)})
		}
		w.put(change{key, op.Value})
		if len(w.changes) > MaxOps {
			return waiting{}, fmt.Errorf("more than %d keys in one write: split it", MaxOps)
		}
	}
	for _, g := range effect.If {
		if err := w.guard(effect.Tenant, g); err != nil {
			return waiting{}, err
		}
	}
	for _, c := range w.changes {
		w.size += c.size()
	}
	for _, g := range w.guards {
		w.size += len(g.key)
	}
	if w.size > MaxBytes {
		return waiting{}, fmt.Errorf("%d bytes in one write, at most %d are allowed", w.size, MaxBytes)
	}
	return w, nil
}

// guard adds a guard: on a record of the same tenant or of the cluster, whose own Stores may
// have any.
func (w *waiting) guard(tenant core.TenantID, g core.Guard) error {
	key, err := fullKey(g.Tenant, g.Key)
	switch {
	case err != nil:
		return fmt.Errorf("guard: %w", err)
	case g.Tenant != "" && tenant != "" && g.Tenant != tenant:
		return fmt.Errorf("guard: a record of tenant %.40q is not the business of %.40q", g.Tenant, tenant)
	case g.Revision < 0:
		return fmt.Errorf("guard: key %.40q: revision %d", key, g.Revision)
	case len(w.guards) == MaxGuards:
		return fmt.Errorf("more than %d guards of one write: split it", MaxGuards)
	}
	w.guards = append(w.guards, guard{key, int64(g.Revision)})
	return nil
}

func (w *waiting) put(c change) {
	for i := range w.changes { // at most 127, mostly below 5: a map would cost more
		if w.changes[i].key == c.key {
			w.changes[i] = c
			return
		}
	}
	w.changes = append(w.changes, c)
}

// deletes reports whether the key is among those that are deleted.
func (w *waiting) deletes(key string) bool {
	return slices.ContainsFunc(w.changes, func(c change) bool { return c.key == key && c.value == nil })
}

// queue holds what waits, in the order of Do but for claims.
type queue struct {
	stores []waiting
	ops    int
	bytes  int
	warned int // so many of the first have certainly been told Unknown
	claims int // so many of the Stores claim another node
}

// full reports whether a Store has no room where at most so many operations may wait.
func (q *queue) full(w waiting, ops int) bool {
	return q.ops+len(w.changes) > ops || q.bytes+w.size > queueBytes || len(q.stores) >= ops
}

// push lets a Store wait behind the others. One that claims another node overtakes those of
// tenants, for callers hear nothing until it is committed, and no tenant's Store can mind:
// what the dead node owned none of them was allowed to write. The cluster's own records
// keep their order among themselves.
func (q *queue) push(w waiting) {
	q.ops += len(w.changes)
	q.bytes += w.size
	if !w.claim {
		q.stores = append(q.stores, w)
		return
	}
	q.claims++
	at := len(q.stores)
	for at > 0 && !q.stores[at-1].cluster {
		at--
	}
	q.stores = slices.Insert(q.stores, at, w)
	q.warned = min(q.warned, at)
}

// batch is what one Txn carries.
type batch struct {
	id      string
	stores  []waiting
	changes []change       // one per key
	at      map[string]int // where in changes a key is
	guards  []guard        // each once
	sent    time.Time
	open    bool          // a copy was sent whose outcome is not known
	bad     error         // etcd refuses it for its form
	found   []int64       // after a refusal: the revisions that were found where guards are
	settled chan struct{} // closed when all its Stores are answered or wait again
}

// take removes the next batch from the queue: as many Stores as fit, at least one; just
// one when alone. Of several changes of one key within the batch the last holds, and each
// Store is answered: the Txn commits them all at one revision. A guard is compared before
// anything of the batch is written, so a Store whose guard is on a key that one before it
// writes begins the next batch. A claim is a batch of its own: it must not be refused in
// company and wait once more.
func (q *queue) take(id string, alone bool) *batch {
	b := &batch{id: id, at: make(map[string]int), settled: make(chan struct{})}
	size := 0
	for i := range q.stores {
		w := &q.stores[i]
		if i > 0 && (alone || w.claim || q.stores[0].claim || size+w.size > batchBytes || !b.fits(w)) {
			break
		}
		b.add(w)
		size += w.size
	}
	q.drop(len(b.stores))
	return b
}

// fits reports whether one more Store may join.
func (b *batch) fits(w *waiting) bool {
	fresh := 0
	for _, c := range w.changes {
		if _, ok := b.at[c.key]; !ok {
			fresh++
		}
	}
	for _, g := range w.guards {
		if _, ok := b.at[g.key]; ok {
			return false
		}
	}
	return len(b.changes)+fresh <= batchOps && len(b.guards)+len(w.guards) <= MaxGuards
}

func (b *batch) add(w *waiting) {
	for _, g := range w.guards {
		if !slices.Contains(b.guards, g) { // at most 125, mostly one or two different ones
			b.guards = append(b.guards, g)
		}
	}
	for _, c := range w.changes {
		if j, ok := b.at[c.key]; ok {
			b.changes[j] = c
			continue
		}
		b.at[c.key] = len(b.changes)
		b.changes = append(b.changes, c)
	}
	b.stores = append(b.stores, *w)
}

// refuses reports whether a Store of a refused batch was refused for its own guards.
func (b *batch) refuses(w *waiting) bool {
	for _, g := range w.guards {
		if i := slices.Index(b.guards, g); i >= 0 && i < len(b.found) && b.found[i] != g.rev {
			return true
		}
	}
	return false
}

// writes reports whether the batch makes that very change.
func (b *batch) writes(key string, value []byte) bool {
	i, ok := b.at[key]
	return ok && bytes.Equal(b.changes[i].value, value)
}

func (q *queue) drop(n int) {
	for i := range n {
		q.ops -= len(q.stores[i].changes)
		q.bytes -= q.stores[i].size
		if q.stores[i].claim {
			q.claims--
		}
		q.stores[i] = waiting{} // let go of the values
	}
	q.stores = q.stores[n:]
	q.warned = max(0, q.warned-n)
	if len(q.stores) == 0 {
		q.stores = nil
	}
}

// putBack returns the Stores of a batch to the front, to be sent in other company.
func (q *queue) putBack(b *batch) {
	q.stores = append(append(make([]waiting, 0, len(b.stores)+len(q.stores)), b.stores...), q.stores...)
	for _, w := range b.stores {
		q.ops += len(w.changes)
		q.bytes += w.size
		if w.claim {
			q.claims++
		}
	}
	q.warned = 0
}

// overdue returns the first Store that has waited since before the given instant and has
// not been told Unknown, and counts it as told.
func (q *queue) overdue(before time.Time) (core.Token, bool) {
	for ; q.warned < len(q.stores); q.warned++ {
		w := &q.stores[q.warned]
		if w.since.After(before) {
			break
		}
		if !w.warned {
			w.warned = true
			return w.token, true
		}
	}
	return 0, false
}
