package phone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// registration is a phone's binding at its registrar.
type registration struct {
	callID  string
	tag     string
	seq     uint32
	asked   time.Duration // expiry; zero: not to be registered
	until   time.Time     // granted
	err     error         // of the last attempt
	refresh alarm
}

var errNotRegistered = errors.New("not registered")

const againAfter = 10 * time.Second // a refresh that failed

// Register registers the phone for so long, zero removes it, and returns when the registrar
// has agreed. A refusal is a *Refused.
func (p *Phone) Register(ctx context.Context, expires time.Duration) error {
	result := make(chan error, 1)
	p.e.mu.Lock()
	a := p.register(expires, func(err error) { result <- err })
	p.e.mu.Unlock()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		p.e.mu.Lock()
		if a.txn != nil {
			a.txn.drop()
		}
		p.e.mu.Unlock()
		return fmt.Errorf("register %s at %s: %w", p.cfg.User, p.e.cfg.Target.Addr, ctx.Err())
	}
}

// Unregister removes the binding and ends the refreshing.
func (p *Phone) Unregister(ctx context.Context) error { return p.Register(ctx, 0) }

// Registered is nil while a binding is in force, else says why there is none.
func (p *Phone) Registered() error {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	switch r := &p.binding; {
	case r.until.After(time.Now()):
		return nil
	case r.err != nil:
		return r.err
	}
	return errNotRegistered
}

// register sends a REGISTER. The lock is held.
func (p *Phone) register(expires time.Duration, done func(error)) *asking {
	r := &p.binding
	if r.callID == "" {
		r.callID, r.tag = token(), token()
	}
	r.asked = expires
	p.e.unset(&r.refresh)
	registrar := "sip:" + p.cfg.Domain
	aor := "<sip:" + p.cfg.User + "@" + p.cfg.Domain + ">"
	a := &asking{proofs: &p.registerProofs, addr: func() way { return p.e.wayTo(p.e.cfg.Target.Addr) },
		next: func() uint32 { r.seq++; return r.seq }}
	a.r = &request{method: "REGISTER", uri: registrar, from: aor + ";tag=" + r.tag, to: aor, callID: r.callID, contact: p.contact,
		extra: []field{{"Expires", strconv.Itoa(seconds(expires))}}}
	longer := false
	a.done = func(m *message, err error) {
		if err == nil && m.status == 423 && !longer { // s.10.2.8
			if least, e := strconv.Atoi(m.get("Min-Expires")); e == nil && least > seconds(expires) && least < 1<<30 {
				longer = true
				r.asked = time.Duration(least) * time.Second
				a.plain = []field{{"Expires", strconv.Itoa(least)}}
				a.send()
				return
			}
		}
		if err == nil && m.status != 200 {
			err = &Refused{Status: m.status, Reason: m.reason}
		}
		if err != nil {
			err = fmt.Errorf("register %s at %s: %w", p.cfg.User, p.e.cfg.Target.Addr, err)
		}
		p.registered(m, err)
		done(err)
	}
	p.ask(a)
	return a
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// registered takes the registrar's word.
func (p *Phone) registered(m *message, err error) {
	r := &p.binding
	r.err = err
	now := time.Now()
	switch {
	case r.asked == 0:
		r.until = time.Time{}
		return
	case err == nil:
		granted := p.granted(m)
		r.until = m.at.Add(granted)
		if p.cfg.Refresh > 0 && !p.closed {
			p.e.set(&r.refresh, now.Add(time.Duration(p.cfg.Refresh*float64(granted))))
		}
	case p.cfg.Refresh > 0 && !p.closed && !p.e.closed:
		p.e.set(&r.refresh, now.Add(againAfter))
	}
}

func (p *Phone) refresh(time.Time) { p.register(p.binding.asked, func(error) {}) }

// granted is the expiry in the 200: of our Contact, else of the whole (s.10.2.4).
func (p *Phone) granted(m *message) time.Duration {
	text := m.get("Expires")
	for _, c := range m.contacts {
		uri, params := splitAddress(c)
		if addrOf(uri) != p.e.local || !strings.EqualFold(userOf(c), p.contactUser) {
			continue
		}
		if v, ok := param(params, "expires"); ok {
			text = v
		}
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n < 1<<30 {
		return time.Duration(n) * time.Second
	}
	return p.binding.asked
}
