package cluster

import (
	"cmp"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The hashes. Nodes of different versions must compute them alike: they never change.

// hash is FNV-1a, 64 bits.
func hash(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return h
}

// mix spreads every bit over all others (the finaliser of splitmix64): FNV-1a alone leaves
// ids that differ in their last character close together, and one node would win most.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// score is how much a node is meant for a thing with this hash. Who has the highest gets
// it (rendezvous hashing): when a node leaves, only what was its own moves.
func score(node core.NodeID, thing uint64) uint64 { return mix(mix(hash(string(node))) ^ thing) }

// prefers orders two nodes by their score for a thing, the higher first; ids decide a tie.
func prefers(a, b core.NodeID, thing uint64) int {
	return cmp.Or(cmp.Compare(score(b, thing), score(a, thing)), cmp.Compare(a, b))
}

// best returns the node that is meant for a thing most; nil when there is none.
func best(pool []*node, thing uint64) *node {
	if len(pool) == 0 {
		return nil
	}
	return slices.MinFunc(pool, func(a, b *node) int { return prefers(a.ID, b.ID, thing) })
}

// Resolve says who acts for the record of an interaction that is anchored at a process;
// false: nobody yet. Whoever has seen the same commits is told the same, and the answer
// changes only when the process that it named has gone, so one who asks with old knowledge
// is right, or can no longer commit.
func (v *View) Resolve(anchor core.NodeID, incarnation core.Revision, interaction core.InteractionID) (core.NodeID, bool) {
	p := Process{anchor, incarnation}
	if v.here(p) != nil {
		return anchor, true
	}
	thing := hash(string(interaction))
	for c := v.covering(p); c != nil; c = v.covering(p) { // each is later than the one before, as heir says
		var ok bool
		if p, ok = v.heir(c, thing); !ok {
			return "", false
		}
		if v.here(p) != nil {
			return p.ID, true
		}
	}
	if i, found := v.find(p.ID); found && v.nodes[i].Incarnation > p.Incarnation {
		return p.ID, true // it has restarted before anybody claimed it
	}
	return "", false
}

// covering returns the claim that divides what a process left, nil when there is none. A
// claim is on all former lives of its node too that nobody has claimed: they were its own.
// Of several the first that was committed decides, so a later one never changes it.
func (v *View) covering(p Process) *claim {
	for i := range v.claims {
		if c := &v.claims[i]; c.of.ID == p.ID && c.of.Incarnation >= p.Incarnation {
			return c
		}
	}
	return nil
}

// heir returns the survivor of a claim that a thing falls to. Every survivor was there when
// the claim was committed (its Guards say so): one that was claimed no later was put there
// by no node, and is passed over, since it could close a circle.
func (v *View) heir(c *claim, thing uint64) (heir Process, ok bool) {
	var highest uint64
	for _, s := range c.survivors {
		is := score(s.ID, thing)
		if ok && (is < highest || is == highest && s.ID >= heir.ID) {
			continue
		}
		if later := v.covering(s); later == nil || later.revision > c.revision {
			heir, highest, ok = s, is, true
		}
	}
	return heir, ok
}

// Successor returns the member that a call of this node should move to; false: there is
// nobody who is heard and takes calls. The Store that moves it needs the Guard that the
// successor's node record has its incarnation: what is anchored at a process that has been
// claimed must only become less.
func (v *View) Successor(interaction core.InteractionID) (core.Member, bool) {
	if n := best(v.others(takesCalls), hash(string(interaction))); n != nil {
		return n.member(), true
	}
	return core.Member{}, false
}

// others returns the members beside this one that are heard and that fit.
func (v *View) others(fit func(*View, *node) bool) []*node {
	var pool []*node
	for i := range v.nodes {
		if n := &v.nodes[i]; n.Process != v.self && n.ear.hearing == heard && fit(v, n) {
			pool = append(pool, n)
		}
	}
	return pool
}

func takesCalls(v *View, n *node) bool { return !v.empties(n.ID) }
func anyone(*View, *node) bool         { return true }
