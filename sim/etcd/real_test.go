package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/dialtone-cc/dialtone/server/core"
)

// patience is for what a real etcd does in its own time, on a loaded machine.
const patience = 30 * time.Second

// startReal starts an etcd of one member within this process, reached over loopback.
func startReal(t testing.TB) *clientv3.Client {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls = []url.URL{any}
	cfg.UnsafeNoFsync = true // what is on the disk does not matter here
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(patience):
		t.Fatal("the real etcd is not ready")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{server.Clients[0].Addr().String()}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// real runs programs on a real etcd.
type real struct {
	client  *clientv3.Client
	base    core.Revision
	leases  []clientv3.LeaseID
	watches []*realWatch
	end     context.CancelFunc
	ctx     context.Context
}

type realWatch struct {
	replies clientv3.WatchChan
	events  []Event
	ended   *Answer
}

// begin empties the store and forgets its history.
func (r *real) begin() error {
	r.ctx, r.end = context.WithTimeout(context.Background(), 2*patience)
	r.leases, r.watches = nil, nil
	if _, err := r.client.Delete(r.ctx, "\x00", clientv3.WithFromKey()); err != nil {
		return err
	}
	put, err := r.client.Put(r.ctx, "~", "") // so that there is something to compact
	if err != nil {
		return err
	}
	if _, err := r.client.Delete(r.ctx, "~"); err != nil {
		return err
	}
	r.base = core.Revision(put.Header.Revision) + 1
	_, err = r.client.Compact(r.ctx, int64(r.base))
	return err
}

// finish leaves nothing behind.
func (r *real) finish() {
	for _, id := range r.leases {
		_, _ = r.client.Revoke(r.ctx, id) // the program may have done it
	}
	r.end()
}

func (r *real) lease(n LeaseID) clientv3.LeaseID {
	switch {
	case n == 0:
		return 0
	case int(n) <= len(r.leases):
		return r.leases[n-1]
	}
	return 123456789
}

func (r *real) number(id LeaseID) int {
	for i, l := range r.leases {
		if l == clientv3.LeaseID(id) {
			return i + 1
		}
	}
	return int(id)
}

func (r *real) rev(offset core.Revision) int64 {
	if offset == 0 {
		return 0
	}
	return int64(r.base + offset - 1)
}

func (r *real) run(s step) Answer {
	switch {
	case s.Txn != nil:
		return r.txn(s.Txn)
	case s.Range != nil:
		opts := []clientv3.OpOption{clientv3.WithLimit(s.Range.Limit), clientv3.WithRev(r.rev(s.Range.Revision))}
		reply, err := r.client.Get(r.ctx, s.Range.Key, append(opts, rangeEnd(s.Range.End)...)...)
		if err != nil {
			return Answer{Err: class(err)}
		}
		return Answer{Revision: core.Revision(reply.Header.Revision), Reply: fromRange(reply.Kvs, reply.Count, reply.More)}
	case s.Grant != 0:
		reply, err := r.client.Grant(r.ctx, s.Grant)
		if err != nil {
			return Answer{Err: class(err)}
		}
		r.leases = append(r.leases, reply.ID)
		return Answer{Revision: core.Revision(reply.Revision), Reply: LeaseReply{Lease: LeaseID(reply.ID), TTL: reply.TTL}}
	case s.Alive != 0:
		reply, err := r.client.KeepAliveOnce(r.ctx, r.lease(LeaseID(s.Alive)))
		if err != nil {
			return Answer{Err: class(err)}
		}
		return Answer{Revision: core.Revision(reply.Revision), Reply: LeaseReply{Lease: LeaseID(reply.ID), TTL: reply.TTL}}
	case s.Revoke != 0:
		reply, err := r.client.Revoke(r.ctx, r.lease(LeaseID(s.Revoke)))
		if err != nil {
			return Answer{Err: class(err)}
		}
		return Answer{Revision: core.Revision(reply.Header.Revision), Reply: Done{}}
	case s.Past != 0:
		reply, err := r.client.Compact(r.ctx, r.rev(s.Past))
		if err != nil {
			return Answer{Err: class(err)}
		}
		return Answer{Revision: core.Revision(reply.Header.Revision), Reply: Done{}}
	}
	return Answer{}
}

// watch opens a watch on a stream of its own, and waits until the server has it. One from the
// past is served ten times a second, and may be compacted away before: so that it is known
// whether it was, this waits until it is up to date.
func (r *real) watch(w *Watch, past bool) Answer {
	ctx := metadata.AppendToOutgoingContext(r.ctx, "watch", fmt.Sprint(len(r.watches)))
	opts := append(rangeEnd(w.End), clientv3.WithRev(r.rev(w.From)), clientv3.WithCreatedNotify())
	x := &realWatch{replies: r.client.Watch(ctx, w.Key, opts...)}
	r.watches = append(r.watches, x)
	reply, ok := <-x.replies
	switch {
	case !ok:
		return Answer{Err: "the watch ended without a word"}
	case reply.Err() != nil:
		x.ended = &Answer{Err: class(reply.Err())}
		return *x.ended
	case !reply.Created:
		return Answer{Err: "the watch did not begin"}
	}
	for past && x.ended == nil {
		if err := r.client.RequestProgress(ctx); err != nil {
			return Answer{Err: class(err)}
		}
		select {
		case reply, ok := <-x.replies:
			past = ok && !reply.IsProgressNotify()
			x.take(reply)
		case <-time.After(20 * time.Millisecond): // it is not up to date and says nothing: ask again
		}
	}
	return Answer{Revision: core.Revision(reply.Header.Revision), Reply: WatchReply{Created: true}}
}

// take notes what a watch has told.
func (x *realWatch) take(reply clientv3.WatchResponse) {
	if err := reply.Err(); err != nil {
		x.ended = &Answer{Err: class(err), Reply: WatchReply{Ended: true, Compacted: core.Revision(reply.CompactRevision)}}
		return
	}
	for _, e := range reply.Events {
		x.events = append(x.events, Event{Deleted: e.Type == clientv3.EventTypeDelete, KV: fromKV(e.Kv)})
	}
}

// collect reads a watch until it has n events, or more, or has ended.
func (x *realWatch) collect(n int, end bool) error {
	late := time.After(patience)
	for x.ended == nil && (len(x.events) < n || end) {
		select {
		case reply, ok := <-x.replies:
			if !ok {
				return errors.New("the watch ended without a word")
			}
			x.take(reply)
		case <-late:
			return fmt.Errorf("the real watch told %d events, %d are awaited", len(x.events), n)
		}
	}
	return nil
}

func (r *real) txn(t *Txn) Answer {
	var cmps []clientv3.Cmp
	for _, c := range t.If {
		switch c.Target {
		case CreateRevision:
			cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(c.Key), string(c.Is), r.rev(core.Revision(c.Number))))
		case ModRevision:
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.Key), string(c.Is), r.rev(core.Revision(c.Number))))
		case Version:
			cmps = append(cmps, clientv3.Compare(clientv3.Version(c.Key), string(c.Is), c.Number))
		case Value:
			cmps = append(cmps, clientv3.Compare(clientv3.Value(c.Key), string(c.Is), string(c.Value)))
		}
	}
	reply, err := r.client.Txn(r.ctx).If(cmps...).Then(r.ops(t.Then)...).Else(r.ops(t.Else)...).Commit()
	if err != nil {
		return Answer{Err: class(err)}
	}
	out := TxnReply{Succeeded: reply.Succeeded}
	for _, one := range reply.Responses {
		switch {
		case one.GetResponsePut() != nil:
			out.Results = append(out.Results, Result{Kind: Put})
		case one.GetResponseDeleteRange() != nil:
			out.Results = append(out.Results, Result{Kind: Delete, Deleted: one.GetResponseDeleteRange().Deleted})
		case one.GetResponseRange() != nil:
			g := one.GetResponseRange()
			out.Results = append(out.Results, Result{Kind: Get, Range: fromRange(g.Kvs, g.Count, g.More)})
		}
	}
	return Answer{Revision: core.Revision(reply.Header.Revision), Reply: out}
}

