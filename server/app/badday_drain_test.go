package app

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// SIGTERM with a call that is longer than the drain timeout: it is hung up then, with its
// cause in the CDR, and the exit code is 0.
func TestBadDayDrainTimeout(t *testing.T) {
	t.Parallel()
	c := startChild(t, t.TempDir(), "--drain-timeout", "1500ms")
	demo := c.demo()
	talks := demo.talk(t, "talks", "127.0.0.1", demo.agent(t, "1001"))
	waits, err := demo.dial(t, demo.phone(t, "waits", "127.0.0.1"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.signal(t, syscall.SIGTERM)
	await(t, "the node says that it drains", func() bool { return strings.Contains(c.said(), `"msg":"draining:`) })
	if took := demo.newCallsAreRefused(t, began); took > time.Second {
		t.Errorf("new calls were refused only after %s", took)
	}
	if status := c.ready(); status != 503 {
		t.Errorf("/readyz: %d", status)
	}
	for who, call := range map[string]*phone.Call{"caller": talks.out, "agent": talks.in, "who waits": waits} {
		select {
		case <-call.Done():
			if took := time.Since(began); took < 1400*time.Millisecond || took > 4*time.Second || call.Cause() != "remote" {
				t.Errorf("%s: over after %s: %s", who, took, call.Cause())
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not hung up", who)
		}
	}
	if code := c.exit(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("drain of 1.5 s with two live calls: %s until the process ended", time.Since(began).Round(time.Millisecond))

	c.start(t)
	for caller, result := range map[string]string{"talks": "completed", "waits": "failed"} {
		if r := c.oneCDR(t, "", caller); r.Termination.Reason != "drain" || r.Termination.By != "system" || r.Termination.Result != result {
			t.Errorf("CDR of %s: %+v", caller, r)
		}
	}
	if c.metrics(t)["dialtone_outbox_records"] != 0 {
		t.Error("the outbox was not empty")
	}
}

// A second SIGTERM ends at once, without hanging up: the next start takes the calls up again.
func TestBadDaySecondSIGTERM(t *testing.T) {
	t.Parallel()
	c := startChild(t, t.TempDir(), "--drain-timeout", "10m")
	demo := c.demo()
	agent := demo.agent(t, "1001")
	talks := demo.talk(t, "talks", "127.0.0.1", agent)
	c.signal(t, syscall.SIGTERM)
	await(t, "the node says that it drains", func() bool { return strings.Contains(c.said(), `"msg":"draining:`) })
	talks.alive(t)
	began := time.Now()
	c.signal(t, syscall.SIGTERM)
	if code := c.exit(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("the second SIGTERM ended the process within %s", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the second SIGTERM took %s", took)
	}
	talks.alive(t)
	talks.forget()
	c.start(t)
	await(t, "both hear each other again", talks.hears)
	talks.hangUp(t)
	r := c.oneCDR(t, "", "talks")
	recovered := 0
	for _, m := range r.Timeline {
		if m.What == "recovered" {
			recovered++
		}
	}
	if r.Termination.Reason != "caller_hangup" || recovered != 1 {
		t.Errorf("CDR: %+v", r)
	}
	await(t, "agent 1001 is free", func() bool { return c.agentState("", "1001") == "ready idle" })
}
