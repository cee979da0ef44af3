package etcd

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// conn is a client's connection to one member: TCP, so that each direction keeps its order
// and what cannot get through waits, until one end gives up.
type conn struct {
	client *client
	member *member
	ready  bool
	epoch  uint64 // of the connection; it grows when it breaks

	refused          int // faults that now refuse it; the others likewise
	cutTo, cutFrom   int
	slow             time.Duration
	lag              int
	lastTo, lastFrom core.Time
	heldTo, heldFrom []moment
	quiet            core.Time // since when nothing comes through
}

// open reports whether a new connection would be made.
func (n *conn) open() bool {
	return n.refused == 0 && n.cutTo == 0 && n.cutFrom == 0 && n.member.down == 0 && n.member.paused == 0
}

// mute reports whether the client hears nothing of the member.
func (n *conn) mute() bool { return n.cutTo > 0 || n.cutFrom > 0 || n.member.paused > 0 }

// pick returns the connection for the next request, nil when none is up: then nothing is
// sent, and nothing is in doubt (client/v3 retry.go: isSafeRetryMutableRPC).
func (cl *client) pick(via MemberID) *conn {
	if via > 0 {
		if n := cl.conns[via-1]; n.ready {
			return n
		}
		return nil
	}
	for range cl.conns {
		cl.turn = (cl.turn + 1) % len(cl.conns)
		if n := cl.conns[cl.turn]; n.ready {
			return n
		}
	}
	return nil
}

// hop draws the way between a client and a member.
func (c *Cluster) hop(n *conn) time.Duration { return c.draw(c.cfg.Hop) + n.slow }

// toMember sends what a client has to say, in order.
func (c *Cluster) toMember(n *conn, m moment) {
	if n.cutTo > 0 {
		n.heldTo = append(n.heldTo, m)
		return
	}
	n.lastTo = max(n.lastTo, c.now.Add(c.hop(n)))
	c.moves.push(n.lastTo, m)
}

// toClient sends what a member has to say, in order.
func (c *Cluster) toClient(n *conn, m moment) {
	if n.cutFrom > 0 {
		n.heldFrom = append(n.heldFrom, m)
		return
	}
	n.lastFrom = max(n.lastFrom, c.now.Add(c.hop(n)))
	c.moves.push(n.lastFrom, m)
}

// send sends a request, unless the odds are against it.
func (c *Cluster) send(k *call, n *conn) {
	k.conn, k.epoch = n, n.epoch
	odds := &c.cfg.Odds
	switch {
	case c.chance(odds.LostBefore):
		if c.rng.Uint32()&1 == 0 {
			k.answer = Answer{Err: ErrUnavailable}
			c.plan(c.hop(n), moment{what: answers, conn: n, call: k, n: n.epoch})
		}
	case c.chance(odds.Late):
		c.plan(c.hop(n)+c.draw(Span{0, odds.LateBy}), moment{what: arrives, conn: n, call: k, n: n.epoch})
	default:
		c.toMember(n, moment{what: arrives, conn: n, call: k, n: n.epoch})
	}
}

// arrive takes a request or the opening of a watch off the wire. What was sent over a
// connection that has broken since may have arrived before, or not.
func (c *Cluster) arrive(m moment) {
	at := m.conn.member
	stale := m.n != m.conn.epoch
	switch {
	case at.down > 0, stale && m.watcher != nil:
	case at.paused > 0:
		at.held = append(at.held, m)
	case m.watcher != nil:
		c.serve(m.watcher)
	case (stale || m.call.done) && c.rng.Uint32()&1 == 0:
		// The client's wish to cancel comes right behind, and it may be heard first.
	default:
		patience := m.call.req.Timeout
		if patience == 0 {
			patience = 5*time.Second + 2*c.cfg.Election
		}
		m.call.until = c.now.Add(patience) // the header says how long, not until when
		c.enter(at, m.call)
	}
}

// respond sends a member's answer.
func (c *Cluster) respond(k *call, a Answer) {
	if k.done || k.epoch != k.conn.epoch || k.conn.member.down > 0 {
		return
	}
	a.Member = k.conn.member.id
	if a.Revision == 0 && a.Err == "" {
		a.Revision = k.conn.member.view.rev
	}
	if c.chance(c.cfg.Odds.LostAfter) {
		if c.rng.Uint32()&1 == 0 {
			return
		}
		a = Answer{Err: ErrUnavailable}
	}
	k.answer = a
	c.toClient(k.conn, moment{what: answers, conn: k.conn, call: k, n: k.epoch})
}

// answered is the arrival of an answer.
func (c *Cluster) answered(m moment) {
	if m.conn == nil || m.n == m.conn.epoch {
		c.finish(m.call, m.call.answer)
	}
}

// disconnect ends a connection: what was asked over it has an unknown outcome, and its
// watches go on elsewhere.
func (c *Cluster) disconnect(n *conn) {
	if !n.ready {
		return
	}
	n.ready, n.heldTo, n.heldFrom = false, nil, nil
	n.epoch++
	c.dropWatchers(n)
	for _, k := range slices.Clone(n.client.calls) {
		if k.conn != n || k.done {
			continue
		}
		if t, ok := k.req.Do.(Txn); ok && c.cfg.Plant == PlantAppliedTwice && !readOnly(&t) {
			if other := n.client.pick(0); other != nil {
				c.send(k, other)
				continue
			}
		}
		c.finish(k, Answer{Err: ErrUnavailable})
	}
	for _, w := range n.client.watches {
		if w.conn == n {
			w.conn = nil
			c.plan(c.pause(Span{time.Millisecond, c.cfg.Redial.Low}), moment{what: resumes, watch: w})
		}
	}
	c.plan(c.pause(c.cfg.Redial), moment{what: redials, conn: n, n: n.epoch})
}

// redial tries to connect anew. What has waited for any connection is sent.
func (c *Cluster) redial(n *conn, epoch uint64) {
	if n.ready || n.epoch != epoch {
		return
	}
	if !n.open() {
		c.plan(c.pause(c.cfg.Redial), moment{what: redials, conn: n, n: n.epoch})
		return
	}
	n.ready, n.lastTo, n.lastFrom = true, c.now, c.now
	for _, k := range slices.Clone(n.client.calls) {
		if k.conn == nil && !k.done && k.answer.Reply == nil && (k.req.Via == 0 || k.req.Via == n.member.id) {
			c.send(k, n)
		}
	}
	for _, w := range n.client.watches {
		if w.conn == nil {
			c.open(w)
		}
	}
}

// silent is the client's keepalive: it finds a connection dead over which nothing has come
// for long enough. It does not find a member that is cut off from its peers.
func (c *Cluster) silent(n *conn) {
	if n.mute() && c.now.Sub(n.quiet) >= c.cfg.Silence {
		c.disconnect(n)
	}
}

// hush notes that nothing comes through from now on.
func (c *Cluster) hush(n *conn) {
	n.quiet = c.now
	c.plan(c.cfg.Silence, moment{what: silence, conn: n})
}

// release sends on what waited while a direction was cut.
func (c *Cluster) release(n *conn) {
	if n.cutTo == 0 && len(n.heldTo) > 0 {
		held := n.heldTo
		n.heldTo = nil
		for _, m := range held {
			c.toMember(n, m)
		}
	}
	if n.cutFrom == 0 && len(n.heldFrom) > 0 {
		held := n.heldFrom
		n.heldFrom = nil
		for _, m := range held {
			c.toClient(n, m)
		}
	}
}
