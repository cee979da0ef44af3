package sipstack

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// With the core's inbox full, requests get 503 with Retry-After; the ACK to that ends here.
// What ends a call waits for room: over UDP at the peer, which repeats it, over TCP here.
func TestFullInbox(t *testing.T) {
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p := newPhone(r, transport)
		r.full.Store(true)
		for _, method := range []string{"INVITE", "REGISTER", "OPTIONS"} {
			p.send(p.in("c", method, method, "", ""))
			text := p.expect("SIP/2.0 503 Service Unavailable")
			if field1(text, "Retry-After") != "5" || field1(text, "CSeq") != "7 "+method {
				t.Errorf("got\n%s", text)
			}
			if method == "INVITE" {
				to := field1(text, "To")
				p.send(strings.Replace(p.in("c", "ACK", method, "", ""), "To: <sip:5000@example.com>", "To: "+to, 1))
			}
		}
		bye, cancel := p.in("c", "BYE", "bye", "", ""), p.in("c", "CANCEL", "cancel", "", "")
		p.send(bye)
		p.send(cancel)
		p.send(p.in("c", "ACK", "ack", "", ""))
		eventually(t, "all are shed", func() bool { return r.Gauges().Shed["inbox"] == 6 })
		if text := p.recv(4 * sip.T1); text != "" {
			t.Fatalf("answered with\n%s", text)
		}
		r.full.Store(false)
		if transport == core.UDP {
			p.send(bye)
			p.send(cancel)
		}
		for _, method := range []string{"BYE", "CANCEL"} {
			e := want[core.RequestReceived](r)
			if e.Request.Method != method {
				t.Fatalf("event %+v", e.Request)
			}
			r.reply(e, 200)
			p.expect("SIP/2.0 200")
		}
		p.send(p.in("c", "INVITE", "INVITE", "", "")) // tried again
		if e := want[core.RequestReceived](r); e.Request.Method != "INVITE" {
			t.Fatalf("event %+v", e.Request)
		}
	})
}

// Responses, failures and closed flows can't be refused to anybody: they wait, in order.
func TestFullInboxKeepsAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.ConnectTimeout = time.Second })
	p, target := reachable(r, core.TCP)
	r.Do(core.SendRequest{Txn: "z9hG4bKa", To: target, Request: outbound(p, "INVITE", "c")})
	r.Do(core.SendRequest{Txn: "z9hG4bKb", To: target, Request: outbound(p, "INVITE", "c")})
	one, two := p.expect("INVITE"), p.expect("INVITE")
	r.full.Store(true)
	p.send(answer(one, "180 Ringing", ""))
	p.send(answer(one, "200 OK", ""))
	p.send(answer(two, "180 Ringing", ""))
	eventually(t, "answers have arrived", func() bool { return r.Gauges().ResponsesReceived["1xx"] == 2 })
	p.close()
	eventually(t, "the flow is closed", func() bool { return r.Gauges().Flows == 0 })
	r.full.Store(false)
	for _, status := range []int{180, 200, 180} {
		if e := want[core.ResponseReceived](r); e.Response.Status != status {
			t.Errorf("event %+v, want %d", e.Response, status)
		}
	}
	if e := want[core.TransactionFailed](r); e.Txn != "z9hG4bKb" || e.Cause != core.Undelivered {
		t.Errorf("event %+v", e)
	}
	want[core.FlowClosed](r)
}

// A flood stops at the limit of transactions. One source gets half of it, so another one
// is still served; a CANCEL for what is inside is let in.
func TestFloodOfRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxTransactions = 100 })
	p := newPhone(r, core.UDP)
	goroutines := runtime.NumGoroutine()
	for i := range 500 {
		p.send(p.in(fmt.Sprint("c", i), "INVITE", fmt.Sprint("b", i), "", ""))
		if i%20 == 19 {
			eventually(t, "read", func() bool { return r.Gauges().RequestsReceived["INVITE"] == uint64(i+1) })
		}
	}
	if g := r.Gauges(); g.ServerInvite != 50 || g.Shed["transactions"] != 450 || g.ResponsesSent["5xx"] != 450 {
		t.Errorf("gauges %+v", g)
	}
	eventually(t, "those that wait got a 100", func() bool { return r.Gauges().ResponsesSent["1xx"] == 50 })
	if grown := runtime.NumGoroutine() - goroutines; grown > 50 {
		t.Logf("%d more goroutines (other tests run beside)", grown)
	}
	invite := want[core.RequestReceived](r)
	for range 49 {
		want[core.RequestReceived](r)
	}
	p.send(p.in("c0", "CANCEL", "b0", "", ""))
	if e := want[core.RequestReceived](r); e.Cancels != invite.Txn {
		t.Errorf("event %+v", e)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
	if err != nil {
		t.Skip("no second loopback address:", err)
	}
	defer conn.Close()
	conn.WriteToUDPAddrPort([]byte(p.in("other", "INVITE", "other", "", "")), p.server)
	if e := want[core.RequestReceived](r); e.Request.CallID != "other" {
		t.Errorf("event %+v", e.Request)
	}
}

