package sipstack

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// outbound is a request of the core to a phone.
func outbound(p *phone, method, callID string) *core.Request {
	return &core.Request{Method: method, URI: core.URI{Scheme: "sip", User: "1001", Host: "127.0.0.1", Port: p.local().Port()},
		Message: core.Message{
			From:   core.Address{Display: "Queue", URI: core.URI{Scheme: "sip", User: "5000", Host: "example.com"}}.WithTag("ours"),
			To:     core.Address{URI: core.URI{Scheme: "sip", User: "1001", Host: "example.com"}},
			CallID: callID, CSeq: 4,
			Contact: []core.Address{{URI: core.URI{Scheme: "sip", Host: "127.0.0.1", Port: 5060}}},
			Route:   []core.Address{{URI: core.URI{Scheme: "sip", Host: "proxy.example.com", Params: ";lr"}}},
		}}
}

func toAddr(t core.Transport, a netip.AddrPort) core.Target {
	return core.Target{Transport: t, Host: a.Addr().String(), Port: a.Port()}
}

// reachable returns a phone and a target that names it: over TCP by the flow on which it
// has sent a request.
func reachable(r *rig, transport core.Transport) (*phone, core.Target) {
	p := newPhone(r, transport)
	if transport == core.UDP {
		return p, toAddr(core.UDP, p.local())
	}
	p.send(p.request("OPTIONS", "hello", ""))
	return p, core.Target{Transport: core.TCP, Host: "unused.invalid", Flow: want[core.RequestReceived](r).From.Flow}
}

// RFC 3261 s.8.1.1, s.18.1.1: what the edge adds to a request.
func TestRequestOnTheWire(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p, target := reachable(r, transport)
		r.Do(core.SendRequest{Txn: "z9hG4bKwire", To: target, Request: outbound(p, "INVITE", "c")})
		text := p.expect("INVITE sip:1001@127.0.0.1:")
		via := fmt.Sprintf("SIP/2.0/%s %s;branch=z9hG4bKwire", strings.ToUpper(string(transport)), r.Addr(transport))
		if transport == core.UDP {
			via += ";rport"
		}
		for name, want := range map[string]string{"Via": via, "Max-Forwards": "70", "User-Agent": "dialtone", "CSeq": "4 INVITE",
			"Route": "<sip:proxy.example.com;lr>", "Content-Length": "0", "From": `"Queue" <sip:5000@example.com>;tag=ours`} {
			if got := field1(text, name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		p.send(answer(text, "486 Busy Here", ""))
		if e := want[core.ResponseReceived](r); e.From.Addr != p.local() || e.From.Flow == "" || e.Txn != "z9hG4bKwire" {
			t.Errorf("event %+v", e)
		}
	})
}

// RFC 3261 s.17.1.1, RFC 6026 s.7.2: every provisional response, the final one once, each
// repeated or forked 2xx; the core's ACK once and without a transaction.
func TestInviteClient(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p, target := reachable(r, transport)
		r.Do(core.SendRequest{Txn: "z9hG4bKinv", To: target, Request: outbound(p, "INVITE", "c")})
		invite := p.expect("INVITE")
		status := func(text string) {
			t.Helper()
			p.send(text)
			e := want[core.ResponseReceived](r)
			if e.Txn != "z9hG4bKinv" || e.Response.Method != "INVITE" || !strings.HasPrefix(text, fmt.Sprintf("SIP/2.0 %d", e.Response.Status)) {
				t.Fatalf("event %+v for\n%s", e, text)
			}
		}
		status(answer(invite, "100 Trying", ""))
		status(answer(invite, "180 Ringing", ""))
		status(answer(invite, "180 Ringing", "")) // reliable or not is the core's question
		ok := answer(invite, "200 OK", "Contact: <sip:1001@127.0.0.1>\r\n")
		status(ok)
		ack := outbound(p, "ACK", "c")
		r.Do(core.SendRequest{Txn: "z9hG4bKack", To: target, Request: ack})
		if text := p.expect("ACK"); !strings.Contains(field1(text, "Via"), "branch=z9hG4bKack") {
			t.Errorf("ACK:\n%s", text)
		}
		status(ok)
		status(strings.Replace(ok, "tag=theirs", "tag=fork", 1))
		p.send(answer(invite, "180 Ringing", "")) // reordered behind the 200
		p.send(answer(invite, "486 Busy Here", ""))
		r.quiet(p)
		if text := p.recv(4 * sip.T1); text != "" {
			t.Errorf("unexpected:\n%s", text)
		}
		eventually(t, "Timer M", func() bool { return r.Gauges().ClientInvite == 0 })
		if transport == core.UDP {
			status(ok) // late, as after a restart: the Via is ours
		}
	})
}

