package sim

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// endpoint is what a message reaches: a phone or the node's SIP edge.
type endpoint interface {
	// arrive takes a message. False: nothing listens there, and the sender may be told.
	arrive(p parcel) bool
}

// parcel is one message on its way. Exactly one of req and res is set.
type parcel struct {
	from, to netip.AddrPort
	conn     *conn // TCP; nil: UDP
	req      *core.Request
	res      *core.Response
}

// conn is a TCP connection between a phone and the node.
type conn struct {
	id         core.FlowID
	phone      *phone
	server     *server
	generation int // of the node's process
	open       bool
	last       [2]core.Time // arrival of the last message to the node, to the phone: order is kept
}

// network carries parcels: UDP loses, repeats, delays and reorders; TCP only delays.
type network struct {
	w     *World
	flows int
}

// send puts a parcel on its way. refused is called when the far end is known not to
// listen (ICMP, or a reset); it may be nil.
func (n *network) send(p parcel, refused func()) {
	if p.conn != nil {
		n.stream(p, refused)
		return
	}
	if s, ours := n.w.hosts[p.from].(*server); ours && s.stopped {
		return
	}
	copies := 1
	if n.w.chance(n.w.opt.Duplicate) {
		copies = 2
		n.w.marks.hit("message duplicated")
	}
	for range copies {
		if n.w.chance(n.w.opt.Loss) {
			n.w.marks.hit("message lost")
			continue
		}
		n.w.after(n.delay(), func() {
			if n.w.lost(p) {
				return
			}
			host := n.w.hosts[p.to]
			if (host == nil || !host.arrive(p)) && refused != nil {
				n.w.after(n.delay(), refused)
			}
		})
	}
}

func (n *network) delay() time.Duration {
	return n.w.opt.DelayMin + n.w.about(n.w.opt.DelayMean)
}

func (n *network) stream(p parcel, refused func()) {
	c := p.conn
	direction := 0
	if p.to == c.phone.addr {
		direction = 1
	}
	if !c.open {
		if refused != nil {
			n.w.after(n.delay(), refused)
		}
		return
	}
	at := max(n.w.now.Add(n.delay()), c.last[direction]+1)
	c.last[direction] = at
	n.w.at(at, func() {
		if !c.open {
			return
		}
		if host := n.w.hosts[p.to]; host == nil || !host.arrive(p) {
			n.close(c)
		}
	})
}

// dial opens a connection between a phone and the node; nil when the node is down.
func (n *network) dial(p *phone) *conn {
	if !n.w.nodes[0].up {
		return nil
	}
	n.flows++
	c := &conn{id: core.FlowID("tcp-" + strconv.Itoa(n.flows)), phone: p, server: n.w.nodes[0], generation: n.w.nodes[0].generation, open: true}
	n.w.nodes[0].conns[c.id] = c
	n.w.nodes[0].connOrder = append(n.w.nodes[0].connOrder, c)
	p.conn = c
	return c
}

// close ends a connection; both ends learn it (a reset).
func (n *network) close(c *conn) {
	if !c.open {
		return
	}
	c.open = false
	srv := c.server
	if srv.up && srv.generation == c.generation {
		delete(srv.conns, c.id)
		n.w.after(n.delay(), func() {
			if srv.generation == c.generation {
				srv.emit(core.FlowClosed{Flow: c.id})
			}
		})
	}
	n.w.after(n.delay(), func() { c.phone.disconnected(c) })
}
