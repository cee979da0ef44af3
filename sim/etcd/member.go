package etcd

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// member is one member: how far it has carried out the log, whom it takes for the leader,
// and what waits at it.
type member struct {
	id       MemberID
	down     int // faults; the others likewise
	paused   int
	alone    int
	disk     time.Duration // added to each sync
	follows  MemberID      // whom it takes for the leader; 0: nobody
	losing   bool          // it has not heard the leader for a while
	loss     uint64        // generation of losing
	applied  uint64
	view     view
	held     []moment // what arrived while it was paused
	waiting  []*call  // answers that are told once it has carried out their entry
	reads    []*call  // confirmed reads, the same
	parked   []*call  // what needs a leader that it can reach
	watchers []*watcher
}

// linked reports whether two members hear each other.
func linked(a, b *member) bool {
	return a.down == 0 && b.down == 0 && a.paused == 0 && b.paused == 0 && (a == b || a.alone == 0 && b.alone == 0)
}

func (c *Cluster) member(id MemberID) *member { return c.members[id-1] }

// quorum reports whether a member reaches a majority.
func (c *Cluster) quorum(m *member) bool {
	n := 0
	for _, other := range c.members {
		if linked(m, other) {
			n++
		}
	}
	return 2*n > len(c.members)
}

// able reports whether there is a leader that can commit.
func (c *Cluster) able() bool { return c.leader != 0 && c.quorum(c.member(c.leader)) }

// reaches reports whether a member follows the leader, and the leader hears it and can commit.
func (c *Cluster) reaches(m *member) bool {
	return c.able() && m.follows == c.leader && linked(m, c.member(c.leader))
}

// enter is where a request begins at a member.
func (c *Cluster) enter(m *member, k *call) {
	if err := c.valid(k.req.Do); err != "" {
		c.respond(k, Answer{Err: err})
		return
	}
	if k.req.NeedLeader && m.follows == 0 {
		c.respond(k, Answer{Err: ErrNoLeader})
		return
	}
	switch do := k.req.Do.(type) {
	case Range:
		if do.Serializable || c.cfg.Plant == PlantStaleRead {
			c.answerRead(m, k)
			return
		}
		c.retry(m, k)
	case Txn:
		switch {
		case !readOnly(&do):
			c.propose(m, k)
		case len(do.Then)+len(do.Else) == 0 || c.cfg.Plant == PlantStaleRead:
			// A Txn of comparisons only counts as serializable: "for all operations" holds for
			// none (txn.go: IsTxnSerializable).
			c.answerRead(m, k)
		default:
			c.retry(m, k)
		}
	case KeepAlive:
		c.retry(m, k)
	default:
		c.propose(m, k)
	}
}

// retry goes on with what needs the leader's word, but no entry in the log; where the
// leader is out of reach it waits.
func (c *Cluster) retry(m *member, k *call) {
	if !c.reaches(m) {
		m.park(k, c.now)
		return
	}
	what := confirmed
	if _, ok := k.req.Do.(KeepAlive); ok {
		what = renews
	}
	away := c.draw(c.cfg.Peer)
	if m.id != c.leader {
		away += c.draw(c.cfg.Peer)
	}
	if len(c.members) == 1 {
		away = 0
	}
	c.plan(away, moment{what: what, call: k})
}

// park keeps what cannot go on now.
func (m *member) park(k *call, now core.Time) {
	if len(m.parked) >= parkedMany {
		m.parked = slices.DeleteFunc(m.parked, func(k *call) bool { return !k.wanted(now) })
	}
	m.parked = append(m.parked, k)
}

// wanted reports whether a member still works for a request that waits: its deadline, the
// end of its connection or the client's cancelling end that, and then it is never proposed.
func (k *call) wanted(now core.Time) bool {
	return now < k.until && k.epoch == k.conn.epoch && (!k.done || k.conn.cutTo > 0)
}

const parkedMany = 64 // then those are let go whose time has passed

// confirm is a linearizable read of which the leader has told its commit index, and a
// majority that it leads: so much the member must have carried out (raft thesis 6.4).
func (c *Cluster) confirm(k *call) {
	m := k.conn.member
	if m.down > 0 {
		return
	}
	if !c.reaches(m) {
		m.park(k, c.now)
		return
	}
	if k.index = c.applied; m.applied >= k.index {
		c.answerRead(m, k)
		return
	}
	m.reads = append(m.reads, k)
}

// answerRead answers from what the member has carried out.
func (c *Cluster) answerRead(m *member, k *call) {
	var a Answer
	switch do := k.req.Do.(type) {
	case Range:
		reply, err := c.keys.read(do.Key, do.End, do.Limit, do.Revision, m.view)
		if a.Err = err; err == "" {
			a.Reply = reply
		}
	case Txn:
		reply, err := c.keys.readTxn(&do, m.view)
		if a.Err = err; err == "" {
			a.Reply = reply
		}
	}
	c.respond(k, a)
}