func (r *real) ops(ops []Op) []clientv3.Op {
	var out []clientv3.Op
	for _, o := range ops {
		switch o.Kind {
		case Put:
			out = append(out, clientv3.OpPut(o.Key, string(o.Value), clientv3.WithLease(r.lease(o.Lease))))
		case Delete:
			out = append(out, clientv3.OpDelete(o.Key, rangeEnd(o.End)...))
		case Get:
			out = append(out, clientv3.OpGet(o.Key, append(rangeEnd(o.End), clientv3.WithLimit(o.Limit), clientv3.WithRev(r.rev(o.Revision)))...))
		}
	}
	return out
}

func rangeEnd(end string) []clientv3.OpOption {
	if end == "" {
		return nil
	}
	return []clientv3.OpOption{clientv3.WithRange(end)}
}

func fromRange(kvs []*mvccpb.KeyValue, count int64, more bool) RangeReply {
	r := RangeReply{Count: count, More: more}
	for _, kv := range kvs {
		r.KVs = append(r.KVs, fromKV(kv))
	}
	return r
}

func fromKV(kv *mvccpb.KeyValue) KeyValue {
	return KeyValue{Key: string(kv.Key), Value: kv.Value, Create: core.Revision(kv.CreateRevision), Mod: core.Revision(kv.ModRevision),
		Version: kv.Version, Lease: LeaseID(kv.Lease)}
}

// class is the class of an error of the real client: its text says it.
func class(err error) Error {
	text := rpctypes.ErrorDesc(err)
	for _, e := range []Error{ErrEmptyKey, ErrDuplicateKey, ErrTooManyOps, ErrTooLarge, ErrCompacted, ErrFuture, ErrLeaseNotFound,
		ErrTTLTooLarge, ErrEmptyRange, ErrNoLeader, ErrLeaderChanged, ErrNoSpace} {
		if strings.HasSuffix(text, string(e)) || strings.HasSuffix(err.Error(), string(e)) {
			return e
		}
	}
	return Error("not known: " + err.Error())
}
