// Package etcd is the etcd of the virtual world: as much of it as server/edge/etcdstore
// uses, with the guarantees that etcd gives, and all the misbehaviour that these allow.
//
// A Cluster is a value without a clock, a goroutine or a socket. Ask hands it a Request, Step
// lets happen what is due and returns the Answers that have come, Deadline says when Step has
// something to do, Inject begins a Fault. Equal seeds and equal calls give equal answers;
// Hash says whether two runs were equal. Config.Seen is told what was really committed, for
// checkers that must know better than the clients.
//
// # How it works
//
// There is one keyspace, which carries out the log at the leader, at the moment of the commit.
// A member's view is a revision: it sees the keyspace as that revision left it, since all
// members carry out the same log and history is kept as long as any member is behind. So
// there is one implementation of the keys, and no replica can differ by mistake.
//
// The log proper is only what is not committed: proposals of the present leader. Commits are
// made in groups, as etcd's are: what comes while the disks sync goes with the next sync.
//
// # What is modelled
//
// Keys (mvcc; api_guarantees.md):
//   - Every key has a create and a mod revision and a version; one commit, one revision; a
//     commit that changes nothing has none. A deleted key begins again at version 1.
//   - A Txn compares, then carries out one branch, whole or not at all. What could fail (a
//     lease that is not there, a revision that is compacted) is looked for first. A Get
//     after a Put of the same Txn sees it.
//   - Refused for its form before it is proposed: an empty key, more than MaxOps comparisons or
//     operations in a branch, two operations of which one puts what the other writes, a
//     request above MaxBytes. That is definite. A deletion "from this key on" is an empty
//     interval to that check, so it goes with any put: etcd's own slip, kept.
//   - Compaction: reads before it fail with ErrCompacted, reads at it succeed. Future
//     revisions fail.
//   - The NOSPACE alarm lets reads and deletions through, and revocations. A put that was in
//     flight when the alarm came may commit although its client is told of no space
//     (maintenance.md).
//
// Reads:
//   - Linearizable: the leader's commit index, confirmed by a majority, then the member waits
//     until it has carried out as much (raft thesis 6.4). Without a majority, or cut off
//     from the leader, a read waits until its deadline; a leader change ends it with
//     ErrLeaderChanged.
//   - Serializable: what the member has, however old. A Txn of comparisons alone counts as
//     serializable (etcdserver/txn: IsTxnSerializable); one with a Get does not.
//
// Leases (lease/lessor.go):
//   - At least 1.5 election timeouts, in whole seconds. The leader looks twice a second for
//     those that have expired and proposes their end; all keys go in one revision.
//   - Keepalives change only what the leader knows. So a new leader gives every lease its
//     whole time and an election timeout (Promote; etcd#9888, #13294), and where leaders
//     change often enough no lease ever expires. Nothing expires without a leader.
//   - A keepalive after the expiry waits until the lease is gone, or a new leader has extended
//     it. A leader that reaches no majority renews nothing (since 3.5.13: etcd#15247).
//   - The end of a lease that one leader has proposed may be committed by the next, after that
//     one has extended and even renewed it: a keepalive that was answered promises nothing.
//   - A keepalive sets the whole time anew, also where it was longer: a lease that a new leader
//     has extended by an election timeout loses that with its next keepalive.
//
// Watches (api_guarantees.md; mvcc/watchable_store.go; clientv3):
//   - Ordered, each event once, none left out, whole revisions in one message, as long as
//     history reaches back; else ErrCompacted with the revision at which it begins. Not
//     linearizable: a watch is as far as its member, or its link, lets it be.
//   - A watch from the past is served by a loop of its own (Config.Sync), at most 1000
//     revisions in one message; one that lags gets what it has missed at once.
//   - Large messages travel in parts (Watch.Fragment); the client puts them together.
//   - It outlives connections, as clientv3's does: it is opened anew at another member from
//     where it was. One that began "from now on" and breaks before it has heard of a change
//     may be told of the last change before it began, or that this is compacted away; so does
//     clientv3.
//   - NeedLeader: a new request to a member that knows no leader is refused with ErrNoLeader,
//     at once; a watch that is open is ended after three looks, an election timeout apart
//     (v3rpc/interceptor.go: monitorLeader). Without it, it stays, silent and stale.
//   - Progress notifications, from time to time and on demand, only of watches that have
//     been told all.
//
// Members, clients, the network:
//   - A request goes to a member over a connection that keeps the order of each direction. A
//     link can be cut in one direction or both: what was sent waits, and arrives when the
//     cut heals, however late, for its deadline counts from its arrival; or the client notices
//     the silence, after Config.Silence, and what was asked has an unknown outcome, as when
//     the connection is reset. With no connection up, nothing is sent and nothing is in doubt
//     (client/v3/retry.go).
//   - A client that gives up stops nothing ("etcd does not send abort responses",
//     api_guarantees.md): its request may be carried out after its next one. That is what
//     the chain of etcdstore is for.
//   - A proposal to a member that knows no leader waits for one, up to its deadline; to one
//     that takes another for the leader, or does not reach it, is lost without a word.
//   - A leader that loses its majority keeps what was proposed to it. If it is healed before
//     the next one is elected, that is committed; else of what the others could have had the
//     new leader has a beginning, drawn by chance, which is committed, and the rest never is.
//     In between (Config.Vacancy, 0.3 to 1.6 s as measured with etcd 3.7.3) nothing commits.
//   - A member that is paused goes on with what it has received; one that has crashed has
//     its disk; one that is cut off from its peers answers serializable reads with what it has.
//   - A slow disk delays the commits of its leader, or, where it is a follower's, those that
//     need it for the majority, and what that member knows.
//
// # What is not modelled
//
// Authentication, members that come and go, learners, defragmentation (a Pause does what it
// does to others), snapshots, nested Txns, comparisons of ranges and leases, sorted reads,
// previous values, a watch's filters, lease checkpoints (every 5 min, without effect on
// leases of seconds), the limit of revocations per second, clocks that run at different
// speeds, the refusal of requests when 5000 commits wait to be carried out. Nor is an entry
// of an isolated leader ever committed once another was elected, which raft allows if that
// one dies before its first commit. The size of a request is counted roughly.
//
// # How it is known to be right
//
// TestSameAsEtcd runs random programs on a real etcd 3.7.3 and on a Cluster without faults and
// compares answers, revisions, errors and events. TestGuaranteesUnderTrouble runs clients in
// random worlds with all faults and holds what they see against a plain specification.
// TestChainHolds runs a writer by the rules of etcdstore's chain, and one without them, which
// must fail. Plants lists bugs; TestPlantsAreFound says which test finds which.
package etcd
