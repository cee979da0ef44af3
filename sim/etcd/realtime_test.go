package etcd

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// TestLeaseTimesAreEtcds compares when leases end. Etcd takes its time on a loaded machine,
// so it has much room to be late and none to be early; the model must lie within what etcd
// does on an idle one.
func TestLeaseTimesAreEtcds(t *testing.T) {
	client := startReal(t)
	for _, c := range []struct {
		name    string
		ttl     int64
		renewAt time.Duration
		least   time.Duration
	}{
		{"of less than the least time", 1, 0, 2 * time.Second},
		{"renewed once", 2, time.Second, 3 * time.Second},
	} {
		real := realLease(t, client, c.ttl, c.renewAt)
		if real < c.least || real > c.least+20*time.Second {
			t.Errorf("%s: etcd's ended after %v, the least is %v", c.name, real, c.least)
		}
		for seed := range uint64(20) {
			if model := modelLease(t, seed, c.ttl, c.renewAt); model < c.least || model > c.least+600*time.Millisecond {
				t.Errorf("%s, seed %d: the model's ended after %v, etcd's after %v", c.name, seed, model, real)
			}
		}
		t.Logf("%s: etcd's ended after %v", c.name, real)
	}
}

// realLease returns how long a key lived that was bound to a lease, from before the grant.
func realLease(t *testing.T, client *clientv3.Client, ttl int64, renewAt time.Duration) time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	began := time.Now()
	lease, err := client.Grant(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	put, err := client.Put(ctx, "bound", "", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	if renewAt > 0 {
		time.Sleep(time.Until(began.Add(renewAt))) // the time is what is measured here
		began = began.Add(time.Since(began) - renewAt)
		if _, err := client.KeepAliveOnce(ctx, lease.ID); err != nil {
			t.Fatal(err)
		}
	}
	for reply := range client.Watch(ctx, "bound", clientv3.WithRev(put.Header.Revision+1)) {
		for _, e := range reply.Events {
			if e.Type == clientv3.EventTypeDelete {
				return time.Since(began)
			}
		}
	}
	t.Fatal("the lease never ended")
	return 0
}

func modelLease(t *testing.T, seed uint64, ttl int64, renewAt time.Duration) time.Duration {
	s := newScene(t, seed, nil)
	s.pass(time.Duration(seed) * 30 * time.Millisecond)
	began := s.now
	grant := s.ask(0, time.Second, false, Grant{TTL: ttl})
	for len(s.got[grant]) == 0 {
		s.pass(time.Millisecond)
	}
	lease := s.answer(grant).Reply.(LeaseReply).Lease
	s.ask(0, time.Second, false, Txn{Then: []Op{{Kind: Put, Key: "bound", Lease: lease}}})
	if renewAt > 0 {
		s.pass(began.Add(renewAt).Sub(s.now))
		s.ask(0, time.Second, false, KeepAlive{Lease: lease})
	}
	s.pass(10 * time.Second)
	for _, k := range s.commits {
		if _, ok := k.Do.(Revoke); ok {
			return k.At.Sub(began)
		}
	}
	t.Fatal("the lease never ended")
	return 0
}

// TestProgressIsEtcds compares what a progress notification on demand says.
func TestProgressIsEtcds(t *testing.T) {
	client := startReal(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	watch := client.Watch(ctx, "k", clientv3.WithCreatedNotify())
	if first := <-watch; !first.Created {
		t.Fatalf("%+v", first)
	}
	put, err := client.Put(ctx, "other", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	reply := <-watch
	if !reply.IsProgressNotify() || reply.Header.Revision != put.Header.Revision {
		t.Fatalf("etcd: %+v", reply)
	}

	s := newScene(t, 1, nil)
	id := s.ask(0, 0, false, Watch{Key: "k"})
	s.pass(time.Second)
	rev := s.must(putOf("other", "")).Revision
	s.ask(0, 0, false, AskProgress{})
	s.pass(time.Second)
	heard := s.got[id]
	if len(heard) != 2 || len(heard[1].Reply.(WatchReply).Events) != 0 || heard[1].Revision != rev || rev != core.Revision(2) {
		t.Fatalf("the model: %+v", heard)
	}
}
