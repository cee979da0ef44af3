package cluster

import (
	"slices"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Shards is the number of shards. It is fixed for the life of a cluster.
const Shards = 64

const (
	handOvers = 8 // shards in one commit: a desk's Stores fail when its shard moves, so few at a time

	// settling is how long a member must have been heard before shards move to it. One that
	// dies again at once would cost its tenants two moves.
	settling = time.Second

	// relief is how long a free shard waits for the node it is meant for, before the next
	// one takes it: the first may be there and unable to.
	relief = time.Second
)

// ShardOf returns the shard of a tenant: FNV-1a of its id, modulo Shards.
func ShardOf(tenant core.TenantID) int { return int(hash(string(tenant)) % Shards) }

// Owner returns who owns a shard, and its epoch: what a Store compares that follows from a
// decision of the owner. ok is false when the owner is not there, or no owner was ever.
func (v *View) Owner(shard int) (owner core.Member, epoch core.Revision, ok bool) {
	if shard < 0 || shard >= Shards {
		return core.Member{}, 0, false
	}
	s := v.shards[shard]
	if n := v.here(s.owner); n != nil {
		return n.member(), s.epoch, true
	}
	return core.Member{}, s.epoch, false
}

func shardHash(i int) uint64 { return hash("shard " + strconv.Itoa(i)) }

// give is the op that makes a process owner of a shard, and what it compares.
func (v *View) give(i int, to Process) (core.Op, core.Guard) {
	record := ShardRecord{Owner: to.ID, Incarnation: to.Incarnation}
	return core.Op{Key: ShardKey(i), Value: record.Encode()}, core.Guard{Key: ShardKey(i), Revision: v.shards[i].epoch}
}

// takeFree takes the shards whose owner is not there. In a claim they have new owners at
// once; these were never owned, or their owner's lease ended, or it restarted.
func (v *View) takeFree(now core.Time, token func() core.Token, out []core.Effect) []core.Effect {
	var s core.Store
	for i := range v.shards {
		if v.here(v.shards[i].owner) != nil {
			v.shards[i].free = 0
			continue
		}
		if v.shards[i].free == 0 {
			v.shards[i].free = now
		}
		at := v.shards[i].free.Add(time.Duration(v.turn(shardHash(i))) * relief)
		if now < at {
			v.alarm(at, "a free shard waits for its owner")
			continue
		}
		op, guard := v.give(i, v.self)
		s.Ops, s.If = append(s.Ops, op), append(s.If, guard)
	}
	s.If = append(v.standing([]*node{v.here(v.self)}), s.If...)
	return v.try(now, "take", s, token, out)
}

// turn is how many members come before this one for a thing that anybody may take. Those
// that drain come last.
func (v *View) turn(thing uint64) int {
	before, leaving := 0, v.empties(v.self.ID)
	for i := range v.nodes {
		n := &v.nodes[i]
		switch other := v.empties(n.ID); {
		case n.Process == v.self:
		case other != leaving && leaving, other == leaving && prefers(n.ID, v.self.ID, thing) < 0:
			before++
		}
	}
	return before
}

// handOver gives shards of this node to members that they are meant for more, or, when it
// drains, to anybody. Members are compared with this one only, so a shard that goes from
// hand to hand between nodes that hear different members rises in score and comes to rest.
func (v *View) handOver(now core.Time, token func() core.Token, out []core.Effect) []core.Effect {
	draining := v.Draining()
	pool := v.others(takesCalls)
	if !draining {
		if v.doubted() {
			return out // one move after the other: first is seen who stays
		}
		pool = slices.DeleteFunc(pool, func(n *node) bool {
			settled := n.ear.since.Add(settling)
			if now < settled {
				v.alarm(settled, "a new member gets its shards")
			}
			return now < settled
		})
		pool = append(pool, v.here(v.self))
	}
	if len(pool) == 0 {
		return out
	}
	var s core.Store
	var heirs []*node
	for i := range v.shards {
		if v.shards[i].owner != v.self || len(s.Ops) == handOvers {
			continue
		}
		if n := best(pool, shardHash(i)); n.Process != v.self {
			op, guard := v.give(i, n.Process)
			s.Ops, s.If = append(s.Ops, op), append(s.If, guard)
			heirs = append(heirs, n)
		}
	}
	s.If = append(v.standing(heirs), s.If...)
	return v.try(now, "hand over", s, token, out)
}

// standing are the Guards that some members are still the processes that they are taken
// for: what is given to one that is dead would wait. This one is no exception, though no
// Store of a process that was claimed commits: one whose lease alone has ended goes on under
// a new incarnation, and Stores that it has asked for before go with it.
func (v *View) standing(members []*node) (guards []core.Guard) {
	slices.SortFunc(members, func(a, b *node) int { return compareProcesses(a.Process, b.Process) })
	for _, n := range slices.Compact(members) {
		guards = append(guards, core.Guard{Key: NodeKey(n.ID), Revision: n.Incarnation})
	}
	return guards
}
