package peers

import (
	"time"

	"golang.org/x/sys/unix"
)

// beat ticks until Close. At each tick it reads all that has come, sends a heartbeat to
// every peer and judges who is silent: one wake-up for all, and a flood costs no more than
// one full socket per beat. It has a thread of its own, which goes before others where that
// is permitted.
func (p *Peers) beat() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
	p.mu.Lock()
	p.ticked = p.now()
	p.mu.Unlock()
	var out [pulseSize]byte
	for p.clock.wait() {
		p.tick(out[:0])
	}
}

func (p *Peers) tick(out []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := time.Now()
	now := t.Sub(p.birth)
	awake := p.tally.lag(now-p.ticked, p.cfg.Beat)
	changed, drained := p.drain(t, now-p.ticked)
	p.ticked = now
	for _, q := range p.order {
		p.pulse(q, out)
		// Nobody is judged by what this process may have missed.
		if !awake || !drained {
			q.sight.anew(now)
		}
		if q.sight.judge(now, windowOf(p.cfg.Beat, p.cfg.Misses)) {
			p.tally.silences++
			changed = true
		}
	}
	if changed {
		p.wake()
	}
}

// pulse sends a heartbeat to a peer that has said how it is to be marked.
func (p *Peers) pulse(q *peer, out []byte) {
	if q.voice == nil || q.to == nil {
		return
	}
	now := p.now()
	beat := pulse{sent: now}
	if q.echo != 0 {
		beat.echo, beat.held = q.echo, now-q.echoAt
	}
	if p.socket.sendTo(q.voice.append(out, beat), q.to) != nil {
		p.tally.unsent++
	}
}

// drain reads the socket until it is empty. It reports whether a verdict has changed, and
// whether all was read. No datagram is taken to have come before the last time.
func (p *Peers) drain(t time.Time, atMost time.Duration) (changed, all bool) {
	for read := 0; read < drainMost; read += batch {
		n := p.socket.receive()
		for i := range n {
			at := t.Sub(p.birth) - p.socket.arrived(i, t, atMost)
			changed = p.heard(p.socket.datagram(i), at) || changed
		}
		if n < batch {
			return changed, true
		}
	}
	return changed, false
}

// heard takes a datagram that came at an instant.
func (p *Peers) heard(b []byte, at time.Duration) (changed bool) {
	t, why := tagOf(b)
	if why != "" {
		p.tally.refuse(why)
		return false
	}
	e := p.ears[t]
	if e == nil {
		p.tally.refuse(unknown)
		return false
	}
	beat, why := e.open(b)
	if why != "" {
		p.tally.refuse(why)
		return false
	}
	q := e.peer
	if e == q.next {
		if q.ear != nil {
			delete(p.ears, q.ear.tag)
		}
		q.ear, q.next = e, nil
		p.hearTags()
	}
	if beat.echo != 0 {
		p.tally.roundTrip(at - beat.echo - beat.held)
	}
	q.echo, q.echoAt = beat.sent, at
	return q.sight.hear(at, q.out != nil)
}
