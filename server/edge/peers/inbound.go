package peers

import (
	"context"
	"crypto/hmac"
	"net"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// inbound is a connection that a peer opened: it says what key and tag the heartbeats to
// that peer bear, and brings its questions and answers.
type inbound struct {
	who    process
	as     process // who this process was when it was opened
	conn   *net.TCPConn
	voice  *voice
	frames frames
}

// accept takes connections until the listener closes. It closes at once what is too many.
func (p *Peers) accept() {
	for {
		conn, err := p.listener.Accept()
		if p.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil { // out of files, mostly; the connection waits in the kernel
			time.Sleep(5 * time.Millisecond)
			continue
		}
		select {
		case p.shaking <- struct{}{}:
			p.work.Go(func() { p.serve(conn.(*net.TCPConn)) })
		default:
			conn.Close()
			p.refuseHello()
		}
	}
}

// serve answers one connection until it ends.
func (p *Peers) serve(conn *net.TCPConn) {
	defer conn.Close()
	defer context.AfterFunc(p.ctx, func() { conn.Close() })()
	impatient(conn)
	in := p.greet(conn)
	<-p.shaking
	if in == nil || !p.adopt(in) {
		p.refuseHello()
		return
	}
	p.heed(in)
	p.dismiss(in)
}

// greet is the accepting side of the handshake; nil: it failed. Who does not know the
// secret gets no answer at all.
func (p *Peers) greet(conn *net.TCPConn) *inbound {
	conn.SetDeadline(time.Now().Add(handshakeTime))
	hello, err := readWhole(conn, make([]byte, maxFrame))
	if err != nil {
		return nil
	}
	theirs, err := readHello(hello, p.cfg.Secret)
	if err != nil || theirs.who.incarnation == 0 {
		return nil
	}
	mine := greeting{who: p.me()}
	mine.nonce, _ = chance()
	welcome := appendWelcome(nil, p.cfg.Secret, hello, mine)
	if err := writeFrame(conn, welcome); err != nil {
		return nil
	}
	confirm, err := readWhole(conn, make([]byte, maxFrame))
	if err != nil || !hmac.Equal(confirm, confirmOf(p.cfg.Secret, hello, welcome)) {
		return nil
	}
	conn.SetDeadline(time.Time{})
	k := keysOf(p.cfg.Secret, hello, welcome)
	return &inbound{who: theirs.who, as: mine.who, conn: conn, voice: newVoice(theirs.tag, k.beats), frames: newFrames(k.frames)}
}

func (p *Peers) me() process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.self
}

// adopt makes a connection the one of its process, in place of an older one. A process that
// is no member may stay, within bounds: the store may tell us of it a moment later.
func (p *Peers) adopt(in *inbound) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.peers[in.who.id]
	member := q != nil && processOf(q.member) == in.who
	old := p.inbound[in.who]
	switch {
	case p.ctx.Err() != nil, in.as != p.self, in.who.id == p.self.id:
		return false
	case old != nil:
		old.conn.Close()
	case !member && p.strangers() >= maxStrangers:
		return false
	}
	p.inbound[in.who] = in
	if member && q.sight.verdict != dead {
		q.voice = in.voice
	}
	return true
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

// heed reads what a peer says until the connection ends, or what is said is not sealed as
// it should be.
func (p *Peers) heed(in *inbound) {
	buf := make([]byte, maxFrame)
	for {
		frame, err := readWhole(in.conn, buf)
		if err != nil {
			return
		}
		body, err := in.frames.open(frame)
		if err != nil || !p.herald(in, body) {
			p.refuseHello()
			return
		}
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

func (p *Peers) refuseHello() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tally.hellos++
}