// Answers without transaction are bounded per second, so that a flood with forged sources
// is not turned on others.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	var c tally
	allowed := 0
	start := time.Now()
	for range 3 * maxRefusals {
		if c.mayRefuse() {
			allowed++
		}
	}
	seconds := int(time.Since(start)/time.Second) + 2
	if allowed < maxRefusals || allowed > seconds*maxRefusals || c.suppressed.Load() != uint64(3*maxRefusals-allowed) {
		t.Errorf("%d allowed in %v", allowed, time.Since(start))
	}
}

// A transaction that the core forgets does not stay: after 64*T1 nobody waits for it.
func TestUnansweredRequestsEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	p.send(p.request("OPTIONS", "a", ""))
	want[core.RequestReceived](r)
	eventually(t, "swept", func() bool { g := r.Gauges(); return g.ServerOther == 0 && g.Unanswered == 1 })
}

// Close sends what was asked for before, and emits nothing afterwards; Do is harmless.
func TestClose(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, q := newPhone(r, core.UDP), newPhone(r, core.TCP)
	p.send(p.request("INVITE", "a", ""))
	one := want[core.RequestReceived](r)
	q.send(q.request("INVITE", "a", ""))
	two := want[core.RequestReceived](r)
	r.Do(core.SendRequest{Txn: "z9hG4bKa", To: toAddr(core.UDP, p.local()), Request: outbound(p, "INVITE", "c")})
	r.reply(one, 503)
	r.reply(two, 503)
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := p.expect("") + p.expect("")
	if !strings.Contains(got, "503 Service") || !strings.Contains(got, "INVITE sip:1001") {
		t.Errorf("got\n%s", got)
	}
	q.expect("SIP/2.0 503")
	r.reply(one, 200)
	if len(r.events) != 0 {
		t.Errorf("event %+v", <-r.events)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// RFC 3261 s.8.2.7, s.16.11: a flood of INVITEs from forged sources, each refused by the core
// and acknowledged by nobody, must not come out larger than it went in: a refusal with a
// transaction is repeated until Timer H, a dozen times and more.
func TestForgedFloodIsNotAmplified(t *testing.T) {
	t.Parallel()
	const giveUp = 64 * 100 * time.Millisecond // a refusal that nobody acknowledges holds its place so long
	start := time.Now()
	r := newRig(t, func(c *Config) { c.T1 = giveUp / 64 })
	r.script(func(e core.Event) []core.Effect {
		q := e.(core.RequestReceived)
		if q.Request.Method != core.INVITE {
			t.Errorf("the core got a %s", q.Request.Method)
			return nil
		}
		return []core.Effect{core.Respond{Txn: q.Txn, To: q.From, Response: q.Request.Reply(503, fmt.Sprint("random", q.Txn))}}
	})
	const flood = 6000
	p := newPhone(r, core.UDP)
	tags := make(chan string, 64) // of the answers to one of them
	go func() {
		for buf := make([]byte, 1<<16); ; {
			n, _, err := p.udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if text := string(buf[:n]); callIDOf(text) == "c5999" && strings.HasPrefix(text, "SIP/2.0 503") {
				select {
				case tags <- field1(text, "To"):
				default:
				}
			}
		}
	}()
	sent := func() uint64 { return r.Gauges().ResponsesSent["5xx"] } // a slow machine gives some a 100 too
	for i := range flood {
		p.send(p.in(fmt.Sprint("c", i), "INVITE", fmt.Sprint("b", i), "", ""))
		if i%50 == 49 { // the socket's buffer is not what is tested
			eventually(t, "answered", func() bool { return sent() > uint64(i) })
		}
	}
	last := p.in("c5999", "INVITE", "b5999", "", "")
	eventually(t, "answered again, though datagrams get lost here too", func() bool { p.send(last); return len(tags) >= 2 })
	first, again := <-tags, <-tags
	rounds := int(time.Since(start)/giveUp) + 1 // on a slow machine some places have become free meanwhile
	if first != again || rounds == 1 && !strings.Contains(first, ";tag="+statelessTag) {
		t.Errorf("one request, two tags: %s, %s", first, again)
	}
	p.send(strings.Replace(p.in("c5999", "ACK", "b5999", "", ""), "To: <sip:5000@example.com>", "To: "+first, 1))
	eventually(t, "all transactions are over", func() bool { return r.Gauges().ServerInvite == 0 })
	g := r.Gauges()
	if out := sent(); out > 2*flood || g.Forgotten < uint64(flood-(2+rounds)*maxRefused) {
		t.Errorf("%d packets in, %d out, %d refused without state", flood, out, g.Forgotten)
	} else {
		t.Logf("%.2f packets out per packet in", float64(out)/flood)
	}
	r.servers.mu.Lock()
	defer r.servers.mu.Unlock()
	if len(r.servers.refused) != 0 || r.servers.refusedAll != 0 {
		t.Errorf("%d refusals wait for an ACK, of %v", r.servers.refusedAll, r.servers.refused)
	}
}

// In a dialog a refusal is repeated whatever the flood: its peer is known.
func TestRefusalInDialogIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	r.servers.count(p.local().Addr(), maxRefused)
	p.send(strings.Replace(p.in("c", "INVITE", "a", "", ""), "To: <sip:5000@example.com>", "To: <sip:5000@example.com>;tag=ours", 1))
	r.reply(want[core.RequestReceived](r), 488)
	for range 3 {
		p.expect("SIP/2.0 488")
	}
	r.servers.terminateAll()
}
