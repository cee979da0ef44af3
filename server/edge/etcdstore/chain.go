// Package etcdstore keeps the replicated state in etcd: it carries out core.Store in
// order, in group commits, each fenced by the node's incarnation, and says exactly what
// became of each.
//
// # The chain of batches
//
// A node writes batch after batch, one in flight. Two keys make each outcome decidable:
// nodes/{id}, bound to the node's lease, whose create revision is the incarnation; and
// nodes/{id}/chain, bound to nothing, whose value is the id of the last batch and whose
// mod revision is the link that the next batch hangs on. Every batch is one Txn:
//
//	If   CreateRevision(nodes/{id})       == incarnation
//	 and ModRevision(nodes/{id}/chain)    == the link that the batch before left
//	Then the changes, Put(nodes/{id}/chain, id of this batch)
//	Else Get(nodes/{id}), Get(nodes/{id}/chain)
//
// A mod revision never comes twice, so of all copies of a batch that were ever sent with
// one link at most one commits; and after any commit that follows, none does.
//
// A reply is lost (the connection breaks, the deadline passes, the leader changes):
//
//  1. Node A sends batch 7 with link 100. The reply does not come.
//  2. A reads both keys, linearizably.
//  3. chain holds "7": it was committed. A goes on with the mod revision it read.
//  4. chain still has mod revision 100: not committed so far. A sends batch 7 again, with
//     link 100. If the first copy was only late, one of the two commits; the other is
//     refused, with chain = "7" in the Else branch, which is step 3.
//  5. A third copy that a proxy held for an hour is refused likewise: chain has moved.
//
// The lease expires while A is away, and nobody else cared:
//
//  1. A's lease expires: etcd deletes nodes/A. chain is bound to no lease and stays.
//  2. A's next batch is refused: nodes/A is absent, chain has the mod revision A left.
//     So nobody wrote in A's name and nobody claimed what A owned.
//  3. A claims itself again: If(nodes/A absent and chain's mod revision as left) Then
//     Put(nodes/A with a new lease), Put(chain, id of the claim). Copies of older batches
//     are dead now, for both of their guards have moved.
//  4. A sends the batch that waited, with the new incarnation and the new link.
//
// Somebody else claims what A owns, at any moment:
//
//  1. Node B writes nodes/A/chain (and what it claims) in one Txn.
//  2. A wakes: its next batch is refused, for chain has moved and does not hold an id of
//     A's. A is fenced: it answers Fenced, now and to all that follows. It does not matter
//     whether A's lease lived, nor whether A knows of B.
//  3. A's claim of itself races with B's claim: both compare the mod revision of chain, so
//     one commits, and the other finds it moved.
//  4. Was A's batch in flight committed before B claimed? chain's history says: the first
//     value after A's link is either A's batch or not. So Fenced is never said of a batch
//     that was written.
//
// The same node starts again while its old lease still lives (kill -9, restart): the node
// id is the owner, so the new process takes over at once, in two Txns since etcd refuses
// to delete and put one key in one: Delete(nodes/A) with a link, then the claim above. If
// the old process still runs, it finds chain moved and is fenced; the last starter wins.
package etcdstore

import (
	clientv3 "go.etcd.io/etcd/client/v3"
)

// position is where the node's chain stands, as far as the node knows.
type position struct {
	incarnation int64 // create revision of nodes/{id} that this process made
	link        int64 // mod revision of nodes/{id}/chain that our last link left; 0: no such key
}

// sight is what a linearizable read of the two keys showed.
type sight struct {
	node  int64            // create revision of nodes/{id}; 0: absent
	lease clientv3.LeaseID // that nodes/{id} is bound to
	chain int64            // mod revision of nodes/{id}/chain; 0: absent
	last  string           // value of nodes/{id}/chain
}

// finding is what a sight means for a position.
type finding string

// The findings.
const (
	untouched finding = "untouched" // both keys are as we left them: nothing of ours has committed since
	advanced  finding = "advanced"  // a link of ours has committed whose reply we lack
	lapsed    finding = "lapsed"    // our lease has expired and nobody has written in our place
	taken     finding = "taken"     // another writes or claimed: we are fenced
)

// judge compares a sight with the position. Open holds the ids of our links whose outcome
// is open; for advanced, the sight's last is one of them.
func (p position) judge(s sight, open ...string) finding {
	if s.chain != p.link {
		for _, id := range open {
			if id != "" && s.last == id {
				return advanced
			}
		}
		return taken
	}
	switch s.node {
	case p.incarnation:
		return untouched
	case 0:
		return lapsed
	default:
		// Somebody made our node key without a link in the chain: against the rule, so trust nothing.
		return taken
	}
}
