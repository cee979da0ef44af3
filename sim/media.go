package sim

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// media is the media edge, with flows in place of packets: for each leg it is known who
// sends to its port and who hears what it plays.
type media struct {
	w       *World
	srv     *server
	legs    []*mediaLeg // in the order of opening
	port    uint16
	refused map[core.LegID]bool // what is said of them before they know is ignored
}

type mediaLeg struct {
	id     core.LegID
	local  netip.AddrPort
	ready  bool
	closed bool
	spec   core.MediaSpec
	play   uint32 // the playback that runs
	file   string
	silent core.Time // since when nothing is received; 0: something is
	idle   bool      // MediaIdle was said
}

func newMedia(w *World, s *server) *media {
	return &media{w: w, srv: s, port: 16384, refused: map[core.LegID]bool{}}
}

// forget loses all legs, as a crash does.
func (m *media) forget() {
	for _, l := range m.legs {
		l.closed = true
	}
	m.legs, m.w.dirty = nil, true
	m.w.settleMedia()
}

func (m *media) leg(id core.LegID) *mediaLeg {
	for _, l := range m.legs {
		if l.id == id {
			return l
		}
	}
	return nil
}

func (m *media) open(id core.LegID) {
	generation := m.srv.generation
	delay := m.w.between(0, 2*time.Millisecond)
	if m.leg(id) != nil {
		m.w.fail("media", "leg "+string(id)+" is opened twice")
		return
	}
	if len(m.legs) >= m.w.opt.MediaPorts {
		m.w.marks.hit("media refused")
		m.refused[id] = true
		m.w.after(delay, func() {
			if generation == m.srv.generation {
				m.srv.emit(core.MediaRefused{Leg: id, Cause: "no port is free"})
			}
		})
		return
	}
	delete(m.refused, id)
	m.port += 2
	if m.port >= 32766 {
		m.port = 16384 // far more ports than legs: one that was used rests for long
	}
	l := &mediaLeg{id: id, local: netip.AddrPortFrom(m.srv.addr.Addr(), m.port), silent: m.w.now}
	m.legs = append(m.legs, l)
	m.w.after(delay, func() {
		if generation == m.srv.generation && !l.closed {
			l.ready = true
			m.srv.emit(core.MediaOpened{Leg: id, Local: l.local})
		}
	})
}

func (m *media) set(id core.LegID, spec core.MediaSpec) {
	l := m.leg(id)
	if l == nil && m.refused[id] {
		return
	}
	if l == nil {
		m.w.fail("media", "media is set for leg "+string(id)+", which is not open")
		return
	}
	old := l.spec
	l.spec = spec
	m.w.dirty = true
	if spec.IdleAfter != old.IdleAfter {
		l.idle = false
		if l.silent != 0 {
			l.silent = m.w.now
		}
		m.watch(l)
	}
	h := spec.Hear
	if h.Kind != core.Playback || h.Play != l.play || h.File != l.file {
		l.play, l.file = 0, ""
		if h.Kind == core.Playback {
			l.play, l.file = h.Play, h.File
			if !h.Loop {
				m.playback(l, h)
			}
		}
	}
}

// playback says PlaybackDone when the file has been played, if it was not replaced.
func (m *media) playback(l *mediaLeg, h core.Source) {
	m.w.after(m.w.between(time.Second, 4*time.Second), func() {
		if !l.closed && l.spec.Hear == h {
			m.srv.emit(core.PlaybackDone{Leg: l.id, Play: h.Play})
		}
	})
}

func (m *media) close(id core.LegID) {
	l := m.leg(id)
	if l == nil {
		return // closing twice is as good as once
	}
	l.closed = true
	m.legs = slices.DeleteFunc(m.legs, func(x *mediaLeg) bool { return x == l })
	m.w.dirty = true
	generation := m.srv.generation
	m.w.after(m.w.between(0, 2*time.Millisecond), func() {
		if generation == m.srv.generation {
			m.srv.emit(core.MediaClosed{Leg: id, Stats: core.AudioStats{PacketsReceived: 50, PacketsSent: 50}})
		}
	})
}

// stream says where a phone sends its audio in a dialog; an invalid address: nowhere.
func (w *World) stream(d *dialog, to netip.AddrPort) {
	if d.streamTo == to {
		return
	}
	if w.streams[d.streamTo] == d {
		delete(w.streams, d.streamTo)
	}
	d.streamTo = to
	if to.IsValid() {
		w.streams[to] = d
	}
	w.dirty = true
	w.settleMedia()
}

// watch says MediaIdle once when a leg has received nothing for so long.
func (m *media) watch(l *mediaLeg) {
	if l.spec.IdleAfter == 0 || l.silent == 0 || l.idle {
		return
	}
	since, after := l.silent, l.spec.IdleAfter
	m.w.at(since.Add(time.Duration(after)*time.Millisecond), func() {
		if !l.closed && l.silent == since && l.spec.IdleAfter == after && !l.idle {
			l.idle = true
			m.w.marks.hit("media idle")
			m.srv.emit(core.MediaIdle{Leg: l.id})
		}
	})
}

// settleMedia works out anew who hears whom, and which legs receive.
func (w *World) settleMedia() {
	if !w.dirty {
		return
	}
	w.dirty = false
	plays := map[netip.AddrPort]playing{}
	for _, n := range w.nodes {
		for _, l := range n.media.legs {
			if l.ready && l.spec.Send && l.spec.Remote.IsValid() {
				plays[l.spec.Remote] = append(plays[l.spec.Remote], player{n.media, l})
			}
			n.media.received(l, w.streams[l.local] != nil)
		}
	}
	for _, p := range w.phones {
		for _, d := range p.live {
			w.hear(d, plays[d.rtp].heard(d))
		}
	}
}

// player is a leg that sends to a phone, playing all that do. After a takeover it may be two.
type (
	player struct {
		*media
		*mediaLeg
	}
	playing []player
)

// heard is the one that the phone listens to: the one it sends to, else the last.
func (all playing) heard(d *dialog) (p player) {
	for _, x := range all {
		p = x
		if x.local == d.remoteRTP {
			break
		}
	}
	return p
}

func (m *media) received(l *mediaLeg, now bool) {
	switch {
	case now && l.silent != 0:
		l.silent = 0
		if l.idle {
			l.idle = false
			m.w.marks.hit("media resumed")
			generation := m.srv.generation
			m.w.after(0, func() {
				if generation == m.srv.generation && !l.closed {
					m.srv.emit(core.MediaResumed{Leg: l.id})
				}
			})
		}
	case !now && l.silent == 0:
		l.silent = m.w.now
		m.watch(l)
	}
}

// hear tells the checkers and the phone when what it hears has changed.
func (w *World) hear(d *dialog, l player) {
	h := check.Hears{Far: d.p.far, CallID: d.callID}
	if l.mediaLeg != nil && d.p.alive && d.remoteRTP.IsValid() {
		h.Readable = slices.Contains(d.formats, int(l.spec.Codec.Payload))
		switch l.spec.Hear.Kind {
		case core.Playback:
			h.File = l.spec.Hear.File
		case core.Bridge:
			h.Joined = true
			other := l.leg(l.spec.Hear.Peer)
			if other != nil && other.spec.Receive {
				if speaker := w.streams[other.local]; speaker != nil {
					h.Voice, h.Speaker = speaker.callID, speaker.p.far
				}
			}
		}
	}
	if h == d.hears {
		return
	}
	d.hears = h
	w.trace.say(w.now, "()", d.p.far.Phone+" hears "+h.File+h.Speaker.Phone)
	w.fact(h)
	d.p.heard(d)
}