// RFC 3261 s.17.1.1.3: the ACK to another final response is the edge's, once per copy, to
// the INVITE's Via, and at once: the library would wait T2 with the transaction locked.
func TestInviteClientRejected(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, target := reachable(r, core.UDP)
	r.Do(core.SendRequest{Txn: "z9hG4bKinv", To: target, Request: outbound(p, "INVITE", "c")})
	invite := p.expect("INVITE")
	quickest := patience
	for i := range 5 {
		start := time.Now()
		p.send(answer(invite, "486 Busy Here", ""))
		ack := p.expect("ACK")
		if i > 0 {
			quickest = min(quickest, time.Since(start))
		}
		for name, want := range map[string]string{"Via": field1(invite, "Via"), "CSeq": "4 ACK", "To": field1(invite, "To") + ";tag=theirs",
			"From": field1(invite, "From"), "Call-ID": "c", "Route": "<sip:proxy.example.com;lr>", "Contact": ""} {
			if got := field1(ack, name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	if quickest >= sip.T2 {
		t.Errorf("no repeated response was acknowledged before %v", quickest)
	}
	if e := want[core.ResponseReceived](r); e.Response.Status != 486 {
		t.Errorf("event %+v", e)
	}
	r.quiet(p)
	eventually(t, "Timer D", func() bool { return r.Gauges().ClientInvite == 0 })
}

// Timer F and B: one failure, after 64*T1, with retransmissions in between.
func TestTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, target := reachable(r, core.UDP)
	r.Do(core.SendRequest{Txn: "z9hG4bKa", To: target, Request: outbound(p, "INVITE", "c")})
	r.Do(core.SendRequest{Txn: "z9hG4bKb", To: target, Request: outbound(p, "OPTIONS", "d")})
	failed := map[core.TxnID]core.FailCause{}
	for range 2 {
		e := want[core.TransactionFailed](r)
		failed[e.Txn] = e.Cause
	}
	if failed["z9hG4bKa"] != core.TimedOut || failed["z9hG4bKb"] != core.TimedOut {
		t.Errorf("failures %v", failed)
	}
	counts := map[string]int{}
	for text := p.recv(time.Millisecond); text != ""; text = p.recv(time.Millisecond) {
		counts[strings.Fields(text)[0]]++
	}
	if counts["INVITE"] < 5 || counts["OPTIONS"] < 10 {
		t.Errorf("sent %v times", counts)
	}
	r.quiet(p)
}

// A transaction other than INVITE leaves nothing behind once it is answered, and its
// repeated answers reach nobody (the library would hold it for 32 s).
func TestOtherClientTransactionsAreBrief(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p, target := reachable(r, transport)
		r.Do(core.SendRequest{Txn: "z9hG4bKa", To: target, Request: outbound(p, "OPTIONS", "c")})
		text := p.expect("OPTIONS")
		for range 3 {
			p.send(answer(text, "200 OK", ""))
		}
		if e := want[core.ResponseReceived](r); e.Response.Status != 200 {
			t.Errorf("event %+v", e)
		}
		r.quiet(p)
		if g := r.Gauges(); g.ClientOther != 0 || g.StrayResponses != 2 {
			t.Errorf("gauges %+v", g)
		}
	})
}

// RFC 3261 s.9.1: the CANCEL has the INVITE's Via and a transaction of its own.
func TestCancelClient(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p, target := reachable(r, transport)
		r.Do(core.SendRequest{Txn: "z9hG4bKinv", To: target, Request: outbound(p, "INVITE", "c")})
		invite := p.expect("INVITE")
		p.send(answer(invite, "180 Ringing", ""))
		want[core.ResponseReceived](r)
		r.Do(core.SendRequest{Txn: "z9hG4bKinv", To: target, Request: outbound(p, "CANCEL", "c")})
		cancel := p.expect("CANCEL")
		if field1(cancel, "Via") != field1(invite, "Via") || field1(cancel, "CSeq") != "4 CANCEL" {
			t.Errorf("CANCEL:\n%s", cancel)
		}
		p.send(answer(cancel, "200 OK", ""))
		if e := want[core.ResponseReceived](r); e.Txn != "z9hG4bKinv/CANCEL" || e.Response.Method != "CANCEL" {
			t.Errorf("event %+v", e)
		}
		p.send(answer(invite, "487 Request Terminated", ""))
		if e := want[core.ResponseReceived](r); e.Txn != "z9hG4bKinv" || e.Response.Status != 487 {
			t.Errorf("event %+v", e)
		}
		p.expect("ACK")
		r.quiet(p)
	})
}

