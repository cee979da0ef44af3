package cluster

import (
	"cmp"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	maxSurvivors = 32 // in one claim: it stays within etcd's 128 comparisons
	removals     = 8  // of claims, in one commit
)

// absence is a node that has left records behind and is not there.
type absence struct {
	Process
	since core.Time
}

// survivors returns who a claim divides among: this process, and those whom it hears.
// Those that drain only if all do.
func (v *View) survivors(of Process) []*node {
	pool := append(v.others(anyone), v.here(v.self))
	pool = slices.DeleteFunc(pool, func(n *node) bool { return n.ID == of.ID })
	staying := slices.DeleteFunc(slices.Clone(pool), func(n *node) bool { return v.empties(n.ID) })
	if len(staying) > 0 {
		pool = staying
	}
	thing := hash(claimKey(of))
	slices.SortFunc(pool, func(a, b *node) int { return prefers(a.ID, b.ID, thing) })
	return pool[:min(len(pool), maxSurvivors)]
}

// claim returns the Store that claims a process: absent says that its node record is gone.
func (v *View) claim(now core.Time, of Process, absent bool) core.Store {
	pool := v.survivors(of)
	record := ClaimRecord{By: v.self.ID, At: now}
	guards := v.standing(pool) // sorts pool
	for _, n := range pool {
		record.Survivors = append(record.Survivors, n.Process)
	}
	put := core.Op{Key: claimKey(of), Value: record.Encode()}
	if absent {
		guards = append(guards, core.Guard{Key: NodeKey(of.ID)}, core.Guard{Key: claimKey(of)})
		return core.Store{Ops: []core.Op{put}, If: guards}
	}
	s := core.Store{
		Ops: []core.Op{{Key: NodeKey(of.ID)}, put},
		If:  append(guards, core.Guard{Key: NodeKey(of.ID), Revision: of.Incarnation}),
	}
	for i := range v.shards {
		if v.shards[i].owner.ID != of.ID {
			continue
		}
		op, guard := v.give(i, best(pool, shardHash(i)).Process)
		s.Ops, s.If = append(s.Ops, op), append(s.If, guard)
	}
	return s
}

// claimTurn is how long this process leaves the claim of a dead one to others: those that
// it hears and that are meant for it more.
func (v *View) claimTurn(of *node) time.Duration {
	return time.Duration(v.claimants(of.Process)) * stagger
}

func (v *View) claimants(of Process) (before int) {
	thing := hash(claimKey(of))
	for _, n := range v.others(anyone) {
		if n.ID != of.ID && prefers(n.ID, v.self.ID, thing) < 0 {
			before++
		}
	}
	return before
}

// claimDead claims those who are known to be dead.
func (v *View) claimDead(now core.Time, token func() core.Token, out []core.Effect) []core.Effect {
	for i := range v.nodes {
		n := &v.nodes[i]
		if n.ear.stage != certain {
			continue
		}
		if now < n.ear.until {
			v.alarm(n.ear.until, "a dead process is claimed")
			continue
		}
		out = v.try(now, "claim "+string(n.ID), v.claim(now, n.Process, false), token, out)
	}
	return out
}

// claimAbsent claims what was left by processes that are gone without a claim: their lease
// has ended, or all nodes were down. Without records that need it there is no claim.
func (v *View) claimAbsent(now core.Time, token func() core.Token, out []core.Effect) []core.Effect {
	left := v.leftBehind()
	for i, p := range left {
		left[i].since = now
		if j := slices.IndexFunc(v.absent, func(a absence) bool { return a.ID == p.ID }); j >= 0 {
			left[i].since = v.absent[j].since
		}
	}
	v.absent = left
	for _, a := range left {
		at := a.since.Add(time.Duration(v.claimants(a.Process)) * stagger)
		if now < at {
			v.alarm(at, "what a node has left is claimed")
			continue
		}
		out = v.try(now, "absent "+string(a.ID), v.claim(now, a.Process, true), token, out)
	}
	return out
}

// leftBehind returns the nodes that are not there, with the last process of each, of which
// a record is left that no claim covers, or a part of what a claim divides.
func (v *View) leftBehind() (left []absence) {
	see := func(p Process) {
		if _, found := v.find(p.ID); found || v.covering(p) != nil {
			return
		}
		i, found := slices.BinarySearchFunc(left, p.ID, func(a absence, id core.NodeID) int { return cmp.Compare(a.ID, id) })
		if !found {
			left = slices.Insert(left, i, absence{Process: p})
		}
		left[i].Incarnation = max(left[i].Incarnation, p.Incarnation)
	}
	for _, c := range v.counts {
		see(c.Process)
	}
	for i, needed := range v.needed() {
		for _, s := range v.claims[i].survivors {
			if needed {
				see(s)
			}
		}
	}
	return left
}

// forget removes claims that nothing leads to any more. From the commit of a claim on no
// record can begin to lead to that process: it can't write, and what others write with its
// name compares that it is there. So "nothing leads to it", once seen at any later commit,
// stays true, and whoever sees it may remove the claim at any time; one is chosen to spare
// the others. That the process was claimed it learns all the same, however late it wakes:
// the store's edge takes its chain of batches with the claim.
func (v *View) forget(now core.Time, token func() core.Token, out []core.Effect) []core.Effect {
	var s core.Store
	needed := v.needed()
	for i, c := range v.claims {
		if len(s.Ops) == removals || needed[i] || v.turn(hash(claimKey(c.of))) > 0 {
			continue
		}
		s.Ops = append(s.Ops, core.Op{Key: claimKey(c.of)})
		s.If = append(s.If, core.Guard{Key: claimKey(c.of), Revision: c.revision})
	}
	return v.try(now, "forget", s, token, out)
}

// needed says of each claim whether something leads to it: a record that is anchored at its
// process or a former life of that node, or a claim that is needed and has one of them as
// a survivor.
func (v *View) needed() []bool {
	needed := make([]bool, len(v.claims))
	lead := func(p Process) (more bool) {
		for i, c := range v.claims {
			if !needed[i] && c.of.ID == p.ID && p.Incarnation <= c.of.Incarnation {
				needed[i], more = true, true
			}
		}
		return more
	}
	for _, c := range v.counts {
		lead(c.Process)
	}
	for more := len(v.claims) > 0; more; {
		more = false
		for i, c := range v.claims {
			for _, s := range c.survivors {
				more = needed[i] && lead(s) || more
			}
		}
	}
	return needed
}
