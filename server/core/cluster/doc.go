// Package cluster decides who is in the cluster, who owns which shard, who acts for a
// record whose anchor is gone, and when a silent node is claimed. It is the algorithm
// behind CLUSTER.md, which has the keys and who may write them.
//
// # What it stands on
//
// The store commits one Store after the other and numbers the commits. Every process sees
// all commits, in order, some later than others. It can compare, within a Store, that a key
// has not been written since. Each Store of a process compares that its own node record is
// the one it joined with. Nothing else is assumed: not that clocks agree, that messages
// arrive, or that a process which thinks it is alive is right.
//
// So knowledge may be old but never wrong about the past, and all that is asked of a View
// (Owner, Resolve, Members) is a function of the commits seen. Peers and time only decide
// when something is tried. Whether it succeeds is decided by the Guards.
//
// # Processes
//
// A node is a name; a Process is one life of it: the name and the revision of the node
// record that it wrote when it joined, its incarnation. Who restarts is another process.
//
// A process whose lease alone has ended, which nobody has claimed, may write its record
// anew and go on (Reborn). To all others that is a node that has restarted unmissed: rule 3
// of Dividing gives it what it had. Stores that it asked for in its former life may commit
// in the new one, so whatever names a process in a Store, be it the writer, is compared.
//
// # Shards
//
// Every shard has an owner, a process, and the revision of its record is the epoch. All
// that moves it compares the epoch, so of two who move it at once one is refused.
//
//   - An owner that is there hands it over, or nobody does: to the member with the highest
//     score (rendezvous hashing, so that a join moves only what the new one gets), eight at
//     a time, once that member has been heard for a second and while nobody is suspected.
//   - An owner that drains hands over all it has, to whoever is heard and does not drain. If
//     nobody is, it goes on.
//   - The claim of a dead owner moves its shards in the same commit.
//   - A shard whose owner is not there is free (never owned, a lease that ended, a restart).
//     The member with the highest score takes it; if it does not, the next one after a
//     second, and so on: that a node is there does not prove that it can act.
//
// A shard goes to another process only with the comparison that this one is there.
//
// # Suspecting
//
// PeerDead is proof. PeerSilent is not: it may be the path, or this process. Two members
// that are heard are asked whether they hear it; an answer counts for 40 ms. If somebody
// answers, and nobody who does hears it, it is claimed. If one hears it, it lives, and they,
// or others, are asked again after a pause, for as long as the silence lasts. Who never
// heard it does not answer. A process that hears nobody is most likely cut off itself:
// it asks those whom it does not hear and claims nobody; the lease decides. Where nobody
// else is in the cluster, silence three times as long is enough: if both think so of each
// other, the first commit wins. A timer that fires late says that this process was asleep,
// and all it thought of others is asked again.
//
// # Claiming
//
// A claim is one Store: the node record goes, the claim's record comes, the shards get new
// owners. It compares that the node record has that incarnation, so a process is claimed
// once or not at all, and that every survivor in it is there. Each who knows of a death
// waits its turn, 25 ms for each member that comes before it, so as a rule one tries. With
// the claim the store's edge takes the dead one's chain of batches, so that a process which
// wakes much later, when the claim is long removed, still finds that it was claimed.
//
// A lease that ends removes the node record without a claim. If records lead to that
// process it is claimed all the same, with the comparison that no record of that node is
// there. What was left when all nodes were down is claimed in the same way.
//
// # Dividing
//
// Who acts for a record anchored at process P (Resolve):
//
//  1. P, if it is there.
//  2. If a claim covers P: the survivor in it with the highest score for the interaction;
//     or, if that one is gone, whoever these rules name for what it left.
//  3. The node of P's name, if it is there: it has restarted before it was missed.
//  4. Nobody yet: a claim is going to come.
//
// A claim covers the process that it names and the former lives of that node which nobody
// has claimed, since by rule 3 what they left was that process's own. If several claims
// cover P, the one that was committed first counts.
//
// Why two never act for one record, however old their knowledge: a survivor was there when
// the claim on P was committed, so its own claim, if any, is later; a claim is never
// changed, and never overtaken by a later one. So who acts for a record changes only when
// the process that acted goes (its node record is removed or replaced), and from then on
// nothing of that process commits. One that acts on old knowledge either is still right, or
// is refused. For the same reason the chain of rule 2 ends: each claim in it is later than
// the one before. (Claims that no node wrote are passed over where they would close a circle.)
//
// # Forgetting
//
// A claim is removed when nothing leads to its process any more: no record is anchored at
// it or at a former life of its node, and no claim to which something leads has one of them
// as a survivor.
// This never becomes untrue again: the process cannot write, and who anchors a record at
// another process (a drain) or makes it a survivor compares that it is there. So it does
// not matter who removes the claim, or how old its knowledge is. The View counts: Anchored
// is told of every record that is divided, as the watch shows it.
//
// # A View within the node
//
//	v := New(self, restored.Incarnation)   // then Take and Anchored for each entry
//	err := v.Take(change)                  // for each change without a tenant
//	v.Anchored(tenant, key, process)       // for each call and parcel that the watch shows
//	out = v.Hear(now, event, out)          // Peer..., and the outcomes of Due's Stores
//	out = v.Due(now, token, out)           // once at the end of each event, and at Deadline
//
// Due must not be called between the changes of one commit: a node record that goes and the
// claim that says why are two changes.
package cluster