// RFC 3261 s.9.1: an INVITE that stays unanswered for 64*T1 after its CANCEL is over. The
// library would keep it for ever once it has rung. OpenSIPS/opensips#2530 is what follows.
func TestCancelledInviteEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, target := reachable(r, core.UDP)
	r.Do(core.SendRequest{Txn: "z9hG4bKinv", To: target, Request: outbound(p, "INVITE", "c")})
	invite := p.expect("INVITE")
	p.send(answer(invite, "180 Ringing", ""))
	want[core.ResponseReceived](r)
	r.Do(core.SendRequest{Txn: "z9hG4bKinv", To: target, Request: outbound(p, "CANCEL", "c")})
	p.send(answer(p.expect("CANCEL"), "200 OK", ""))
	want[core.ResponseReceived](r)
	if e := want[core.TransactionFailed](r); e.Txn != "z9hG4bKinv" || e.Cause != core.TimedOut {
		t.Errorf("event %+v", e)
	}
	r.quiet(p)
	if g := r.Gauges(); g.ClientInvite+g.ClientOther != 0 {
		t.Errorf("gauges %+v", g)
	}
}

// RFC 3261 s.18.1.2: responses that are not for us, RFC 4475 s.3.3.10 among them.
func TestStrayResponses(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	p.send(string(tortureFile(t, "bcast")))
	ours := "SIP/2.0 200 OK\r\nVia: " + writeVia(core.UDP, r.Addr(core.UDP), "z9hG4bKold") + "\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
	for _, text := range []string{
		strings.Replace(ours, "INVITE", "OPTIONS", 1), strings.Replace(ours, "200 OK", "180 Ringing", 1), strings.Replace(ours, "200 OK", "486 Busy", 1),
		strings.Replace(ours, "From:", "Via: SIP/2.0/UDP h;branch=z9hG4bKz\r\nFrom:", 1), strings.Replace(ours, "branch=z9hG4bK", "branch=", 1),
		strings.Replace(ours, r.Addr(core.UDP).String(), "192.0.2.1", 1),
	} {
		p.send(text)
	}
	r.quiet(p)
	p.send(ours)
	if e := want[core.ResponseReceived](r); e.Txn != "z9hG4bKold" {
		t.Errorf("event %+v", e)
	}
}

// Targets that can't be reached fail once, soon, and as Undelivered.
func TestUndelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.ConnectTimeout = 300 * time.Millisecond })
	p := newPhone(r, core.UDP)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := localOf(ln.Addr())
	ln.Close()
	for name, target := range map[string]core.Target{
		"nobody listens":   toAddr(core.TCP, dead),
		"no such name":     {Transport: core.UDP, Host: "no-such-host.invalid", Port: 5060},
		"no such name SRV": {Transport: core.TCP, Host: "no-such-host.invalid"},
		"no IPv6 socket":   {Transport: core.UDP, Host: "::1", Port: 5060},
		"gone flow":        {Transport: core.TCP, Host: "127.0.0.1", Port: dead.Port(), Flow: "tcp/gone/1"},
		"empty":            {},
	} {
		for _, method := range []string{"INVITE", "CANCEL", "OPTIONS"} {
			id := core.TxnID("z9hG4bK" + strings.ReplaceAll(name, " ", "") + method)
			r.Do(core.SendRequest{Txn: id, To: target, Request: outbound(p, method, "c"+name)})
			e := want[core.TransactionFailed](r)
			if got := strings.TrimSuffix(string(e.Txn), cancelSuffix); got != string(id) || e.Cause != core.Undelivered {
				t.Errorf("%s: event %+v", name, e)
			}
		}
		r.Do(core.SendRequest{Txn: "z9hG4bKack", To: target, Request: outbound(p, "ACK", "c")})
	}
	r.quiet(p)
	eventually(t, "nothing is left", func() bool {
		g := r.Gauges()
		return g.ClientInvite+g.ClientOther+g.ReachesUnderWay == 0 && g.Unsent == 24
	})
}

// One dial serves all requests to an address, the connection is used again, and a CANCEL
// does not overtake the INVITE that waits for the dial.
func TestDialIsShared(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	addr := localOf(ln.Addr())
	p := newPhone(r, core.UDP)
	for i := range 20 {
		r.Do(core.SendRequest{Txn: core.TxnID(fmt.Sprint("z9hG4bK", i)), To: toAddr(core.TCP, addr), Request: outbound(p, "INVITE", fmt.Sprint(i))})
		r.Do(core.SendRequest{Txn: core.TxnID(fmt.Sprint("z9hG4bK", i)), To: toAddr(core.TCP, addr), Request: outbound(p, "CANCEL", fmt.Sprint(i))})
	}
	q := &phone{t: t, tcp: <-accepted, frames: framer{limit: 1 << 16}}
	defer q.close()
	invited := map[string]bool{}
	for range 40 {
		text := q.recv(patience)
		switch callID := callIDOf(text); {
		case strings.HasPrefix(text, "INVITE"):
			invited[callID] = true
		case !strings.HasPrefix(text, "CANCEL") || !invited[callID]:
			t.Fatalf("unexpected\n%s", text)
		}
	}
	if len(accepted) != 0 || r.Gauges().Flows != 1 {
		t.Errorf("%d more connections, gauges %+v", len(accepted), r.Gauges())
	}
	q.close() // RFC 5626: what waited on the connection fails with it
	for range 40 {
		if e := want[core.TransactionFailed](r); e.Cause != core.Undelivered {
			t.Errorf("event %+v", e)
		}
	}
	want[core.FlowClosed](r)
}

