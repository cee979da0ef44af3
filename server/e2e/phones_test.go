package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// epoch is the zero of all that our phones hear.
var epoch = time.Now()

// newPhone starts one of our own phones.
func newPhone(t testing.TB, s *server, user, domain string, tone float64) *phone.Phone {
	t.Helper()
	p, err := phone.New(phone.Config{User: user, Password: password, Domain: domain, Server: s.sip, Tone: tone, Start: epoch})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// soonish is a context that ends with the test's patience.
func soonish(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// joins registers an agent with one of our phones: ready, and ringing if somebody waits.
func joins(t testing.TB, d desk, n int, tone float64) *phone.Phone {
	t.Helper()
	p := newPhone(t, d.s, d.agents[n], demoDomain, tone)
	if err := p.Register(soonish(t), 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	return p
}

// phoneAgent is an agent with one of our phones, ready and idle.
func phoneAgent(t testing.TB, d desk, n int, tone float64) *phone.Phone {
	t.Helper()
	p := joins(t, d, n, tone)
	d.reaches(t, n, "ready", "idle")
	return p
}

// dials calls a desk and returns the call when it is answered.
func dials(t testing.TB, d desk, name string, tone float64) *phone.Call {
	t.Helper()
	p := newPhone(t, d.s, name, demoDomain, tone)
	c, err := p.Call(soonish(t), d.uri())
	if err != nil {
		t.Fatalf("%s dials %s: %v", name, d.uri(), err)
	}
	return c
}

// rings waits for a call at a phone.
func rings(t testing.TB, p *phone.Phone) *phone.Call {
	t.Helper()
	select {
	case c := <-p.Incoming():
		return c
	case <-time.After(patience):
		t.Fatalf("no phone rang within %s", patience)
		return nil
	}
}

// answers waits for a call at a phone and takes it.
func answers(t testing.TB, p *phone.Phone) *phone.Call {
	t.Helper()
	c := rings(t, p)
	if err := c.Answer(soonish(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

// over waits for the end of a call and returns its cause.
func over(t testing.TB, c *phone.Call) phone.Cause {
	t.Helper()
	select {
	case <-c.Done():
		return c.Cause()
	case <-time.After(patience):
		t.Fatalf("the call goes on after %s", patience)
		return ""
	}
}

// hearing is the last second of a call.
func hearing(c *phone.Call) func() samples {
	return func() samples {
		s := samples{rate: 8000}
		for _, u := range c.Media.Heard().Sound {
			s.at = append(s.at, expandULaw(u))
		}
		return s
	}
}

func hangsUp(t testing.TB, c *phone.Call) {
	t.Helper()
	if err := c.HangUp(soonish(t)); err != nil {
		t.Error(err)
	}
}

func asRefused(err error, into **phone.Refused) bool { return errors.As(err, into) }

// firstHeard is when a call heard the first packet of the other's voice, since Forget.
func firstHeard(c *phone.Call) time.Time {
	return epoch.Add(time.Duration(c.Media.Heard().Audio.First) * time.Microsecond)
}
