package peers

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// peer is one process that this one keeps in touch with. Peers.mu guards it.
type peer struct {
	member core.Member
	to     unix.Sockaddr // where heartbeats go; nil: there is no way
	sight  sight
	told   verdict // the last one that the core knows

	quit      context.CancelFunc // ends the goroutine that is connected to it; nil: there is none
	out       *outbound          // the connection that we opened; nil: there is none now
	met       bool               // it has answered, and proved who it is
	ear       *ear               // of the connection on which it was heard last; nil: never heard
	next      *ear               // of a newer connection, on which it was not heard yet
	voice     *voice             // by the connection that it opened last; nil: it never did
	echo      time.Duration      // sent of its newest heartbeat, by its clock
	echoAt    time.Duration      // when that came
	complaint string             // the last one in the log, so that it stands there once
}

// setPeers begins to keep in touch with those who are new and forgets who is not named.
func (p *Peers) setPeers(members []core.Member) {
	for _, m := range p.exchange(members) {
		p.log.Error("a node is not watched, or gets no heartbeats: give all nodes addresses of one family, without a zone, and have not too many",
			slog.String("peer", string(m.ID)), slog.Any("addr", m.Addr), slog.Int("most", maxPeers))
	}
}

// exchange returns those with whom this process can not wholly be in touch.
func (p *Peers) exchange(members []core.Member) (without []core.Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil
	}
	wanted := map[core.NodeID]core.Member{}
	for _, m := range members {
		if m.ID == p.self.id || m.ID == "" || len(m.ID) > maxID || wanted[m.ID].Incarnation > m.Incarnation {
			continue
		}
		wanted[m.ID] = m
	}
	for _, q := range p.order {
		if wanted[q.member.ID] != q.member {
			p.forget(q)
		}
	}
	for _, m := range members {
		if m == wanted[m.ID] && p.peers[m.ID] == nil && !p.meet(m) {
			without = append(without, m)
		}
	}
	p.order = p.order[:0]
	for _, q := range p.peers {
		p.order = append(p.order, q)
	}
	slices.SortFunc(p.order, func(a, b *peer) int { return cmp.Compare(a.member.ID, b.member.ID) })
	p.hearTags()
	return without
}

// meet reports whether there is room for a peer, and a way for heartbeats to it.
func (p *Peers) meet(m core.Member) bool {
	if len(p.peers) >= maxPeers {
		return false
	}
	q := &peer{member: m, to: sockaddr(m.Addr, p.socket.v4), sight: named(p.now())}
	if in := p.inbound[processOf(m)]; in != nil {
		q.voice = in.voice
	}
	p.peers[m.ID] = q
	p.court(q)
	return q.to != nil
}

func (p *Peers) forget(q *peer) {
	q.hush()
	p.deafen(q)
	delete(p.peers, q.member.ID)
}

// hush ends what is connected to a peer.
func (q *peer) hush() {
	if q.quit != nil {
		q.quit()
	}
	q.quit, q.out = nil, nil
}

// deafen ends all hearing of a peer, and speaking to it.
func (p *Peers) deafen(q *peer) {
	for _, e := range []*ear{q.ear, q.next} {
		if e != nil {
			delete(p.ears, e.tag)
		}
	}
	q.ear, q.next, q.voice = nil, nil, nil
}

// hearTags lets the kernel drop what bears no tag of ours, before it takes room in the
// socket: a flood by strangers must not push out the heartbeats. A kernel that takes no
// filter has said so to New.
func (p *Peers) hearTags() {
	tags := make([]tag, 0, len(p.ears))
	for t := range p.ears {
		tags = append(tags, t)
	}
	_ = p.socket.only(tags)
}
