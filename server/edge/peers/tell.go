package peers

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// tell hands events on. What a peer is is told as it is now: for as long as the core has no
// room nothing gathers but the questions and answers of peers, of which there are few.
func (p *Peers) tell() {
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.news:
		case <-again.C:
		}
		if !p.tellAll() {
			again.Reset(p.cfg.Beat / 4)
		}
	}
}

// wake lets tell look.
func (p *Peers) wake() {
	select {
	case p.news <- struct{}{}:
	default: // it is about to
	}
}

// tellAll reports whether the core took all that there is to tell.
func (p *Peers) tellAll() bool {
	for {
		ev, told := p.next()
		if ev == nil {
			return true
		}
		if !p.cfg.Emit(ev) {
			return false
		}
		told()
	}
}

// next returns what is to be told next, deaths first, and what to do when it is; nil:
// nothing. Only tell calls it, so nothing is told twice.
func (p *Peers) next() (core.Event, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, nil
	}
	var first *peer
	for _, q := range p.order {
		if q.told != q.sight.verdict && (first == nil || q.sight.verdict == dead && first.sight.verdict != dead) {
			first = q
		}
	}
	if first != nil {
		verdict := first.sight.verdict
		return eventOf(first), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			first.told = verdict
		}
	}
	if len(p.heralded) == 0 {
		return nil, nil
	}
	return p.heralded[0], func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.heralded = append(p.heralded[:0], p.heralded[1:]...)
	}
}

func eventOf(q *peer) core.Event {
	switch q.sight.verdict {
	case up:
		return core.PeerUp{Peer: q.member}
	case dead:
		return core.PeerDead{Peer: q.member}
	}
	return core.PeerSilent{Peer: q.member, For: q.sight.quiet}
}