// propose hands a change to the leader. While a member knows of no leader its proposals
// wait; sent to one that is out of reach they are lost, and nobody is told.
func (c *Cluster) propose(m *member, k *call) {
	if c.scarce > 0 && writes(k.req.Do) {
		c.respond(k, Answer{Err: ErrNoSpace})
		return
	}
	switch {
	case m.follows == 0:
		m.park(k, c.now)
	case m.follows != c.leader:
	case m.id == c.leader:
		c.lead(k, m)
	case linked(m, c.member(c.leader)):
		c.plan(c.draw(c.cfg.Peer), moment{what: forwarded, call: k, member: c.member(c.leader)})
	}
}

// lead takes a proposal into the leader's log.
func (c *Cluster) lead(k *call, at *member) {
	if at.id != c.leader || at.down > 0 || at.paused > 0 {
		return
	}
	if c.cfg.Plant == PlantEarlyAnswer {
		c.answerEarly(k)
	}
	c.append(entry{call: k})
}

// follow makes a member that hears the leader its follower. It catches up, and goes on with
// what has waited for a leader.
func (c *Cluster) follow(m *member) {
	if m.losing {
		m.losing = false
		m.loss++
	}
	changed := m.follows != c.leader
	if m.follows == 0 {
		m.loss++
	}
	m.follows = c.leader
	if m.applied < c.applied {
		c.spread(m)
	}
	if len(m.parked) == 0 {
		return
	}
	parked := m.parked
	m.parked = nil
	for _, k := range parked {
		if !k.wanted(c.now) {
			continue
		}
		_, alive := k.req.Do.(KeepAlive)
		switch reads := reads(k.req.Do); {
		case reads && changed:
			c.respond(k, Answer{Err: ErrLeaderChanged})
		case reads, alive:
			c.retry(m, k)
		default:
			c.propose(m, k)
		}
	}
}

// lose is told of a member that does not hear the leader: after an election timeout or two
// it knows of none.
func (c *Cluster) lose(m *member) {
	if m.losing || m.follows == 0 || m.down > 0 {
		return
	}
	m.losing = true
	m.loss++
	c.plan(c.draw(Span{c.cfg.Election, 2 * c.cfg.Election}), moment{what: lapses, member: m, n: m.loss})
}

func (c *Cluster) lapse(m *member, n uint64) {
	switch {
	case n != m.loss || !m.losing || m.down > 0:
	case m.paused > 0: // it notices nothing now
		c.plan(c.cfg.Election, moment{what: lapses, member: m, n: n})
	default:
		if m.id == c.leader { // it has not heard a majority: CheckQuorum
			c.resign()
		}
		c.orphan(m)
	}
}

// orphan makes a member know of no leader. Streams that require one are ended after three
// looks in a row, an election timeout apart (v3rpc/interceptor.go: monitorLeader).
func (c *Cluster) orphan(m *member) {
	m.losing, m.follows = false, 0
	m.loss++
	c.plan(c.draw(Span{2 * c.cfg.Election, 3 * c.cfg.Election}), moment{what: monitors, member: m, n: m.loss})
}

func (c *Cluster) monitor(m *member, n uint64) {
	switch {
	case n != m.loss || m.follows != 0 || m.down > 0:
	case m.paused > 0:
		c.plan(c.cfg.Election, moment{what: monitors, member: m, n: n})
	default:
		m.watchers = slices.DeleteFunc(m.watchers, func(w *watcher) bool {
			if !w.watch.req.NeedLeader || c.cfg.Plant == PlantDeafWatch {
				return false
			}
			c.end(w, ErrNoLeader, 0)
			return true
		})
	}
}

// applies is a member that has carried out the log so far.
func (c *Cluster) applies(m *member, index uint64, v view) {
	if m.down > 0 || m.paused > 0 || m.applied >= index || !c.able() || !linked(m, c.member(c.leader)) {
		return // it will catch up
	}
	c.advance(m, index, v)
	c.clean()
}

// advance is what follows from having carried out the log: answers, reads, watches.
func (c *Cluster) advance(m *member, index uint64, v view) {
	m.applied, m.view = index, v
	n := 0
	for n < len(m.waiting) && m.waiting[n].index <= index {
		c.respond(m.waiting[n], m.waiting[n].answer)
		n++
	}
	m.waiting = slices.Delete(m.waiting, 0, n)
	if len(m.reads) > 0 {
		m.reads = slices.DeleteFunc(m.reads, func(k *call) bool {
			if k.index > index {
				return false
			}
			c.answerRead(m, k)
			return true
		})
	}
	for _, w := range m.watchers {
		if w.since == 0 {
			c.cut(w)
		}
	}
}

// clean forgets history that no member can be asked for any more.
func (c *Cluster) clean() {
	if c.keys.pruned == c.keys.compacted {
		return
	}
	rev := c.keys.compacted
	for _, m := range c.members {
		if m.down == 0 {
			rev = min(rev, max(m.view.compacted, 0), m.view.rev)
		}
	}
	if rev > 0 {
		c.keys.prune(rev)
	}
}
