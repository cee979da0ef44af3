package etcd

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Span is a range of durations from which each is drawn evenly.
type Span struct{ Low, High time.Duration }

// Config is the nature of a cluster. Nothing has a default here: see Usual.
type Config struct {
	Members int // 1, 3 or 5

	Hop    Span // between a client and a member, one way
	Peer   Span // between two members, one way
	Commit Span // from a proposal to its commit: syncs to disks, and the way to a majority
	Sync   Span // until a member serves a watch that begins in the past

	Election time.Duration // the election timeout: leases, step-down, loss of the leader
	Vacancy  Span          // from the loss of a leader until the next one commits
	Silence  time.Duration // after which a client gives a silent connection up
	Redial   Span          // until a connection that broke is tried again

	MaxOps        int           // of one branch of a Txn, and of its comparisons
	MaxBytes      int           // of one request; etcd counts some more around the keys and values
	FragmentBytes int           // of the events in one part of a watch's answer
	ProgressEvery time.Duration // between two progress notifications
	Retain        time.Duration // history that periodic compaction leaves; 0: none is done

	Odds  Odds
	Plant Plant

	// Seen, where given, is told of every commit, in order.
	Seen func(Commit)
}

// Odds are the probabilities with which a single request meets trouble, beside the faults
// that the caller injects.
type Odds struct {
	LostBefore float64 // it never arrives: ErrUnavailable or, half of the time, silence
	LostAfter  float64 // its answer is lost: the same for the client
	Late       float64 // it arrives within LateBy, whatever the client has done since
	LateBy     time.Duration
}

// Usual is a cluster of three on a local network: heartbeat 100 ms, election timeout 1 s,
// etcd's own limits, no trouble.
func Usual() Config {
	return Config{
		Members:  3,
		Hop:      Span{100 * time.Microsecond, 300 * time.Microsecond},
		Peer:     Span{100 * time.Microsecond, 300 * time.Microsecond},
		Commit:   Span{time.Millisecond, 3 * time.Millisecond},
		Sync:     Span{0, 100 * time.Millisecond},
		Election: time.Second,
		Vacancy:  Span{300 * time.Millisecond, 1600 * time.Millisecond},
		Silence:  5 * time.Second,
		Redial:   Span{20 * time.Millisecond, time.Second},
		MaxOps:   128, MaxBytes: 3 << 19, FragmentBytes: 3 << 19,
		ProgressEvery: 10 * time.Minute,
	}
}

// FaultKind is one kind of trouble.
type FaultKind string

// The faults. Member 0 stands for the leader of that moment, Client "" for every client.
const (
	// Links of a client to a member, for a time.
	CutLink    FaultKind = "link cut"       // silence in both directions; what was sent waits
	CutTo      FaultKind = "link cut to"    // only requests do not get through
	CutFrom    FaultKind = "link cut from"  // only answers do not
	Refuse     FaultKind = "link refused"   // the connection is reset, new ones are refused
	Reset      FaultKind = "link reset"     // the connection is reset, once
	SlowLink   FaultKind = "link slow"      // Delay is added, both ways
	LagWatch   FaultKind = "watches lag"    // what is watched comes later, all at once
	Isolate    FaultKind = "member alone"   // cut off from its peers, not from clients
	Crash      FaultKind = "member down"    // its process ends; its disk is kept
	Pause      FaultKind = "member paused"  // its process is stopped, and goes on as if nothing had been
	SlowDisk   FaultKind = "disk slow"      // Delay is added to each sync
	Elect      FaultKind = "leader changes" // the leader steps down, once
	NoSpace    FaultKind = "no space"       // the alarm: only deletions and reads
	CompactAll FaultKind = "compaction"     // of all history, once
)

// Fault is one trouble, from now on.
type Fault struct {
	Kind   FaultKind
	Client ClientID
	Member MemberID
	Watch  RequestID     // of LagWatch: only this one of Client, at any member; 0: all at Member
	For    time.Duration // then it ends by itself
	Delay  time.Duration // of SlowLink and SlowDisk
}

// Plant is a bug that is planted into the cluster; see Plants.
type Plant string

// never is later than every instant.
const never = core.Never
