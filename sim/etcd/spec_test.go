package etcd

import (
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/dialtone-cc/dialtone/server/core"
)

// spec is what a key-value store with revisions is, written down as plainly as possible: a
// map, and a copy of it for every revision. It is the oracle of the tests with faults.
type spec struct {
	rev       core.Revision
	compacted core.Revision
	kept      map[string]KeyValue
	past      map[core.Revision]map[string]KeyValue
	events    []Event
	leases    map[LeaseID]int64
	last      LeaseID
}

func newSpec() *spec {
	return &spec{rev: 1, compacted: -1, kept: map[string]KeyValue{}, leases: map[LeaseID]int64{},
		past: map[core.Revision]map[string]KeyValue{1: {}}}
}

// apply carries out one committed action and returns the answer that is due.
func (s *spec) apply(do Action) Answer {
	switch do := do.(type) {
	case Txn:
		return s.txn(do)
	case Grant:
		if do.TTL > maxTTL {
			return Answer{Err: ErrTTLTooLarge}
		}
		s.last++
		s.leases[s.last] = max(2, do.TTL)
		return Answer{Revision: s.rev, Reply: LeaseReply{Lease: s.last, TTL: max(2, do.TTL)}}
	case Revoke:
		if _, ok := s.leases[do.Lease]; !ok {
			return Answer{Err: ErrLeaseNotFound}
		}
		delete(s.leases, do.Lease)
		var events []Event
		for _, key := range slices.Sorted(maps.Keys(s.kept)) {
			if s.kept[key].Lease == do.Lease {
				events = append(events, Event{Deleted: true, KV: KeyValue{Key: key, Mod: s.rev + 1}})
				delete(s.kept, key)
			}
		}
		s.commit(events)
		return Answer{Revision: s.rev, Reply: Done{}}
	case Compact:
		switch {
		case do.Revision <= s.compacted:
			return Answer{Err: ErrCompacted}
		case do.Revision > s.rev:
			return Answer{Err: ErrFuture}
		}
		s.compacted = do.Revision
		return Answer{Revision: s.rev, Reply: Done{}}
	}
	return Answer{}
}

func (s *spec) commit(events []Event) {
	if len(events) > 0 {
		s.rev++
		s.events = append(s.events, events...)
		s.past[s.rev] = maps.Clone(s.kept)
	}
}

func (s *spec) txn(t Txn) Answer {
	reply, ops := TxnReply{Succeeded: true}, t.Then
	for _, c := range t.If {
		if !s.holds(c) {
			reply.Succeeded, ops = false, t.Else
		}
	}
	for _, o := range ops {
		if _, ok := s.leases[o.Lease]; o.Kind == Put && o.Lease != 0 && !ok {
			return Answer{Err: ErrLeaseNotFound}
		}
	}
	var events []Event
	for _, o := range ops {
		one := Result{Kind: o.Kind}
		switch o.Kind {
		case Put:
			kv := KeyValue{Key: o.Key, Value: o.Value, Create: s.rev + 1, Mod: s.rev + 1, Version: 1, Lease: o.Lease}
			if old, ok := s.kept[o.Key]; ok {
				kv.Create, kv.Version = old.Create, old.Version+1
			}
			s.kept[o.Key] = kv
			events = append(events, Event{KV: kv})
		case Delete:
			for _, key := range slices.Sorted(maps.Keys(s.kept)) {
				if inside(key, o.Key, o.End) {
					delete(s.kept, key)
					one.Deleted++
					events = append(events, Event{Deleted: true, KV: KeyValue{Key: key, Mod: s.rev + 1}})
				}
			}
		case Get:
			one.Range = pick(s.kept, o.Key, o.End, o.Limit)
		}
		reply.Results = append(reply.Results, one)
	}
	s.commit(events)
	return Answer{Revision: s.rev, Reply: reply}
}

func (s *spec) holds(c Compare) bool {
	kv, there := s.kept[c.Key]
	var order int
	switch c.Target {
	case Value:
		if !there {
			return false
		}
		order = slices.Compare(kv.Value, c.Value)
	case Version:
		order = int(kv.Version - c.Number)
	case CreateRevision:
		order = int(int64(kv.Create) - c.Number)
	case ModRevision:
		order = int(int64(kv.Mod) - c.Number)
	}
	return c.Is == Equal && order == 0 || c.Is == NotEqual && order != 0 || c.Is == Less && order < 0 || c.Is == Greater && order > 0
}

// pick reads a range of a store as it stood.
func pick(kept map[string]KeyValue, key, end string, limit int64) RangeReply {
	var r RangeReply
	for _, k := range slices.Sorted(maps.Keys(kept)) {
		if !inside(k, key, end) {
			continue
		}
		if r.Count++; limit <= 0 || r.Count <= limit {
			r.KVs = append(r.KVs, kept[k])
		} else {
			r.More = true
		}
	}
	return r
}

// between returns the events of a range of keys in a range of revisions.
func (s *spec) between(key, end string, from, to core.Revision) []Event {
	var all []Event
	first := sort.Search(len(s.events), func(i int) bool { return s.events[i].KV.Mod >= from })
	for _, e := range s.events[first:] {
		if e.KV.Mod > to {
			break
		}
		if inside(e.KV.Key, key, end) {
			all = append(all, e)
		}
	}
	return all
}

func sameNumber(id LeaseID) int { return int(id) }

func same(a, b Answer) error {
	if x, y := show(a, 0, sameNumber), show(b, 0, sameNumber); x != y {
		return fmt.Errorf("%s, and due is %s", x, y)
	}
	return nil
}
