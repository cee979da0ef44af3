package etcd

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// keyspace is what a log of commits makes of the keys (etcd: mvcc.store). It is one for all
// members: they carry out the same log, so a member that is behind sees what this one
// held at an earlier revision.
type keyspace struct {
	records   map[string]*record
	order     index
	rev       core.Revision // of the last change
	compacted core.Revision // the earliest that may be read; -1 where nothing was compacted
	pruned    core.Revision // as far as history is really gone

	past history

	plant Plant
	sub   int // Txns, for the plants
}

func newKeyspace(plant Plant) *keyspace {
	return &keyspace{records: map[string]*record{}, rev: 1, compacted: -1, pruned: -1, plant: plant}
}

// view is how far a member has carried out the log.
type view struct{ rev, compacted core.Revision }

func (s *keyspace) head() view { return view{s.rev, s.compacted} }

// get returns one key at a revision; nil where it is not there.
func (s *keyspace) get(key string, rev core.Revision) *KeyValue {
	if r := s.records[key]; r != nil {
		return s.at(r, rev)
	}
	return nil
}

// at returns a key as it stood at a revision, nil where it was not there.
func (s *keyspace) at(r *record, rev core.Revision) *KeyValue {
	if r.Mod <= rev {
		if r.deleted {
			return nil
		}
		return &r.KeyValue
	}
	for i := r.last; i >= s.past.base; {
		c := s.past.at(i)
		if c.KV.Mod <= rev {
			if c.Deleted {
				return nil
			}
			return &c.KV
		}
		i = c.before
	}
	if r.floor != nil && r.floor.Mod <= rev {
		return r.floor
	}
	return nil
}

// read carries out a Range or a Get for somebody who sees v.
func (s *keyspace) read(key, end string, limit int64, rev core.Revision, v view) (RangeReply, Error) {
	switch {
	case rev > v.rev:
		return RangeReply{}, ErrFuture
	case rev > 0 && rev < v.compacted:
		return RangeReply{}, ErrCompacted
	case rev <= 0:
		rev = v.rev
	}
	var reply RangeReply
	if end == "" {
		if kv := s.get(key, rev); kv != nil {
			reply = RangeReply{KVs: []KeyValue{*kv}, Count: 1}
		}
		return reply, ""
	}
	s.order.visit(key, end, func(r *record) bool {
		if kv := s.at(r, rev); kv != nil {
			if reply.Count++; limit <= 0 || reply.Count <= limit {
				reply.KVs = append(reply.KVs, *kv)
			}
		}
		return true
	})
	reply.More = limit > 0 && reply.Count > limit
	return reply, ""
}

// holds makes one comparison.
func (s *keyspace) holds(c *Compare, rev core.Revision) bool {
	kv := s.get(c.Key, rev)
	if c.Target == Value {
		return kv != nil && related(c.Is, slices.Compare(kv.Value, c.Value))
	}
	var is int64
	if kv != nil {
		switch c.Target {
		case CreateRevision:
			is = int64(kv.Create)
		case ModRevision:
			is = int64(kv.Mod)
		case Version:
			is = kv.Version
		}
	}
	switch {
	case is < c.Number:
		return related(c.Is, -1)
	case is > c.Number:
		return related(c.Is, 1)
	}
	return related(c.Is, 0)
}

func related(r Relation, order int) bool {
	switch r {
	case Equal:
		return order == 0
	case NotEqual:
		return order != 0
	case Greater:
		return order > 0
	case Less:
		return order < 0
	}
	return false
}

// branch makes the comparisons of a Txn.
func (s *keyspace) branch(t *Txn, rev core.Revision) (ops []Op, held bool) {
	for i := range t.If {
		if s.plant == PlantLastGuard && i > 0 && i == len(t.If)-1 {
			break
		}
		if !s.holds(&t.If[i], rev) {
			return t.Else, false
		}
	}
	return t.Then, true
}

// readTxn carries out a Txn that writes nothing, for somebody who sees v.
func (s *keyspace) readTxn(t *Txn, v view) (TxnReply, Error) {
	ops, held := s.branch(t, v.rev)
	reply := TxnReply{Succeeded: held, Results: make([]Result, 0, len(ops))}
	for i := range ops {
		o := &ops[i]
		found, err := s.read(o.Key, o.End, o.Limit, o.Revision, v)
		if err != "" {
			return TxnReply{}, err
		}
		reply.Results = append(reply.Results, Result{Kind: Get, Range: found})
	}
	return reply, ""
}

