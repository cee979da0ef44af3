package peers

import (
	"bytes"
	"crypto/hmac"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// inbound is a connection that a peer opened: it says what key and tag the heartbeats to
// that peer bear, and brings its questions and answers. The gate's thread alone touches it,
// but for who and voice, which are never changed once Peers knows it.
type inbound struct {
	fd    int32
	stage stage
	until time.Duration // for the handshake
	buf   [2 + maxFrame]byte
	have  int // bytes in buf

	hello, welcome []byte  // as they were
	tag            tag     // the hello's
	who            process // who opened it
	as             process // who this process was for it
	voice          *voice
	frames         frames
}

// stage is how far a connection is.
type stage string

// The stages.
const (
	fresh      stage = ""           // nothing is known of it
	confirming stage = "confirming" // its hello was answered
	settled    stage = "settled"    // it has proved who it is
	broken     stage = "broken"     // what was said on it is not of this protocol, or not sealed
)

// take takes a message; false: the connection is to end. Who does not know the secret gets
// no answer at all.
func (g *gate) take(in *inbound, b []byte) bool {
	p := g.peers
	switch in.stage {
	case fresh:
		theirs, err := readHello(b, p.cfg.Secret)
		if err != nil || theirs.who.incarnation == 0 {
			return false
		}
		mine := greeting{who: p.me()}
		mine.nonce, _ = chance()
		in.who, in.as, in.tag = theirs.who, mine.who, theirs.tag
		in.hello = bytes.Clone(b)
		in.welcome = appendWelcome(nil, p.cfg.Secret, in.hello, mine)
		in.stage = confirming
		return g.say(in, in.welcome) == nil
	case confirming:
		if !hmac.Equal(b, confirmOf(p.cfg.Secret, in.hello, in.welcome)) {
			return false
		}
		k := keysOf(p.cfg.Secret, in.hello, in.welcome)
		in.hello, in.welcome, in.stage = nil, nil, settled
		in.voice, in.frames = newVoice(in.tag, k.beats), newFrames(k.frames)
		old, ok := p.adopt(in)
		if old != nil {
			g.end(old)
		}
		return ok
	}
	body, err := in.frames.open(b)
	return err == nil && p.herald(in, body)
}

func (p *Peers) me() process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.self
}

// adopt makes a connection the one of its process, in place of an older one. A process that
// is no member may stay, within bounds: the store may tell us of it a moment later.
func (p *Peers) adopt(in *inbound) (old *inbound, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.peers[in.who.id]
	member := q != nil && processOf(q.member) == in.who
	old = p.inbound[in.who]
	if p.ctx.Err() != nil || in.as != p.self || in.who.id == p.self.id || old == nil && !member && p.strangers() >= maxStrangers {
		return nil, false
	}
	p.inbound[in.who] = in
	if member && q.sight.verdict != dead {
		q.voice = in.voice
	}
	return old, true
}

// strangers counts the connections of processes that are no members.
func (p *Peers) strangers() (n int) {
	for who := range p.inbound {
		if q := p.peers[who.id]; q == nil || processOf(q.member) != who {
			n++
		}
	}
	return n
}

func (p *Peers) dismiss(in *inbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inbound[in.who] == in {
		delete(p.inbound, in.who)
	}
}

// herald hands on what a member said. It reports whether that could be read.
func (p *Peers) herald(in *inbound, body []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := core.Member{ID: in.who.id, Incarnation: in.who.incarnation}
	q := p.peers[in.who.id]
	member := q != nil && processOf(q.member) == in.who
	if member {
		from = q.member
	}
	ev, err := readFrame(body, from)
	if err != nil {
		return false
	}
	if !member || len(p.heralded) >= maxHeralded {
		p.tally.unheard++
		return true
	}
	p.heralded = append(p.heralded, ev)
	p.wake()
	return true
}
