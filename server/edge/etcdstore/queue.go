package etcdstore

import (
	"fmt"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds. etcd refuses more than 128 operations and 1.5 MiB in one Txn; 64 operations give
// the best latency with most of the throughput.
const (
	// MaxOps is how many different keys one core.Store may change; more is a Conflict.
	MaxOps = 127
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

// waiting is one core.Store that is not committed yet.
type waiting struct {
	token   core.Token
	changes []change // one per key
	size    int
	since   time.Time
	warned  bool // Unknown was told
}

// accept checks a core.Store and gives it the form in which it waits. Of several changes
// of one key the last holds: etcd refuses a key twice in one Txn, and nobody can see
// what is between two changes of one Txn.
func accept(effect core.Store, now time.Time) (waiting, error) {
	w := waiting{token: effect.Token, since: now, changes: make([]change, 0, len(effect.Ops))}
	for _, op := range effect.Ops {
		key, err := tenantKey(effect.Tenant, op.Key)
		if err != nil {
			return waiting{}, err
		}
		w.put(change{key, op.Value})
		if len(w.changes) > MaxOps {
			return waiting{}, fmt.Errorf("more than %d keys in one write: split it", MaxOps)
		}
	}
	for _, c := range w.changes {
		w.size += c.size()
	}
	if w.size > MaxBytes {
		return waiting{}, fmt.Errorf("%d bytes in one write, at most %d are allowed", w.size, MaxBytes)
	}
	return w, nil
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

// queue holds what waits, in the order of Do.
type queue struct {
	stores []waiting
	ops    int
	bytes  int
	warned int // so many of the first have certainly been told Unknown
}

// full reports whether a Store has no room where at most so many operations may wait.
func (q *queue) full(w waiting, ops int) bool {
	return q.ops+len(w.changes) > ops || q.bytes+w.size > queueBytes || len(q.stores) >= ops
}

func (q *queue) push(w waiting) {
	q.stores = append(q.stores, w)
	q.ops += len(w.changes)
	q.bytes += w.size
}

// batch is what one Txn carries.
type batch struct {
	id      string
	stores  []waiting
	changes []change // one per key
	sent    time.Time
	open    bool  // a copy was sent whose outcome is not known
	bad     error // etcd refuses it for its form
}

// take removes the next batch from the queue: as many Stores as fit, at least one; just
// one when alone. Of several changes of one key within the batch the last holds, and each
// Store is answered: the Txn commits them all at one revision.
func (q *queue) take(id string, alone bool) *batch {
	b := &batch{id: id}
	at := make(map[string]int)
	bytes := 0
	for i := range q.stores {
		w := &q.stores[i]
		fresh := 0
		for _, c := range w.changes {
			if _, ok := at[c.key]; !ok {
				fresh++
			}
		}
		if len(b.stores) > 0 && (alone || len(b.changes)+fresh > batchOps || bytes+w.size > batchBytes) {
			break
		}
		for _, c := range w.changes {
			if j, ok := at[c.key]; ok {
				b.changes[j] = c
				continue
			}
			at[c.key] = len(b.changes)
			b.changes = append(b.changes, c)
		}
		bytes += w.size
		b.stores = append(b.stores, *w)
	}
	q.drop(len(b.stores))
	return b
}

func (q *queue) drop(n int) {
	for i := range n {
		q.ops -= len(q.stores[i].changes)
		q.bytes -= q.stores[i].size
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
