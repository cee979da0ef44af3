// Package etcdstore keeps the replicated state in etcd: it carries out core.Store in
// order, in group commits, each fenced by the node's incarnation, and says exactly what
// became of each.
//
// # The chain of batches
//
// A node writes batch after batch, one in flight. Two keys make each outcome decidable:
// nodes/{id}, bound to the node's lease, whose revision is the incarnation; and chains/{id},
// bound to nothing, whose value is the id of the last batch and whose mod revision is the
// link that the next batch hangs on. Every batch is one Txn:
//
//	If   CreateRevision(nodes/{id}) == incarnation
//	 and ModRevision(chains/{id})   == the link that the batch before left
//	 and ModRevision(key)           == revision, for each guard of its Stores
//	Then the changes, Put(chains/{id}, id of this batch)
//	Else Get(nodes/{id}), Get(chains/{id}), Get(claims/{id}/{incarnation}), Get(each guard's key)
//
// A mod revision never comes twice, so of all copies of a batch that were ever sent with
// one link at most one commits; and after any commit that follows, none does.
//
// A reply is lost (the connection breaks, the deadline passes, the leader changes):
//
//  1. Node A sends batch 7 with link 100. The reply does not come.
//  2. A reads the keys of the fence, linearizably.
//  3. The chain holds "7": it was committed. A goes on with the mod revision it read.
//  4. The chain still has mod revision 100: not committed so far. A sends batch 7 again, with
//     link 100. If the first copy was only late, one of the two commits; the other is
//     refused, with chain = "7" in the Else branch, which is step 3.
//  5. A third copy that a proxy held for an hour is refused likewise: the chain has moved.
//
// A guard does not hold:
//
//  1. A's batch 7 is refused, and the Else branch shows incarnation and chain as A left them:
//     so a guard has failed, and the revisions that were read with them say whose.
//  2. If an earlier copy of batch 7 is still under way, its guards may hold again when it
//     arrives (a key that had to be absent is deleted again). So A commits an empty link
//     first; the copy hangs on a link that is gone.
//  3. The Stores whose guards failed are answered Conflict. The others go back to the head of
//     the queue, in their order, and commit together as batch 8: one more Txn in all.
//
// Another node B claims what is left of A:
//
//  1. B commits one Txn: If ModRevision(nodes/A) == A's incarnation Then Delete(nodes/A),
//     Put(claims/A/{incarnation}), and new owners of A's shards. B's Store adds Put(chains/A):
//     the claim is removed when nothing leads to it any more, which may be before A wakes.
//  2. A wakes: its next batch is refused, for its incarnation is gone and never comes again.
//     The Else branch shows the claim, or a chain that somebody else has moved. A is fenced:
//     it answers Fenced, now and to all that follows. An idle A is told by its watch, and looks.
//  3. Was A's batch in flight committed before B claimed? The chain's history says: the first
//     value after A's link is either that batch or not. So Fenced is never said of a batch
//     that was written.
//
// The lease expires while A is away, and nobody else cared (etcd itself was away, say):
//
//  1. A's lease expires: etcd deletes nodes/A. The chain is bound to no lease and stays.
//  2. A's next batch is refused: nodes/A is absent, no claim of its incarnation is there, the
//     chain has the mod revision that A left. So nobody acts in A's place.
//  3. A claims itself again: If(nodes/A and claims/A/{incarnation} absent, the chain as left)
//     Then Put(nodes/A with a new lease), Put(chains/A, id of the claim). Copies of older
//     batches are dead now, for all of their guards have moved.
//  4. A sends the batch that waited, with the new incarnation and the new link.
//  5. B, who saw nodes/A expire, claims with If(nodes/A absent, claims/A/{incarnation}
//     absent). It races with step 3: one commits, and the other finds it moved.
//
// The same node starts again while its old lease still lives (kill -9, restart): the node
// id is the owner, so the new process takes over at once, in two Txns since etcd refuses
// to delete and put one key in one: Delete(nodes/A) with a link, then the claim above. If
// the old process still runs, it finds the chain moved and is fenced; the last starter wins.
package etcdstore

import (
	clientv3 "go.etcd.io/etcd/client/v3"
)

// position is where the node's chain stands, as far as the node knows.
type position struct {
	incarnation int64 // create revision of nodes/{id} that this process made
	link        int64 // mod revision of chains/{id} that our last link left; 0: no such key
}

// sight is what a linearizable read of the keys of the fence showed.
type sight struct {
	node    int64            // create revision of nodes/{id}; 0: absent
	lease   clientv3.LeaseID // that nodes/{id} is bound to
	chain   int64            // mod revision of chains/{id}; 0: absent
	last    string           // value of chains/{id}
	claimed bool             // claims/{id}/{incarnation} is there
}

// finding is what a sight means for a position.
type finding string

// The findings.
const (
	untouched finding = "untouched" // the keys are as we left them: nothing of ours has committed since
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
	switch {
	case s.claimed:
		return taken
	case s.node == p.incarnation:
		return untouched
	case s.node == 0:
		return lapsed
	default:
		// Somebody made our node key without a link in the chain: against the rule, so trust nothing.
		return taken
	}
}