// RFC 3261 s.18.1.1: above 1300 bytes TCP is tried, and UDP when nobody answers there.
func TestLongRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	long := outbound(p, "INVITE", "c")
	long.ContentType, long.Body = "application/sdp", []byte(strings.Repeat("a=x\r\n", 300))
	r.Do(core.SendRequest{Txn: "z9hG4bKudp", To: toAddr(core.UDP, p.local()), Request: long})
	if text := p.expect("INVITE"); !strings.HasPrefix(field1(text, "Via"), "SIP/2.0/UDP") || len(text) < 1500 {
		t.Errorf("got\n%s", text)
	}
	if !r.direct.has(p.local()) {
		t.Error("the peer without TCP is not remembered")
	}
	q := newPhone(r, core.UDP)
	ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(q.local()))
	if err != nil {
		t.Skip("the same port is taken for TCP:", err)
	}
	defer ln.Close()
	r.Do(core.SendRequest{Txn: "z9hG4bKtcp", To: toAddr(core.UDP, q.local()), Request: long})
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := &phone{t: t, tcp: conn, frames: framer{limit: 1 << 16}}
	defer s.close()
	if text := s.expect("INVITE"); !strings.HasPrefix(field1(text, "Via"), "SIP/2.0/TCP") {
		t.Errorf("Via %s", field1(text, "Via"))
	}
}

// A name is resolved; localhost is in every machine's hosts file.
func TestHostName(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	r.Do(core.SendRequest{Txn: "z9hG4bKa", To: core.Target{Transport: core.UDP, Host: "localhost", Port: p.local().Port()}, Request: outbound(p, "OPTIONS", "c")})
	p.send(answer(p.expect("OPTIONS"), "200 OK", ""))
	want[core.ResponseReceived](r)
}

// signalwire/freeswitch#1679: a phone is called back the way it registered: by its flow,
// from the listening port. The flow of a datagram peer is still good after a restart.
func TestFlowsOfDatagrams(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	p.send(p.request("REGISTER", "a", ""))
	flow := want[core.RequestReceived](r).From.Flow
	r.Do(core.SendRequest{Txn: "z9hG4bKa", To: core.Target{Transport: core.UDP, Host: "192.0.2.1", Flow: flow}, Request: outbound(p, "OPTIONS", "c")})
	buf := make([]byte, 2000)
	p.udp.SetReadDeadline(time.Now().Add(patience))
	if _, from, err := p.udp.ReadFromUDPAddrPort(buf); err != nil || from != r.Addr(core.UDP) {
		t.Errorf("from %v, %v; want %v", from, err, r.Addr(core.UDP))
	}
	if o, ok := r.byFlow(flow); !ok || o.addr != p.local() {
		t.Errorf("flow %s is %+v", flow, o)
	}
	for _, broken := range []core.FlowID{"", "udp/", "udp/x", "udp/" + core.FlowID(r.udp[0].name) + "/nonsense", "tcp/x/1"} {
		if _, ok := r.byFlow(broken); ok {
			t.Errorf("flow %q exists", broken)
		}
	}
}

// Memory of one waiting transaction of ours: keepalives to thousands of phones.
func TestClientTransactionMemory(t *testing.T) {
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	const n = 2000
	requests := make([]*core.Request, n)
	for i := range n {
		requests[i] = outbound(p, "OPTIONS", fmt.Sprint(i))
		r.Do(core.SendRequest{Txn: core.TxnID(fmt.Sprint("z9hG4bK", i)), To: toAddr(core.UDP, p.local()), Request: requests[i]})
	}
	eventually(t, "all are sent", func() bool { return r.Gauges().ClientOther == n })
	runtime.GC()
	runtime.ReadMemStats(&after)
	perTxn := int(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d bytes per waiting client transaction", perTxn)
	if perTxn > 6000 {
		t.Errorf("too much: %d bytes", perTxn)
	}
	// Timers that fire run in a goroutine for an instant; none may stay for a transaction.
	eventually(t, "a moment without timers", func() bool { return runtime.NumGoroutine()-goroutines < n/50 })
}
