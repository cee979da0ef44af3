package etcd

import (
	"cmp"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// lease is one lease. All members know it and its keys; when it expires is known to the
// leader alone, and to each leader anew.
type lease struct {
	id      LeaseID
	ttl     int64 // seconds
	keys    []string
	expiry  core.Time
	revoked core.Time // when the leader last proposed its end; 0: not yet
	renew   []*call   // keepalives that came after the expiry: they wait until it is gone
}

// lessor is the leases (etcd: lease.lessor), in the order of their ids.
type lessor struct {
	all      []*lease
	election time.Duration
	plant    Plant
}

const (
	maxTTL      = 9_000_000_000 // seconds
	revokeEvery = 500 * time.Millisecond
	revokeAgain = 3 * time.Second
)

// least is the smallest time to live in seconds: 1.5 election timeouts.
func (l *lessor) least() int64 {
	return int64((l.election*3/2 + time.Second - 1) / time.Second)
}

func (l *lessor) place(id LeaseID) (int, bool) {
	return slices.BinarySearchFunc(l.all, id, func(x *lease, id LeaseID) int { return cmp.Compare(x.id, id) })
}

func (l *lessor) find(id LeaseID) *lease {
	if i, ok := l.place(id); ok {
		return l.all[i]
	}
	return nil
}

// grant makes a lease.
func (l *lessor) grant(id LeaseID, ttl int64, now core.Time) (*lease, Error) {
	if ttl > maxTTL {
		return nil, ErrTTLTooLarge
	}
	x := &lease{id: id, ttl: max(ttl, l.least())}
	x.refresh(now, 0)
	if l.plant == PlantEarlyExpiry {
		x.expiry = now.Add(time.Duration(x.ttl) * time.Second / 2)
	}
	i, _ := l.place(id)
	l.all = slices.Insert(l.all, i, x)
	return x, ""
}

// refresh lets a lease live for its whole time again, and some more.
func (x *lease) refresh(now core.Time, more time.Duration) {
	x.expiry, x.revoked = now.Add(time.Duration(x.ttl)*time.Second+more), 0
}

// promote is what a new leader does: it does not know when the leases were last renewed,
// so each gets its whole time and an election timeout (server.go: lessor.Promote).
func (l *lessor) promote(now core.Time) {
	for _, x := range l.all {
		if l.plant != PlantNotPromoted {
			x.refresh(now, l.election)
		}
		x.revoked = 0
	}
}

// expired returns the leases whose end is to be proposed now.
func (l *lessor) expired(now core.Time) []LeaseID {
	var ids []LeaseID
	for _, x := range l.all {
		if x.expiry <= now && (x.revoked == 0 || now.Sub(x.revoked) >= revokeAgain) {
			x.revoked = now
			ids = append(ids, x.id)
		}
	}
	return ids
}

func (l *lessor) attach(id LeaseID, key string) {
	if x := l.find(id); x != nil {
		x.keys = append(x.keys, key)
	}
}

func (l *lessor) detach(id LeaseID, key string) {
	x := l.find(id)
	if x == nil {
		return
	}
	if i := slices.Index(x.keys, key); i >= 0 {
		x.keys = slices.Delete(x.keys, i, i+1)
	}
}

func (l *lessor) remove(id LeaseID) {
	if i, ok := l.place(id); ok {
		l.all = slices.Delete(l.all, i, i+1)
	}
}
