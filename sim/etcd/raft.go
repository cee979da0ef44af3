package etcd

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// entry is one proposal in the leader's log: a client's, or the end of a lease.
type entry struct {
	call  *call
	lease LeaseID // expired
	at    core.Time
	alone bool // proposed while the leader reached no majority: nobody else has it
	auto  core.Revision
}

// append takes an entry into the log.
func (c *Cluster) append(e entry) {
	e.at, e.alone = c.now, !c.able()
	c.log = append(c.log, e)
	c.flush()
}

// flush has all that waits synced and sent to the others, in one go; what comes meanwhile
// goes with the next.
func (c *Cluster) flush() {
	if c.flushing > 0 || len(c.log) == 0 || !c.able() {
		return
	}
	c.flushing = len(c.log)
	c.plan(c.draw(c.cfg.Commit)+c.syncDelay(), moment{what: flushed, n: c.term})
}

// syncDelay is how slow disks hold a commit up: the leader's own always, and of the others
// those that the majority needs.
func (c *Cluster) syncDelay() time.Duration {
	if c.slow == 0 {
		return 0
	}
	leader := c.member(c.leader)
	var others []time.Duration
	for _, m := range c.members {
		if m != leader && linked(m, leader) {
			others = append(others, m.disk)
		}
	}
	need := len(c.members) / 2
	slices.Sort(others)
	slowest := leader.disk
	if need > 0 && need <= len(others) {
		slowest = max(slowest, others[need-1])
	}
	return slowest
}

// flushed is the commit of what was in the flush, unless the leader has changed, or reaches
// no majority any more: then the entries stay in its log.
func (c *Cluster) flushed(term uint64) {
	if term != c.term {
		return
	}
	n := c.flushing
	c.flushing = 0
	if !c.able() {
		return
	}
	leader := c.member(c.leader)
	for i := range n {
		e := &c.log[i]
		c.applied++
		a := c.carryOut(e)
		if e.call == nil {
			continue
		}
		k := e.call
		k.index = c.applied
		if k.conn.member == leader {
			c.respond(k, a)
		} else if k.conn.member.down == 0 && !k.done {
			k.answer = a
			k.conn.member.waiting = append(k.conn.member.waiting, k)
		}
	}
	c.log = slices.Delete(c.log, 0, n)
	c.advance(leader, c.applied, c.keys.head())
	for _, m := range c.members {
		if m != leader && linked(m, leader) {
			c.spread(m)
		}
	}
	c.clean()
	c.flush()
}

// spread lets a follower carry out what was committed.
func (c *Cluster) spread(m *member) {
	c.plan(c.draw(c.cfg.Peer)+m.disk, moment{what: applies, member: m, n: c.applied, view: c.keys.head()})
}

// carryOut carries out one committed entry and returns its answer.
func (c *Cluster) carryOut(e *entry) Answer {
	var a Answer
	commit := Commit{At: c.now, Proposed: e.at}
	switch {
	case e.lease != 0:
		commit.Do = Revoke{Lease: e.lease}
	case e.auto != 0:
		commit.Do = Compact{Revision: e.auto}
	default:
		commit.Client, commit.ID, commit.Do = e.call.client.id, e.call.req.ID, e.call.req.Do
	}
	// The alarm is an entry of the log like others: what was proposed before it may be
	// carried out after it, and then the member that was asked has said no already
	// (maintenance.md: NOSPACE; the client must not take the error for a refusal).
	short := c.scarce > 0 && writes(commit.Do)
	if short && e.at >= c.scarceAt {
		a.Err = ErrNoSpace
	} else {
		a = c.do(commit.Do)
	}
	a.Revision = c.keys.rev
	commit.Revision, commit.Err = a.Revision, a.Err
	c.trace.number(uint64(a.Revision))
	if c.cfg.Seen != nil {
		c.cfg.Seen(commit)
	}
	if short && a.Err == "" {
		a = Answer{Err: ErrNoSpace}
	}
	if a.Err != "" {
		a.Revision, a.Reply = 0, nil
	}
	return a
}

func (c *Cluster) do(action Action) (a Answer) {
	switch do := action.(type) {
	case Txn:
		reply, err := c.keys.txn(&do, &c.leases)
		a.Err, a.Reply = err, reply
	case Grant:
		c.made++
		x, err := c.leases.grant(c.made, do.TTL, c.now)
		if a.Err = err; err != "" {
			return a
		}
		a.Reply = LeaseReply{Lease: x.id, TTL: x.ttl}
		if !c.ticking {
			c.ticking = true
			c.plan(revokeEvery, moment{what: ticks})
		}
	case Revoke:
		x := c.leases.find(do.Lease)
		a.Err, a.Reply = c.keys.revoke(do.Lease, &c.leases), Done{}
		if x != nil {
			for _, k := range x.renew {
				c.respond(k, Answer{Err: ErrLeaseNotFound})
			}
		}
	case Compact:
		a.Err, a.Reply = c.keys.compact(do.Revision), Done{}
	}
	return a
}

