package etcd

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Cluster is an etcd with its members, its clients and the network between them. It is a
// function of its configuration, the seed of its randomness and the calls that are made.
// It is not safe for concurrent use.
type Cluster struct {
	cfg   Config
	rng   *rand.Rand
	now   core.Time
	moves timeline
	out   []Answer // that Step will return; a fault may end requests between two
	trace trace

	keys    *keyspace
	leases  lessor
	made    LeaseID // the last lease's id
	ticking bool
	history core.Revision // what periodic compaction will leave

	members  []*member
	leader   MemberID // of the latest term; 0: it has stepped down or died
	term     uint64
	vacant   bool     // nobody can commit, and an election is planned
	round    uint64   // of planning elections
	former   MemberID // who was leader before the vacancy
	log      []entry  // proposals that are not committed yet
	flushing int      // so many of them are on their way to the disks
	applied  uint64   // entries that were committed, and carried out by the leader
	slow     int      // slow disks
	scarce   int      // NOSPACE alarms
	scarceAt core.Time

	clients []*client
	named   map[ClientID]*client
	seen    map[string]struct{} // scratch
	batch   batch               // the last one that was cut out of history
}

// client is one client, its connections and what it waits for.
type client struct {
	id      ClientID
	conns   []*conn
	turn    int     // of the connections
	calls   []*call // sent, or waiting for a connection, and not answered
	watches []*watch
}

// call is a request under way.
type call struct {
	req    Request
	client *client
	conn   *conn
	epoch  uint64 // of conn, when it was sent
	place  int    // in client.calls
	done   bool   // the client has its answer
	until  core.Time
	index  uint64 // in the log; of a read: up to which the member must have carried out the log
	answer Answer // as the member gave it
}

// New returns a cluster with an elected leader and no keys, at revision 1.
func New(cfg Config, rng *rand.Rand) *Cluster {
	c := &Cluster{
		cfg: cfg, rng: rng, keys: newKeyspace(cfg.Plant), leases: lessor{election: cfg.Election, plant: cfg.Plant},
		named: map[ClientID]*client{}, seen: map[string]struct{}{}, term: 2, leader: 1,
	}
	for i := range cfg.Members {
		c.members = append(c.members, &member{id: MemberID(i + 1), follows: 1, view: c.keys.head()})
	}
	if cfg.Retain > 0 {
		c.plan(cfg.Retain, moment{what: compacts})
	}
	return c
}

// Deadline returns when Step has something to do, core.Never for never.
func (c *Cluster) Deadline() core.Time {
	if len(c.out) > 0 {
		return c.now
	}
	return c.moves.next()
}

// Hash is a hash of all that has happened so far.
func (c *Cluster) Hash() uint64 { return uint64(c.trace) }

// Leader returns who leads now, 0 for nobody.
func (c *Cluster) Leader() MemberID {
	if !c.able() {
		return 0
	}
	return c.leader
}

// Revision returns the revision of the store, whoever has heard of it.
func (c *Cluster) Revision() core.Revision { return c.keys.rev }

// Step lets happen all that is due and returns out with the answers that have come, in
// order.
func (c *Cluster) Step(now core.Time, out []Answer) []Answer {
	c.out = append(out, c.out...)
	for c.moves.next() <= now {
		at, m := c.moves.pop()
		c.now = max(c.now, at)
		c.happen(m)
	}
	c.now = max(c.now, now)
	out, c.out = c.out, nil
	return out
}

// Ask sends a request at an instant up to which Step was called.
func (c *Cluster) Ask(now core.Time, req Request) {
	c.begin(now)
	cl := c.client(req.Client)
	c.trace.number(uint64(now))
	c.trace.text(string(req.Client))
	c.trace.number(uint64(req.ID))
	switch do := req.Do.(type) {
	case Watch:
		w := &watch{req: req, do: do, client: cl, next: do.From}
		cl.watches = append(cl.watches, w)
		c.open(w)
		return
	case Unwatch:
		c.unwatch(cl, do.Watch)
		c.atOnce(cl, req)
		return
	case AskProgress:
		for _, conn := range cl.conns {
			if conn.ready && conn.cutTo == 0 {
				c.plan(c.hop(conn), moment{what: progresses, conn: conn, n: conn.epoch})
			}
		}
		c.atOnce(cl, req)
		return
	}
	k := &call{req: req, client: cl, place: len(cl.calls)}
	cl.calls = append(cl.calls, k)
	patience := req.Timeout
	if patience == 0 {
		patience = 5*time.Second + 2*c.cfg.Election
	}
	c.plan(patience, moment{what: gives, call: k})
	if conn := cl.pick(req.Via); conn != nil {
		c.send(k, conn)
	}
}

