package etcd

import (
	"math/rand/v2"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Inject begins a fault at an instant up to which Step was called; after its time it ends
// by itself. Faults of one kind add up.
func (c *Cluster) Inject(now core.Time, f Fault) {
	c.begin(now)
	c.trace.text(string(f.Kind))
	c.trace.number(uint64(f.Member))
	if f.Member == 0 {
		if f.Member = c.leader; f.Member == 0 {
			f.Member = c.former
		}
	}
	if f.Client != "" {
		c.client(f.Client)
	}
	c.apply(f, 1)
	switch f.Kind {
	case Reset, Elect, CompactAll:
	default:
		c.plan(max(f.For, 0), moment{what: heals, fault: &f})
	}
}

// apply begins (by = 1) or ends (by = -1) a fault.
func (c *Cluster) apply(f Fault, by int) {
	m := c.member(f.Member)
	switch f.Kind {
	case CutLink, CutTo, CutFrom, Refuse, Reset, SlowLink, LagWatch:
		if f.Watch != 0 {
			c.lagOne(f, by)
			break
		}
		for _, cl := range c.clients {
			if f.Client == "" || f.Client == cl.id {
				c.link(cl.conns[m.id-1], f, by)
			}
		}
	case Isolate:
		m.alone += by
	case Crash:
		if m.down += by; m.down == 1 && by > 0 {
			c.crash(m)
		} else if m.down == 0 && m.view.rev < c.keys.pruned {
			// Nobody kept history for it: it has lost what it knew last, and gets a snapshot.
			m.view = view{c.keys.pruned, c.keys.pruned}
		}
	case Pause:
		if m.paused += by; m.paused == 1 && by > 0 {
			for _, cl := range c.clients {
				if n := cl.conns[m.id-1]; n.cutTo == 0 && n.cutFrom == 0 {
					c.hush(n)
				}
			}
		} else if m.paused == 0 {
			c.wake(m)
		}
	case SlowDisk:
		m.disk += time.Duration(by) * f.Delay
		c.slow += by
	case Elect:
		c.unseat()
	case NoSpace:
		if c.scarce += by; c.scarce == 1 && by > 0 {
			c.scarceAt = c.now
		}
	case CompactAll:
		if c.able() && c.keys.rev > c.keys.compacted {
			c.append(entry{auto: c.keys.rev})
		}
	}
	c.review()
}

// link begins or ends a fault of one connection. One that begins for every client strikes
// those that there are.
func (c *Cluster) link(n *conn, f Fault, by int) {
	was := n.mute()
	switch f.Kind {
	case CutLink:
		n.cutTo, n.cutFrom = max(0, n.cutTo+by), max(0, n.cutFrom+by)
	case CutTo:
		n.cutTo = max(0, n.cutTo+by)
	case CutFrom:
		n.cutFrom = max(0, n.cutFrom+by)
	case Refuse:
		n.refused = max(0, n.refused+by)
		c.disconnect(n)
	case Reset:
		c.disconnect(n)
	case SlowLink:
		n.slow = max(0, n.slow+time.Duration(by)*f.Delay)
	case LagWatch:
		c.lag(n, by)
	}
	if !was && n.mute() {
		c.hush(n)
	}
	c.release(n)
}

// lag holds the watches of a connection back, or tells them all that they have missed.
func (c *Cluster) lag(n *conn, by int) {
	if n.lag+by < 0 {
		return
	}
	n.lag += by
	for _, x := range append([]*watcher(nil), n.member.watchers...) {
		if x.conn != n {
			continue
		}
		if by > 0 {
			x.since++
		} else {
			c.pump(x)
		}
	}
}

// lagOne does so with one watch, wherever it is.
func (c *Cluster) lagOne(f Fault, by int) {
	cl := c.named[f.Client]
	if cl == nil {
		return
	}
	for _, w := range cl.watches {
		if w.req.ID != f.Watch || w.lag+by < 0 {
			continue
		}
		w.lag += by
		for _, m := range c.members {
			for _, x := range append([]*watcher(nil), m.watchers...) {
				switch {
				case x.watch != w:
				case by > 0:
					x.since++
				default:
					c.pump(x)
				}
			}
		}
	}
}

// crash ends a member's process. What it had carried out is on its disk; what waited in its
// memory is lost, and its clients notice at once.
func (c *Cluster) crash(m *member) {
	m.held, m.waiting, m.reads, m.parked, m.watchers = nil, nil, nil, nil, nil
	m.follows, m.losing = 0, false
	m.loss++
	for _, cl := range c.clients {
		c.disconnect(cl.conns[m.id-1])
	}
	if m.id == c.leader {
		c.unseat()
	}
}

// wake lets a paused process go on. It reads what has come to it meanwhile, in order: an
// old request is carried out now, if the client's wish to cancel it is not read first.
func (c *Cluster) wake(m *member) {
	held := m.held
	m.held = nil
	at := time.Duration(0)
	for _, h := range held {
		at += c.draw(c.cfg.Peer) / 2
		c.plan(at, h)
	}
}

// Troubles draws faults for a time: one begins every mean interval, exponentially spread,
// each of a kind that is drawn from kinds, and lasts up to longest. The caller injects each
// when its time comes.
func Troubles(rng *rand.Rand, cfg Config, from, until core.Time, mean, longest time.Duration, kinds []FaultKind, clients []ClientID) []Trouble {
	var all []Trouble
	for at := from; len(kinds) > 0; {
		at = at.Add(time.Duration(rng.ExpFloat64() * float64(mean)))
		if at >= until {
			break
		}
		f := Fault{Kind: kinds[rng.IntN(len(kinds))], Member: MemberID(rng.IntN(cfg.Members + 1))}
		if len(clients) > 0 && rng.IntN(4) > 0 {
			f.Client = clients[rng.IntN(len(clients))]
		}
		f.For = min(time.Duration(rng.Int64N(int64(longest)+1)), until.Sub(at))
		f.Delay = time.Duration(rng.Int64N(int64(longest)/10 + 1))
		all = append(all, Trouble{At: at, Fault: f})
	}
	return all
}

// Trouble is a fault and when it begins.
type Trouble struct {
	At core.Time
	Fault
}
