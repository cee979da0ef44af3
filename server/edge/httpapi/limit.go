package httpapi

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"golang.org/x/time/rate"
)

// Entries of each table of limits. The least recently used one makes room.
const tableSize = 16384

// limits bounds the rate of requests. A key that the core has accepted once has a bucket
// of its own. Any other key draws from its sender's address, so that a flood of made-up keys
// takes neither memory nor from the rate of a real one.
type limits struct {
	mu      sync.Mutex
	keys    buckets[core.KeyHash]
	senders buckets[netip.Prefix]
}

func newLimits(perSecond float64, burst int) *limits {
	return &limits{
		keys:    newBuckets[core.KeyHash](tableSize, perSecond, burst),
		senders: newBuckets[netip.Prefix](tableSize, perSecond, burst),
	}
}

// take counts one request, and returns how long its sender must wait; 0: it may pass.
func (l *limits) take(key core.KeyHash, sender netip.Prefix, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.keys.find(key)
	if b == nil {
		b = l.senders.add(sender)
	}
	r := b.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// prove gives a key that the core has accepted its own bucket.
func (l *limits) prove(key core.KeyHash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys.add(key)
}

// senderOf is the address of a sender, or its /64 for IPv6, where one host has as many
// addresses as it likes.
func senderOf(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// buckets is a bounded table of token buckets, least recently used last.
type buckets[K comparable] struct {
	size  int
	rate  rate.Limit
	burst int
	at    map[K]*list.Element
	order *list.List
}

type bucket[K comparable] struct {
	key K
	*rate.Limiter
}

func newBuckets[K comparable](size int, perSecond float64, burst int) buckets[K] {
	return buckets[K]{size: size, rate: rate.Limit(perSecond), burst: burst,
		at: map[K]*list.Element{}, order: list.New()}
}

func (b *buckets[K]) find(key K) *rate.Limiter {
	e := b.at[key]
	if e == nil {
		return nil
	}
	b.order.MoveToFront(e)
	return e.Value.(bucket[K]).Limiter
}

func (b *buckets[K]) add(key K) *rate.Limiter {
	if l := b.find(key); l != nil {
		return l
	}
	if b.order.Len() >= b.size {
		last := b.order.Back()
		b.order.Remove(last)
		delete(b.at, last.Value.(bucket[K]).key)
	}
	l := rate.NewLimiter(b.rate, b.burst)
	b.at[key] = b.order.PushFront(bucket[K]{key, l})
	return l
}