// txn carries out a Txn at the head of the log. What could go wrong is looked for before
// anything is changed (etcd: checkTxn).
func (s *keyspace) txn(t *Txn, l *lessor) (TxnReply, Error) {
	ops, held := s.branch(t, s.rev)
	if s.plant != PlantHalfTxn {
		if err := s.check(ops, l); err != "" {
			return TxnReply{}, err
		}
	}
	reply := TxnReply{Succeeded: held, Results: make([]Result, len(ops))}
	rev, changed := s.rev+1, false
	for i := range ops {
		o, result := &ops[i], &reply.Results[i]
		result.Kind = o.Kind
		switch o.Kind {
		case Put:
			if s.plant == PlantHalfTxn && o.Lease != 0 && l.find(o.Lease) == nil {
				s.advance(rev, changed)
				return TxnReply{}, ErrLeaseNotFound
			}
			s.put(o, rev, l)
			changed = true
		case Delete:
			result.Deleted = s.deleteRange(o.Key, o.End, rev, l)
			changed = changed || result.Deleted > 0
		case Get:
			// What this Txn has written is read as well.
			v := s.head()
			if changed {
				v.rev = rev
			}
			result.Range, _ = s.read(o.Key, o.End, o.Limit, o.Revision, v)
		}
	}
	s.advance(rev, changed)
	return reply, ""
}

// advance makes the changes of a Txn a revision.
func (s *keyspace) advance(rev core.Revision, changed bool) {
	s.sub++
	if !changed || s.plant == PlantRevisionReused && s.sub%16 == 0 {
		return
	}
	s.rev = rev
}

func (s *keyspace) check(ops []Op, l *lessor) Error {
	for i := range ops {
		switch o := &ops[i]; o.Kind {
		case Get:
			switch {
			case o.Revision > s.rev:
				return ErrFuture
			case o.Revision > 0 && o.Revision < s.compacted:
				return ErrCompacted
			}
		case Put:
			if o.Lease != 0 && l.find(o.Lease) == nil {
				return ErrLeaseNotFound
			}
		}
	}
	return ""
}

func (s *keyspace) put(o *Op, rev core.Revision, l *lessor) {
	r := s.records[o.Key]
	bound := LeaseID(0)
	switch {
	case r == nil:
		r = &record{last: -1, deleted: true}
		r.Key = o.Key
		s.records[o.Key] = r
		s.order.insert(r)
	case !r.deleted:
		bound = r.Lease
	}
	if r.deleted {
		r.deleted, r.Create, r.Version = false, rev, 0
	}
	r.Value, r.Mod, r.Version, r.Lease = o.Value, rev, r.Version+1, o.Lease
	r.last = s.past.add(Event{KV: r.KeyValue}, r.last)
	if bound != o.Lease {
		if s.plant != PlantStillBound {
			l.detach(bound, r.Key)
		}
		l.attach(o.Lease, r.Key)
	}
}

func (s *keyspace) deleteRange(key, end string, rev core.Revision, l *lessor) int64 {
	if end == "" {
		if r := s.records[key]; r != nil && s.delete(r, rev, l) {
			return 1
		}
		return 0
	}
	n := int64(0)
	s.order.visit(key, end, func(r *record) bool {
		if s.delete(r, rev, l) {
			n++
		}
		return true
	})
	return n
}

func (s *keyspace) delete(r *record, rev core.Revision, l *lessor) bool {
	if r.deleted {
		return false
	}
	l.detach(r.Lease, r.Key)
	r.KeyValue, r.deleted = KeyValue{Key: r.Key, Mod: rev}, true
	r.last = s.past.add(Event{Deleted: true, KV: r.KeyValue}, r.last)
	return true
}

// revoke ends a lease: all its keys go, in the order of their names, in one commit.
func (s *keyspace) revoke(id LeaseID, l *lessor) Error {
	lease := l.find(id)
	if lease == nil {
		return ErrLeaseNotFound
	}
	keys := slices.Clone(lease.keys)
	slices.Sort(keys)
	changed := false
	for _, key := range keys {
		changed = s.deleteRange(key, "", s.rev+1, l) > 0 || changed
	}
	if changed {
		s.rev++
	}
	l.remove(id)
	return ""
}

// compact makes a revision the earliest that may be read.
func (s *keyspace) compact(rev core.Revision) Error {
	switch {
	case rev <= s.compacted:
		return ErrCompacted
	case rev > s.rev:
		return ErrFuture
	}
	s.compacted = rev
	return ""
}

// prune forgets history before a revision which nobody sees any more.
func (s *keyspace) prune(rev core.Revision) {
	if rev <= s.pruned {
		return
	}
	s.pruned = rev
	s.order.filter(func(r *record) bool {
		switch {
		case r.Mod > rev:
			if kv := s.at(r, rev); kv == nil {
				r.floor = nil
			} else if kv != r.floor {
				floor := *kv
				r.floor = &floor
			}
		case r.deleted:
			delete(s.records, r.Key)
			return false
		default:
			r.floor = nil
		}
		return true
	})
	s.past.forget(s.past.find(rev))
}
