package phone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// describe writes the next version of the call's SDP.
func (c *Call) describe(codecs []stream.Codec, d direction) []byte {
	c.sdpSeq++
	return writeSDP(c.Media.Addr(), codecs, c.events, d, c.sdpID, c.sdpSeq)
}

// reinvited takes a re-INVITE: the other side holds, resumes or moves its audio.
func (c *Call) reinvited(m *message) {
	switch {
	case c.reinvite != nil: // s.14.2
		c.e.answer(m, response{status: 491, reason: "Request Pending"})
		return
	case c.accept != nil:
		c.e.answer(m, response{status: 500, reason: "Server Internal Error", extra: []field{{"Retry-After", "1"}}})
		return
	case c.phase != up:
		c.e.answer(m, response{status: 481, reason: "Call/Transaction Does Not Exist"})
		return
	}
	var body []byte
	followed := func(*message) {}
	if len(m.body) == 0 {
		body = c.describe(c.phone.cfg.Codecs, c.wants)
		followed = func(ack *message) {
			if d, err := readSDP(ack.body); err == nil {
				c.follow(d)
			}
		}
	} else {
		d, err := readSDP(m.body)
		if err != nil || len(d.common(c.phone.cfg.Codecs)) == 0 {
			c.e.answer(m, response{status: 488, reason: "Not Acceptable Here"})
			return
		}
		body = c.describe(d.common(c.phone.cfg.Codecs)[:1], c.wants.answerTo(d.direction))
		c.follow(d)
	}
	t := c.e.serve(m)
	if t == nil {
		return
	}
	c.retarget(m)
	c.accept = t
	t.accept(response{status: 200, reason: "OK", contact: c.phone.contact, body: body}, followed, c.unconfirmed)
}

// Hold puts the other side on hold with a re-INVITE (RFC 3264 s.8.4); Resume takes it back.
func (c *Call) Hold(ctx context.Context) error   { return c.renegotiate(ctx, sendonly) }
func (c *Call) Resume(ctx context.Context) error { return c.renegotiate(ctx, sendrecv) }

func (c *Call) renegotiate(ctx context.Context, wants direction) error {
	for {
		err := c.change(ctx, wants)
		var r *Refused
		if !errors.As(err, &r) || r.Status != 491 {
			return err
		}
		wait := time.Duration(rand.IntN(2000)) * time.Millisecond // s.14.1: glare
		if c.outgoing {
			wait = time.Duration(2100+rand.IntN(1900)) * time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-c.done:
			return errNotUp
		case <-ctx.Done():
			return err
		}
	}
}

// change sends one re-INVITE and waits for its answer.
func (c *Call) change(ctx context.Context, wants direction) error {
	result := make(chan error, 1)
	c.e.mu.Lock()
	if c.phase != up {
		c.e.mu.Unlock()
		return errNotUp
	}
	if c.reinvite != nil || c.accept != nil {
		c.e.mu.Unlock()
		return &Refused{491, "Request Pending"} // by ourselves
	}
	a := c.inDialog("INVITE")
	a.r.contact = c.phone.contact
	a.r.body = c.describe(c.phone.cfg.Codecs, wants)
	c.reinvite = a
	a.done = func(m *message, err error) {
		c.reinvite = nil
		result <- c.changed(m, err, wants)
	}
	c.phone.ask(a)
	c.e.mu.Unlock()
	select {
	case err := <-result:
		return err
	case <-c.done:
		return errNotUp
	case <-ctx.Done(): // the answer, when it comes, is still taken
		return fmt.Errorf("re-INVITE: %w", ctx.Err())
	}
}

func (c *Call) changed(m *message, err error, wants direction) error {
	if err != nil {
		if c.phase == up { // s.12.2.1.2: no answer at all ends the dialog
			c.err = fmt.Errorf("re-INVITE: %w", err)
			c.bye(Failed)
		}
		return fmt.Errorf("re-INVITE: %w", err)
	}
	if m.status >= 300 {
		if (m.status == 481 || m.status == 408) && c.phase == up {
			c.err = fmt.Errorf("re-INVITE: %w", &Refused{m.status, m.reason})
			c.bye(Failed)
		}
		return &Refused{m.status, m.reason}
	}
	c.retarget(m)
	c.acknowledgement(m, nil)
	if c.phase != up {
		return errNotUp
	}
	c.wants = wants
	d, err := readSDP(m.body)
	if err != nil {
		return fmt.Errorf("re-INVITE: %w", err)
	}
	c.follow(d)
	return nil
}
