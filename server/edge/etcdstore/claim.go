package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fence is the comparison that every Txn of a node makes.
func (s *Store) fence(at position) []clientv3.Cmp {
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(s.node), "=", at.incarnation),
		clientv3.Compare(clientv3.ModRevision(s.chain), "=", at.link),
	}
}

// commit sends one batch: the changes, and the id as the chain's new value.
func (s *Store) commit(ctx context.Context, at position, id string, changes []change, guards []guard) answer {
	ops := make([]clientv3.Op, 0, len(changes)+1)
	for _, c := range changes {
		if c.value == nil {
			ops = append(ops, clientv3.OpDelete(c.key))
		} else {
			ops = append(ops, clientv3.OpPut(c.key, string(c.value)))
		}
	}
	cmps := s.fence(at)
	for _, g := range guards {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(g.key), "=", g.rev))
	}
	return s.txn(ctx, at, cmps, append(ops, clientv3.OpPut(s.chain, id)), guards)
}

// look reads the keys of the fence, linearizably.
func (s *Store) look(ctx context.Context, at position) answer { return s.txn(ctx, at, nil, nil, nil) }

// claim makes the node's key with a new lease, where there is none: at the start, and when
// the one that was there has expired and nobody claimed what it stood for.
func (s *Store) claim(ctx context.Context, at position, id string) answer {
	granted, err := s.cfg.Client.Grant(ctx, int64((s.cfg.LeaseTTL+time.Second-1)/time.Second))
	if err != nil {
		return answer{err: err}
	}
	cmps := s.fence(position{link: at.link})
	if at.incarnation != 0 {
		cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(claimKey(s.cfg.Node, at.incarnation)), "=", 0))
	}
	a := s.txn(ctx, at, cmps, []clientv3.Op{
		clientv3.OpPut(s.node, string(s.cfg.Record), clientv3.WithLease(granted.ID)), clientv3.OpPut(s.chain, id),
		clientv3.OpDelete(formerChainKey(s.cfg.Node)), // who still writes that one is fenced by this
	}, nil)
	a.lease = granted.ID
	return a
}

// unseat removes the node's key that an earlier process of this node made.
func (s *Store) unseat(ctx context.Context, at position, id string) answer {
	return s.txn(ctx, at, s.fence(at), []clientv3.Op{clientv3.OpDelete(s.node), clientv3.OpPut(s.chain, id)}, nil)
}

// txn carries out ops if the comparisons hold, and else reads the keys of the fence and the
// revisions where guards are; without ops it just reads the former.
func (s *Store) txn(ctx context.Context, at position, cmps []clientv3.Cmp, ops []clientv3.Op, guards []guard) answer {
	read := make([]clientv3.Op, 0, 3+len(guards))
	read = append(read, clientv3.OpGet(s.node), clientv3.OpGet(s.chain), clientv3.OpGet(claimKey(s.cfg.Node, at.incarnation), clientv3.WithKeysOnly()))
	for _, g := range guards {
		read = append(read, clientv3.OpGet(g.key, clientv3.WithKeysOnly()))
	}
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
	for i, r := range reply.Responses {
		var kv mvccpb.KeyValue // of revision 0: absent
		if kvs := r.GetResponseRange().GetKvs(); len(kvs) == 1 {
			kv.CreateRevision, kv.ModRevision, kv.Lease, kv.Value = kvs[0].CreateRevision, kvs[0].ModRevision, kvs[0].Lease, kvs[0].Value
		}
		switch i {
		case 0:
			a.sight.node, a.sight.lease = kv.CreateRevision, clientv3.LeaseID(kv.Lease)
		case 1:
			a.sight.chain, a.sight.last = kv.ModRevision, string(kv.Value)
		case 2:
			a.sight.claimed = kv.CreateRevision != 0
		default:
			a.found = append(a.found, kv.ModRevision)
		}
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
	a := w.s.look(ctx, position{})
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
	if a = w.s.claim(ctx, position{link: at.link}, w.newLink()); a.err != nil {
		return a.err
	}
	if !a.ok {
		return errors.New("another process claims it at the same time")
	}
	w.at, w.lease = position{incarnation: a.rev, link: a.rev}, a.lease
	w.s.gauges.Claims++
	return nil
}