// atOnce answers a request that goes nowhere.
func (c *Cluster) atOnce(cl *client, req Request) {
	k := &call{req: req, client: cl, place: len(cl.calls), answer: Answer{Reply: Done{}}}
	cl.calls = append(cl.calls, k)
	c.plan(0, moment{what: answers, call: k})
}

// Close ends a client: its connections, its watches, and its interest in any answer. What
// is on its way may arrive or not.
func (c *Cluster) Close(now core.Time, id ClientID) {
	c.begin(now)
	c.trace.text(string(id))
	cl := c.named[id]
	if cl == nil {
		return
	}
	for _, k := range cl.calls {
		k.done = true
	}
	for _, w := range cl.watches {
		w.ended = true
	}
	for _, conn := range cl.conns {
		conn.epoch++
		conn.heldTo, conn.heldFrom = nil, nil
		c.dropWatchers(conn)
		if conn.ready = conn.open(); !conn.ready {
			c.plan(c.pause(c.cfg.Redial), moment{what: redials, conn: conn, n: conn.epoch})
		}
	}
	cl.calls, cl.watches = nil, nil
}

func (c *Cluster) begin(now core.Time) { c.now = max(c.now, now) }

func (c *Cluster) client(id ClientID) *client {
	if cl := c.named[id]; cl != nil {
		return cl
	}
	cl := &client{id: id}
	for _, m := range c.members {
		conn := &conn{client: cl, member: m}
		conn.ready = conn.open()
		cl.conns = append(cl.conns, conn)
		if !conn.ready {
			c.plan(c.pause(c.cfg.Redial), moment{what: redials, conn: conn})
		}
	}
	c.clients = append(c.clients, cl)
	c.named[id] = cl
	return cl
}

// plan has something happen after a while.
func (c *Cluster) plan(after time.Duration, m moment) { c.moves.push(c.now.Add(after), m) }

// draw draws from a span.
func (c *Cluster) draw(s Span) time.Duration {
	if s.High <= s.Low {
		return s.Low
	}
	return s.Low + time.Duration(c.rng.Uint64N(uint64(s.High-s.Low)+1))
}

// pause draws from a span for what is tried again and again.
func (c *Cluster) pause(s Span) time.Duration { return max(c.draw(s), time.Millisecond) }

func (c *Cluster) chance(p float64) bool { return p > 0 && c.rng.Float64() < p }

// happen carries out one moment.
func (c *Cluster) happen(m moment) {
	switch m.what {
	case arrives:
		c.arrive(m)
	case forwarded:
		c.lead(m.call, m.member)
	case confirmed:
		c.confirm(m.call)
	case renews:
		c.renew(m.call)
	case flushed:
		c.flushed(m.n)
	case applies:
		c.applies(m.member, m.n, m.view)
	case answers:
		c.answered(m)
	case tells:
		c.told(m)
	case gives:
		c.giveUp(m.call)
	case redials:
		c.redial(m.conn, m.n)
	case resumes:
		c.open(m.watch)
	case pumps:
		c.pump(m.watcher)
	case progresses:
		if m.watcher != nil {
			c.progress(m.watcher)
		} else {
			c.progressAll(m.conn, m.n)
		}
	case silence:
		c.silent(m.conn)
	case lapses:
		c.lapse(m.member, m.n)
	case monitors:
		c.monitor(m.member, m.n)
	case elects:
		c.elect(m.n)
	case ticks:
		c.tick()
	case compacts:
		c.periodic()
	case heals:
		c.apply(*m.fault, -1)
	}
}

// finish gives the client its answer.
func (c *Cluster) finish(k *call, a Answer) {
	if k.done {
		return
	}
	k.done = true
	calls := k.client.calls
	last := len(calls) - 1
	calls[k.place] = calls[last]
	calls[k.place].place = k.place
	calls[last] = nil
	k.client.calls = calls[:last]
	a.At, a.Client, a.ID = c.now, k.client.id, k.req.ID
	c.say(a)
}

func (c *Cluster) say(a Answer) {
	c.trace.answer(&a)
	c.out = append(c.out, a)
}

// giveUp is the client's own clock. Nothing is told to the member that could stop what has
// been proposed ("etcd does not send abort responses", api_guarantees.md).
func (c *Cluster) giveUp(k *call) {
	err := ErrDeadline
	if k.req.Timeout == 0 {
		err = ErrTimeout
	}
	c.finish(k, Answer{Err: err})
}

// unwatch forgets a watch at both ends.
func (c *Cluster) unwatch(cl *client, id RequestID) {
	cl.watches = slices.DeleteFunc(cl.watches, func(w *watch) bool {
		if w.req.ID != id {
			return false
		}
		w.ended = true
		for _, m := range c.members {
			m.watchers = slices.DeleteFunc(m.watchers, func(x *watcher) bool { return x.watch == w })
		}
		return true
	})
}
