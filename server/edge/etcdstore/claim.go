package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// guard is the comparison that every Txn of a node makes.
func (s *Store) guard(at position) []clientv3.Cmp {
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(s.node), "=", at.incarnation),
		clientv3.Compare(clientv3.ModRevision(s.chain), "=", at.link),
	}
}

// commit sends one batch: the changes, and the id as the chain's new value.
func (s *Store) commit(ctx context.Context, at position, id string, changes []change) answer {
	ops := make([]clientv3.Op, 0, len(changes)+1)
	for _, c := range changes {
		if c.value == nil {
			ops = append(ops, clientv3.OpDelete(c.key))
		} else {
			ops = append(ops, clientv3.OpPut(c.key, string(c.value)))
		}
	}
	return s.txn(ctx, s.guard(at), append(ops, clientv3.OpPut(s.chain, id)))
}

// look reads both keys, linearizably.
func (s *Store) look(ctx context.Context) answer { return s.txn(ctx, nil, nil) }

// claim makes the node's key anew, with a new lease, where it has gone.
func (s *Store) claim(ctx context.Context, at position, id string) answer {
	granted, err := s.cfg.Client.Grant(ctx, int64((s.cfg.LeaseTTL+time.Second-1)/time.Second))
	if err != nil {
		return answer{err: err}
	}
	at.incarnation = 0
	a := s.txn(ctx, s.guard(at), []clientv3.Op{
		clientv3.OpPut(s.node, id, clientv3.WithLease(granted.ID)), clientv3.OpPut(s.chain, id)})
	a.lease = granted.ID
	return a
}

// unseat removes the node's key that an earlier process of this node made.
func (s *Store) unseat(ctx context.Context, at position, id string) answer {
	return s.txn(ctx, s.guard(at), []clientv3.Op{clientv3.OpDelete(s.node), clientv3.OpPut(s.chain, id)})
}

// txn carries out ops if the comparisons hold, and else reads both keys; without ops it
// just reads them.
func (s *Store) txn(ctx context.Context, cmps []clientv3.Cmp, ops []clientv3.Op) answer {
	read := []clientv3.Op{clientv3.OpGet(s.node), clientv3.OpGet(s.chain)}
	txn := s.cfg.Client.Txn(ctx)
	if len(ops) == 0 {
		txn = txn.Then(read...)
	} else {
		txn = txn.If(cmps...).Then(ops...).Else(read...)
	}
	reply, err := txn.Commit()
	if err != nil {
		return answer{err: err}
	}
	if reply.Succeeded && len(ops) > 0 {
		return answer{ok: true, rev: reply.Header.Revision}
	}
	if len(reply.Responses) != len(read) {
		return answer{err: fmt.Errorf("etcd answered %d of %d reads", len(reply.Responses), len(read))}
	}
	var a answer
	if kvs := reply.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 {
		a.sight.node, a.sight.lease = kvs[0].CreateRevision, clientv3.LeaseID(kvs[0].Lease)
	}
	if kvs := reply.Responses[1].GetResponseRange().GetKvs(); len(kvs) == 1 {
		a.sight.chain, a.sight.last = kvs[0].ModRevision, string(kvs[0].Value)
	}
	return a
}

// trace reads from the chain's history which link followed ours: the batch of that id, or
// another's. Where the history is compacted it stays open, and the batch counts as not
// written: whoever claimed has read what there is.
func (s *Store) trace(ctx context.Context, at position, id string) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for reply := range s.cfg.Client.Watch(ctx, s.chain, clientv3.WithRev(at.link+1)) {
		if errors.Is(reply.Err(), rpctypes.ErrCompacted) {
			s.cfg.Log.Warn("the outcome of the last batch before the fence is not in etcd's history any more", "batch", id)
			return answer{}
		}
		if err := reply.Err(); err != nil {
			return answer{err: err}
		}
		for _, ev := range reply.Events {
			return answer{mine: ev.Type == clientv3.EventTypePut && string(ev.Kv.Value) == id}
		}
	}
	if ctx.Err() != nil {
		return answer{err: ctx.Err()}
	}
	return answer{err: errors.New("etcd ended the watch of the chain")}
}

// isDefinite reports whether an error says that etcd did not and will not carry out that
// very request. Everything else (a deadline, a lost connection, no leader, no space) leaves
// the outcome open.
func isDefinite(err error) bool {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code() == codes.InvalidArgument
	}
	return status.Code(err) == codes.InvalidArgument
}

// claimFirst claims the node at the start, taking over from an earlier process.
func (w *writer) claimFirst(ctx context.Context) error {
	var last error
	for pause := w.s.cfg.pace.firstBackoff; ; pause = min(2*pause, w.s.cfg.pace.lastBackoff) {
		if last = w.claimOnce(ctx); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("claim of node %s in etcd: %w (is another process of the same id running?)", w.s.cfg.Node, last)
		case <-time.After(pause):
		}
	}
}

// claimOnce tries once. A try whose outcome stayed open is harmless: the next one looks
// again, and what it replaces is this process's own.
func (w *writer) claimOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*w.s.cfg.pace.attempt)
	defer cancel()
	a := w.s.look(ctx)
	if a.err != nil {
		return a.err
	}
	at := position{incarnation: a.sight.node, link: a.sight.chain}
	if at.incarnation != 0 {
		old := a.sight.lease
		if a = w.s.unseat(ctx, at, w.newLink()); a.err != nil {
			return a.err
		}
		if !a.ok {
			return errors.New("another process claims it at the same time")
		}
		at.link = a.rev
		defer revoke(w.s.cfg.Client, old) // nothing is bound to it any more
	}
	if a = w.s.claim(ctx, at, w.newLink()); a.err != nil {
		return a.err
	}
	if !a.ok {
		return errors.New("another process claims it at the same time")
	}
	w.at, w.lease = position{incarnation: a.rev, link: a.rev}, a.lease
	w.s.gauges.Claims++
	return nil
}
