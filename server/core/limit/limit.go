// Package limit bounds how often somebody may do something: token buckets by key, in a
// table that cannot grow, so that a flood from many forged addresses costs no memory.
package limit

import (
	"container/list"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Table holds one bucket per key. When it is full the key that was refilled longest ago
// makes room; it starts full when it comes back, which errs on the side of letting in.
type Table[K comparable] struct {
	rate, burst float64
	size        int
	buckets     map[K]*list.Element
	order       *list.List // of bucket[K], least recently used first
}

type bucket[K comparable] struct {
	key    K
	tokens float64
	at     core.Time
}

// New returns a table of at most size buckets that hold burst and gain rate per second.
func New[K comparable](rate, burst float64, size int) *Table[K] {
	return &Table[K]{rate: rate, burst: burst, size: size, buckets: map[K]*list.Element{}, order: list.New()}
}

// Take takes one token of key's bucket and reports whether there was one.
func (t *Table[K]) Take(now core.Time, key K) bool {
	e, known := t.buckets[key]
	if !known {
		if t.order.Len() >= t.size {
			oldest := t.order.Front()
			delete(t.buckets, oldest.Value.(*bucket[K]).key)
			t.order.Remove(oldest)
		}
		e = t.order.PushBack(&bucket[K]{key: key, tokens: t.burst, at: now})
		t.buckets[key] = e
	}
	t.order.MoveToBack(e)
	b := e.Value.(*bucket[K])
	if gain := now.Sub(b.at).Seconds() * t.rate; gain > 0 {
		b.tokens, b.at = min(t.burst, b.tokens+gain), now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Len returns the number of buckets.
func (t *Table[K]) Len() int { return t.order.Len() }
