package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// outageLength is how long an etcd is away: long enough that its lease expires and that
// readiness sees it. With DIALTONE_LONG=1 it is a whole minute.
func outageLength() time.Duration {
	if os.Getenv(longVariable) == "1" {
		return time.Minute
	}
	return 10 * time.Second
}

// startEtcd starts an etcd on an address that stays the same when it is started again.
func startEtcd(t *testing.T, dir, at string) *process {
	t.Helper()
	p := spawn(t, "etcd", []string{roleVariable + "=etcd", etcdVariable + "=" + at}, dir)
	if _, err := p.line(); err != nil {
		t.Fatalf("etcd did not start: %s", p.tail())
	}
	return p
}

// furnish makes a tenant of its own, with a queue, a number and some agents.
func (c *child) furnish(t *testing.T, id string) home {
	t.Helper()
	h := home{c, id, id + ".example"}
	c.hide(storedForms(h.domain, secretPassword)...)
	put := func(method, path, body string) {
		t.Helper()
		if status, answer, err := c.try(method, path, body, h.tenant); err != nil || status != 201 {
			t.Fatalf("%s %s: %d %s %v", method, path, status, answer, err)
		}
	}
	put("POST", "/v1/tenants", `{"id":"`+id+`","domain":"`+h.domain+`","name":"Bad Day","sources":["127.0.0.0/8"]}`)
	put("PUT", "/v1/queues/support", `{}`)
	put("PUT", "/v1/numbers/"+demoNumber, `{"queue":"support"}`)
	for id := firstAgent; id < firstAgent+4; id++ {
		put("PUT", fmt.Sprint("/v1/agents/", id), `{"password":"`+secretPassword+`","queues":["support"],"ready_on_register":true}`)
	}
	return h
}

// The control plane is away (design: static stability): who talks goes on talking, who hangs
// up is let go, new calls are refused with a time to come back, and afterwards nothing is
// missing, doubled or stuck. Once etcd hangs (SIGSTOP: connections stay open, nothing
// answers), once it dies (connections are refused) and is started again on its data.
func TestBadDayEtcdIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the outage")
	}
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		var etcd *process
		etcdIsAway(t, func(at, dir string) { etcd = startEtcd(t, dir, at) },
			func() { etcd.signal(t, syscall.SIGSTOP) },
			func() { etcd.signal(t, syscall.SIGCONT) })
	})
	t.Run("dies", func(t *testing.T) {
		t.Parallel()
		var etcd *process
		var address, data string
		etcdIsAway(t, func(at, dir string) { address, data, etcd = at, dir, startEtcd(t, dir, at) },
			func() { etcd.kill() },
			func() { etcd = startEtcd(t, data, address) })
	})
}

