package etcd

// The plants: bugs that the tests of this package find, and with which whoever builds on it
// can ask whether his tests would. "" is none.
const (
	PlantLastGuard      Plant = "last-guard-ignored"  // the last of several comparisons is not made
	PlantHalfTxn        Plant = "half-txn"            // a Txn that is refused for a lease keeps what it wrote before
	PlantRevisionReused Plant = "revision-reused"     // now and then two commits have one revision
	PlantStillBound     Plant = "still-bound"         // a key that is put without its lease goes with it all the same
	PlantSilentGap      Plant = "silent-gap"          // a watch from a compacted revision begins later and does not say so
	PlantLostEvent      Plant = "lost-event"          // now and then a watch leaves an event out
	PlantRepeatedEvent  Plant = "repeated-event"      // a watch that goes on after a lost connection repeats the last event
	PlantSplitRevision  Plant = "split-revision"      // a watch tells a commit in two parts and does not say so
	PlantStaleRead      Plant = "stale-read"          // a linearizable read is answered from what the member has
	PlantAppliedTwice   Plant = "applied-twice"       // a Txn whose connection was lost is sent again by the client
	PlantEarlyAnswer    Plant = "answer-first"        // the leader answers before the commit
	PlantEarlyExpiry    Plant = "early-expiry"        // a lease that was not renewed yet ends at half its time
	PlantNotPromoted    Plant = "leases-not-extended" // a new leader keeps the expiries of the old one
	PlantDeafWatch      Plant = "leader-not-required" // a watch that requires a leader stays on a member without one
)

// Plants lists them.
func Plants() []Plant {
	return []Plant{PlantLastGuard, PlantHalfTxn, PlantRevisionReused, PlantStillBound, PlantSilentGap, PlantLostEvent,
		PlantRepeatedEvent, PlantSplitRevision, PlantStaleRead, PlantAppliedTwice, PlantEarlyAnswer, PlantEarlyExpiry,
		PlantNotPromoted, PlantDeafWatch}
}