// answerEarly is a plant: the answer of a Txn before it is committed.
func (c *Cluster) answerEarly(k *call) {
	if t, ok := k.req.Do.(Txn); ok {
		ops, held := c.keys.branch(&t, c.keys.rev)
		c.respond(k, Answer{Revision: c.keys.rev + 1, Reply: TxnReply{Succeeded: held, Results: make([]Result, len(ops))}})
	}
}

// review looks at who hears whom after something has changed.
func (c *Cluster) review() {
	able := c.able()
	switch {
	case !able && !c.vacant:
		c.vacate()
	case able && c.vacant: // healed before anybody stood for election
		c.vacant = false
		c.round++
	}
	for _, m := range c.members {
		if able && linked(m, c.member(c.leader)) {
			c.follow(m)
		} else {
			c.lose(m)
		}
	}
	if able {
		c.flush()
	}
}

// vacate plans an election: from now on nothing is committed.
func (c *Cluster) vacate() {
	c.vacant = true
	c.round++
	c.plan(c.pause(c.cfg.Vacancy), moment{what: elects, n: c.round})
}

// unseat is a leader that is none any more: it has stepped down, or died.
func (c *Cluster) unseat() {
	if c.leader == 0 {
		return
	}
	c.resign()
	if c.rng.Uint32()&1 == 0 {
		for _, m := range c.members {
			if m.down == 0 && m.paused == 0 {
				c.orphan(m)
			}
		}
	}
	c.review()
}

// resign is the leader's part of it. What is being synced is not committed by this leader.
func (c *Cluster) resign() {
	c.former, c.leader = c.leader, 0
	c.term++
	c.flushing = 0
}

// elect ends an election: somebody who reaches a majority leads now, and has everything that
// was committed. Of what was proposed to the one before, he has the beginning, or all, or
// nothing: that is committed now, whatever the clients believe; the rest never is.
func (c *Cluster) elect(round uint64) {
	if round != c.round || !c.vacant {
		return
	}
	if c.leader != 0 {
		c.former = c.leader
	}
	var fit []*member
	for _, m := range c.members {
		if m.id != c.former && m.down == 0 && m.paused == 0 && c.quorum(m) {
			fit = append(fit, m)
		}
	}
	if old := c.former; len(fit) == 0 && old != 0 && c.quorum(c.member(old)) {
		fit = append(fit, c.member(old))
	}
	if len(fit) == 0 {
		c.vacate()
		return
	}
	leader := fit[c.rng.IntN(len(fit))]
	if leader.id != c.former {
		shared := 0
		for shared < len(c.log) && !c.log[shared].alone {
			shared++
		}
		c.log = slices.Delete(c.log, c.rng.IntN(shared+1), len(c.log))
	}
	for i := range c.log {
		c.log[i].alone = false
	}
	c.term++
	c.leader, c.vacant, c.flushing = leader.id, false, 0
	c.trace.number(uint64(leader.id) | c.term<<8)
	c.leases.promote(c.now)
	for _, x := range c.leases.all {
		waiting := x.renew
		x.renew = nil
		for _, k := range waiting {
			c.retry(k.conn.member, k)
		}
	}
	c.advance(leader, c.applied, c.keys.head())
	c.review()
}

// tick is the leader's look at its leases, twice a second. To end one it proposes so.
func (c *Cluster) tick() {
	if len(c.leases.all) == 0 {
		c.ticking = false
		return
	}
	if c.able() {
		for _, id := range c.leases.expired(c.now) {
			c.append(entry{lease: id})
		}
	}
	c.plan(revokeEvery, moment{what: ticks})
}

// renew is a keepalive at the leader. It changes nothing in the log, so the next leader
// does not know of it. One that finds its lease expired waits until it is gone.
func (c *Cluster) renew(k *call) {
	m := k.conn.member
	if m.down > 0 {
		return
	}
	if !c.reaches(m) {
		m.park(k, c.now)
		return
	}
	x := c.leases.find(k.req.Do.(KeepAlive).Lease)
	switch {
	case x == nil:
		c.respond(k, Answer{Err: ErrLeaseNotFound})
	case x.expiry <= c.now:
		x.renew = append(x.renew, k)
	default:
		x.refresh(c.now, 0)
		c.respond(k, Answer{Reply: LeaseReply{Lease: x.id, TTL: x.ttl}})
	}
}

// periodic compacts to where the store was one period ago.
func (c *Cluster) periodic() {
	if c.able() && c.history > c.keys.compacted && c.history > 1 {
		c.append(entry{auto: c.history})
	}
	c.history = c.keys.rev
	c.plan(c.cfg.Retain, moment{what: compacts})
}