func etcdIsAway(t *testing.T, start func(at, dir string), cut, heal func()) {
	at := freeAddress()
	start(at, t.TempDir())
	c := startChild(t, t.TempDir(), "server", "--etcd-endpoints", at)
	acme := c.furnish(t, "acme")
	one, two := acme.agent(t, "1001"), acme.agent(t, "1002")
	stays := acme.talk(t, "stays", "127.0.0.1", one)
	leaves := acme.talk(t, "leaves", "127.0.0.1", two)
	waits := acme.phone(t, "waits", "127.0.0.1")
	waiting, err := acme.dial(t, waits, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}

	cut()
	began := time.Now()
	stays.forget()
	early := make(chan error, 1) // a caller before anybody can know, who gives up after some seconds
	impatient := acme.phone(t, "early", "127.0.0.3")
	go func() {
		_, err := acme.dial(t, impatient, 6*time.Second)
		early <- err
	}()
	took := acme.newCallsAreRefused(t, began)
	t.Logf("new calls are refused with 503 after %s", took.Round(time.Millisecond))
	if took > 4*time.Second {
		t.Errorf("new calls were refused only after %s", took)
	}
	if bye := leaves.hangUp(t); bye > time.Second+500*time.Millisecond {
		t.Errorf("the other side heard of a hang-up after %s", bye)
	} else {
		t.Logf("a hang-up reached the other side after %s", bye.Round(time.Millisecond))
	}
	hungUp := time.Now()
	await(t, "/readyz says 503", func() bool { return c.ready() == 503 })
	t.Logf("/readyz says 503 after %s", time.Since(began).Round(time.Millisecond))
	if status, body, err := c.try("PUT", "/v1/agents/1003/status", `{"status":"not_ready","reason":"lunch"}`, acme.tenant); err != nil || status != 503 || !strings.Contains(body, "request_id") {
		t.Errorf("a change while the store is away: %d %s %v", status, body, err)
	}
	if err := <-early; refused(err) != 503 && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller at the moment of the outage: %v", err)
	}
	<-time.After(time.Until(began.Add(outageLength())))
	stays.alive(t)
	stays.heard(t, time.Since(began), 0.9, 2*time.Second)
	c.ask(t, "GET", "/metrics", "", 200)

	heal()
	healed := time.Now()
	await(t, "/readyz says 200", func() bool { return c.ready() == 200 })
	if took := time.Since(healed); took > 4*time.Second {
		t.Errorf("/readyz says 200 only %s after etcd is back", took)
	} else {
		t.Logf("/readyz says 200 %s after etcd is back", took.Round(time.Millisecond))
	}
	acme.isWholeAgain(t, stays, leaves, &pair{caller: "waits", out: waiting, from: waits}, hungUp)
	c.oneCDR(t, acme.tenant, "early")
	c.end(t) // while etcd is there
}

// newCallsAreRefused tries until a call is refused with 503 and Retry-After. Callers who are
// not answered give up at once.
func (h home) newCallsAreRefused(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	for i := 0; ; i++ {
		s := newSender(t, "127.0.0.2", h.sip)
		request := s.message("INVITE", "sip:"+demoNumber+"@"+h.domain, fmt.Sprintf("try%d.%d", since.UnixNano(), i), "", someSDP)
		answer, _ := s.exchange(t, request, 200*time.Millisecond)
		if strings.HasPrefix(answer, "SIP/2.0 503") {
			if !strings.Contains(answer, "Retry-After: ") {
				t.Errorf("503 without Retry-After:\n%s", answer)
			}
			return time.Since(since)
		}
		_, _ = s.Write(s.cancel(request))
		if answer != "" || time.Since(since) > 15*time.Second {
			t.Fatalf("a new call was answered after %s with %q", time.Since(since), answer)
		}
	}
}

// isWholeAgain checks what must hold after an outage in which one call stayed, one was left
// and one waited.
func (h home) isWholeAgain(t *testing.T, stays, left, waits *pair, hungUp time.Time) {
	t.Helper()
	record := h.oneCDR(t, h.tenant, left.caller)
	if record.Termination.Result != "completed" || record.Termination.Reason != "caller_hangup" || record.Termination.By != "caller" ||
		record.EndedAt.Sub(hungUp).Abs() > 3*time.Second {
		t.Errorf("the CDR of the call that ended at %s in the outage: %+v", hungUp, record)
	}
	waits.pickUp(t, left.agent) // it has kept its place and gets the agent who was freed
	waits.hangUp(t)
	stays.alive(t)
	stays.hangUp(t)
	for _, id := range []string{"1001", "1002"} {
		await(t, "agent "+id+" is free", func() bool { return h.agentState(h.tenant, id) == "ready idle" })
	}
	h.talk(t, "fresh", "127.0.0.1", stays.agent, left.agent).hangUp(t)
	for _, caller := range []string{"stays", "waits", "fresh", "leaves"} {
		h.oneCDR(t, h.tenant, caller)
	}
	await(t, "nothing is open any more", func() bool {
		m := h.metrics(t)
		return m["dialtone_outbox_records"] == 0 && m["dialtone_held_records"] == 0 && m["dialtone_media_legs"] == 0 && m["dialtone_store_away"] == 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := left.agent.Register(ctx, 10*time.Minute); err != nil {
		t.Errorf("a phone registers again: %v", err)
	}
}
