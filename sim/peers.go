package sim

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// hearing is how one process hears another: a connection between the two, and heartbeats.
type hearing struct {
	core.Member
	up     bool // PeerUp was said, and nothing since
	silent bool // PeerSilent was said
	dead   bool // PeerDead was said
	serial int  // older plans are void
}

const silence = 100 * time.Millisecond // five heartbeats

func (s *server) self() core.Member {
	return core.Member{ID: s.id, Incarnation: s.incarnation(), Addr: s.record().Peer}
}

// incarnation is that of the running process, 0 before it has joined.
func (s *server) incarnation() core.Revision {
	if e, ok := s.store.(*edge); ok && s.up {
		return e.incarnation
	}
	return 0
}

// is reports whether an incarnation is, or was, that of the running process.
func (s *server) is(incarnation core.Revision) bool {
	e, ok := s.store.(*edge)
	return ok && s.up && e.born > 0 && e.born <= incarnation && incarnation <= e.incarnation
}

func (s *server) joining() bool {
	e, ok := s.store.(*edge)
	return ok && s.up && e.born == 0
}

// setPeers is the effect.
func (s *server) setPeers(e core.SetPeers) {
	was := s.peers
	s.peers = nil
	for _, m := range e.Members {
		h := &hearing{Member: m}
		if i := slices.IndexFunc(was, func(o *hearing) bool { return o.ID == m.ID && o.Incarnation == m.Incarnation }); i >= 0 {
			h = was[i]
		}
		s.peers = append(s.peers, h)
	}
	s.listen()
}

// review looks who hears whom, after something has changed.
func (w *World) review() {
	for _, s := range w.nodes {
		s.listen()
	}
}

// listen plans what a process will notice of its peers.
func (s *server) listen() {
	if !s.up || s.stopped || s.w.commits == nil {
		return
	}
	for _, h := range s.peers {
		o := s.w.node(h.ID)
		// One that is joining may be the very process: etcd shows its record before it is told.
		gone := o == nil || !o.up || !o.joining() && !o.is(h.Incarnation)
		path := o != nil && !s.w.cut(o, s)
		heard := path && !gone && !o.stopped && o.is(h.Incarnation)
		switch {
		case h.dead:
		case heard && !h.up:
			s.notice(h, s.w.between(time.Millisecond, 5*time.Millisecond), func() { h.up, h.silent = true, false; s.emit(core.PeerUp{Peer: h.Member}) })
		case heard:
			h.serial++ // it is no suspect any more
		case gone && path && o != nil && !o.dark && !s.w.cut(s, o):
			s.notice(h, s.w.between(time.Millisecond, 4*time.Millisecond), func() { h.up, h.dead = false, true; s.emit(core.PeerDead{Peer: h.Member}) })
		case !h.silent:
			d := s.w.between(silence, silence+30*time.Millisecond)
			s.notice(h, d, func() { h.up, h.silent = false, true; s.emit(core.PeerSilent{Peer: h.Member, For: d}) })
		}
	}
}

// notice does something after a while, if nothing has changed until then.
func (s *server) notice(h *hearing, after time.Duration, do func()) {
	h.serial++
	serial, generation := h.serial, s.generation
	s.w.after(after, func() {
		if h.serial == serial && s.generation == generation && s.up && !s.stopped && slices.Contains(s.peers, h) {
			do()
		}
	})
}

// askPeer and tellPeer go over the connection, if there is one.
func (s *server) askPeer(e core.AskPeer) {
	s.whisper(e.Whom, core.PeerAsked{From: s.self(), About: e.About})
}

func (s *server) tellPeer(e core.TellPeer) {
	s.whisper(e.Whom, core.PeerTold{From: s.self(), About: e.About, Hears: e.Hears})
}

func (s *server) whisper(to core.Member, ev core.Event) {
	o := s.w.node(to.ID)
	if o == nil || s.w.cut(s, o) || s.w.cut(o, s) {
		return
	}
	s.w.after(s.w.between(200*time.Microsecond, 3*time.Millisecond), func() {
		if o.is(to.Incarnation) {
			o.emit(ev) // a process that is stopped reads it when it wakes
		}
	})
}

// cut reports whether nothing gets from one node to another.
func (w *World) cut(from, to *server) bool { return w.cuts[[2]int{from.index, to.index}] > 0 }

// node finds a node by its id.
func (w *World) node(id core.NodeID) *server {
	for _, s := range w.nodes {
		if s.id == id {
			return s
		}
	}
	return nil
}
