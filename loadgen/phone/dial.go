package phone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/emiago/sipgo/sip"
)

// Dial opens a port for the audio, sends an INVITE and returns. HangUp gives up (CANCEL), at
// any time.
func (p *Phone) Dial(uri string) (*Call, error) {
	var target sip.Uri
	if err := sip.ParseUri(uri, &target); err != nil || !plain(uri) {
		return nil, fmt.Errorf("URI %q: %w", uri, errNoURI)
	}
	c := p.newCall(dialling)
	c.outgoing = true
	c.callID, c.localTag = token(), token()
	c.local = "<sip:" + p.cfg.User + "@" + p.cfg.Domain + ">;tag=" + c.localTag
	c.remote, c.target = "<"+uri+">", uri
	var err error
	if c.Media, err = c.openStream(); err != nil {
		return nil, err
	}
	p.e.mu.Lock()
	if err := c.keep(); err != nil {
		p.e.mu.Unlock()
		c.Media.Close()
		return nil, err
	}
	defer p.e.mu.Unlock()
	a := &asking{proofs: &p.callProofs, next: c.nextSeq, addr: func() way { return p.e.wayTo(p.e.cfg.Target.Addr) }, progress: c.progress, done: c.concluded}
	a.r = &request{method: "INVITE", uri: uri, from: c.local, to: c.remote, callID: c.callID, contact: p.contact, body: c.describe(p.cfg.Codecs, sendrecv)}
	c.invite = a
	c.times.Invited = time.Now()
	p.ask(a)
	return c, nil
}

// Call dials and returns when it is answered. A refusal is a *Refused; when the context
// ends, the caller gives up.
func (p *Phone) Call(ctx context.Context, uri string) (*Call, error) {
	c, err := p.Dial(uri)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.WhenAnswered():
		return c, nil
	case <-c.Done():
		switch {
		case c.cause == Declined:
			return nil, &Refused{Status: c.status, Reason: c.reason}
		case c.err != nil:
			return nil, fmt.Errorf("no answer to INVITE: %w", c.err)
		case !c.Times().Answered.IsZero(): // and hung up since
			return c, nil
		}
		return nil, fmt.Errorf("the call ended before it was answered: %s", c.cause)
	case <-ctx.Done():
		p.e.mu.Lock()
		c.leave()
		p.e.mu.Unlock()
		return nil, ctx.Err()
	}
}

// progress takes a provisional response.
func (c *Call) progress(m *message) {
	if c.phase != dialling {
		return
	}
	if c.times.Provisional.IsZero() {
		c.times.Provisional = m.at
	}
	if m.status == 180 && c.times.Ringing.IsZero() {
		c.times.Ringing = m.at
		close(c.rings)
	}
	if len(m.body) > 0 && c.times.Early.IsZero() {
		if d, err := readSDP(m.body); err == nil {
			c.times.Early = m.at
			c.hear(d)
		}
	}
	if c.gaveUp {
		c.sendCancel() // it waited for this (s.9.1)
	}
}

// concluded takes the final response to the INVITE, or learns that there is none.
func (c *Call) concluded(m *message, err error) {
	if c.phase != dialling {
		return
	}
	switch {
	case err != nil && c.gaveUp:
		c.finish(Cancelled, time.Now())
		return
	case err != nil:
		c.fail(err)
		return
	}
	c.status, c.reason = m.status, m.reason
	switch {
	case m.status >= 300 && c.gaveUp:
		c.finish(Cancelled, m.at)
	case m.status >= 300:
		c.finish(Declined, m.at)
	default:
		c.established(m)
	}
}

// established takes the 2xx: the dialog is there, the audio begins. A 2xx that has crossed
// our CANCEL is acknowledged and hung up (s.9.1, s.15).
func (c *Call) established(m *message) {
	c.times.Answered = m.at
	c.asCaller(m)
	c.times.Acked = time.Now()
	c.acknowledgement(m, credentialsOf(c.invite.r))
	c.phase = up
	if c.gaveUp {
		c.bye(Cancelled)
		return
	}
	d, err := readSDP(m.body)
	if err == nil && len(d.common(c.phone.cfg.Codecs)) == 0 {
		err = errors.New("no codec in common in the answer")
	}
	if err != nil {
		c.err = err
		c.bye(Failed)
		return
	}
	c.follow(d)
	close(c.answered)
}

// credentialsOf are those that the ACK must repeat (s.22.1).
func credentialsOf(r *request) (found []field) {
	for _, f := range r.extra {
		if f.name == "Authorization" || f.name == "Proxy-Authorization" {
			found = append(found, f)
		}
	}
	return found
}

// giveUp cancels a call that is being dialled.
func (c *Call) giveUp() {
	if c.gaveUp {
		return
	}
	c.gaveUp, c.invite.closed = true, true
	if t := c.invite.txn; t != nil && t.phase == proceeding {
		c.sendCancel()
	}
}

// sendCancel sends CANCEL under the branch of its INVITE (s.9.1).
func (c *Call) sendCancel() {
	if c.cancel != nil {
		return
	}
	t := c.invite.txn
	r := &request{method: "CANCEL", uri: t.request.uri, from: t.request.from, to: t.request.to, callID: t.request.callID, seq: t.request.seq}
	c.times.Cancelled = time.Now()
	c.cancel = c.e.send(r, t.branch, t.to, func(*message) {}, func(error) {})
	t.expire()
}
