package sipstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// die ends a node as a crash does, as far as its sockets are concerned.
func (r *rig) die() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// Node A dies in a call with a phone that is connected to B. C takes it over: its re-INVITE
// reaches the phone by the same token, and the phone's BYE reaches C.
func TestAnotherNodeTakesOver(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, 1, nil), newNode(t, 2, nil), newNode(t, 3, nil)
	p, token := registered(b)
	route := "<" + token.String() + ">"
	a.Do(a.towards(token, core.INVITE, "c", "inv", 1))
	p.send(answer(p.expect("INVITE"), "200 OK", ""))
	a.got(200)
	dead := a.uri().String()
	a.die()
	// What the phone sends to the dead node is refused at once, not lost: so its own
	// re-INVITE does not stand in the way of the successor's.
	eventually(t, "B knows that the connection is gone", func() bool { return b.Gauges().Flows == 1 })
	want[core.FlowClosed](b)
	p.send(p.from("INVITE", dead, route, "c", "lost", 7, ""))
	p.expect("SIP/2.0 503")
	p.send(p.from("ACK", dead, route, "c", "lost", 7, ""))

	c.Do(within(c.towards(token, core.INVITE, "c", "re", 1001)))
	again := p.expect("INVITE")
	through(t, b, again)
	p.send(answer(again, "200 OK", ""))
	c.got(200)
	c.Do(within(c.towards(token, core.ACK, "c", "ack", 1001)))
	p.expect("ACK")
	p.send(p.from("BYE", c.uri().String(), route, "c", "bye", 8, ""))
	bye := want[core.RequestReceived](c)
	c.reply(bye, 200)
	p.expect("SIP/2.0 200")
	b.nothing()
}

// The node that takes over is the one that the phone is connected to: the token then names
// its own connection, and the phone still sends by it.
func TestTheNodeInBetweenTakesOver(t *testing.T) {
	t.Parallel()
	b := newNode(t, 2, nil)
	p, token := registered(b)
	route := "<" + token.String() + ">"
	b.Do(within(b.towards(token, core.INVITE, "c", "re", 1001)))
	again := p.expect("INVITE")
	if len(all(again, "Via")) != 1 || len(all(again, "Route")) != 0 {
		t.Errorf("got\n%s", again)
	}
	p.send(answer(again, "200 OK", ""))
	b.got(200)
	b.Do(within(b.towards(token, core.ACK, "c", "ack", 1001)))
	p.expect("ACK")
	p.send(p.from("BYE", b.uri().String(), route, "c", "bye", 8, ""))
	bye := want[core.RequestReceived](b)
	if bye.From.Addr != p.local() {
		t.Errorf("from %v", bye.From)
	}
	b.reply(bye, 200)
	p.expect("SIP/2.0 200")

	q := dialFrom(b, outsider()) // connected anew, the phone goes on by the old route
	q.send(q.from("OPTIONS", b.uri().String(), route, "c", "anew", 9, ""))
	if e := want[core.RequestReceived](b); e.Request.Method != core.OPTIONS || e.From.Addr != q.local() {
		t.Errorf("event %+v", e)
	}

	p.close() // by its own door then, where it learns that the connection is gone
	want[core.FlowClosed](b)
	b.Do(within(b.towards(token, core.BYE, "c", "gone", 1002)))
	b.got(430)
}

// takeover.md: the phone rings for a node that is dead. A CANCEL under that node's Via stops
// it, over UDP and through a flow, and its answer comes to who sent it (RFC 3261 s.9.2 and
// s.17.2.3: the INVITE is found by branch and sent-by).
func TestCancelInTheNameOfADeadNode(t *testing.T) {
	t.Parallel()
	t.Run("udp", func(t *testing.T) {
		t.Parallel()
		a, c := newNode(t, 1, nil), newNode(t, 3, nil)
		p := newPhoneAt(a)
		target := toAddr(core.UDP, p.local())
		a.Do(core.SendRequest{Txn: cookie + "inv", To: target, Request: outbound(p, core.INVITE, "c")})
		invite := p.expect("INVITE")
		p.send(answer(invite, "180 Ringing", ""))
		want[core.ResponseReceived](a)
		dead := a.Addr(core.UDP)
		a.die()
		c.Do(core.SendRequest{Txn: cookie + "inv", To: target, Request: outbound(p, core.CANCEL, "c"), SentBy: dead})
		buf := make([]byte, 2000)
		p.udp.SetReadDeadline(time.Now().Add(patience))
		n, from, err := p.udp.ReadFromUDPAddrPort(buf)
		cancel := string(buf[:n])
		if err != nil || from != c.Addr(core.UDP) || field1(cancel, "Via") != field1(invite, "Via") {
			t.Fatalf("from %v %v\n%s", from, err, cancel)
		}
		p.server = from // RFC 3581: to where it came from
		p.send(answer(cancel, "200 OK", ""))
		if e := want[core.ResponseReceived](c); e.Txn != cookie+"inv/CANCEL" || e.Response.Status != 200 {
			t.Errorf("event %+v", e)
		}
		p.send(answer(invite, "487 Request Terminated", "")) // to whom no transaction belongs here
		c.nothing()
	})
	t.Run("flow", func(t *testing.T) {
		t.Parallel()
		a, b, c := newNode(t, 1, nil), newNode(t, 2, nil), newNode(t, 3, nil)
		p, token := registered(b)
		a.Do(a.towards(token, core.INVITE, "c", "inv", 1))
		invite := p.expect("INVITE")
		p.send(answer(invite, "180 Ringing", ""))
		a.got(180)
		dead := a.Addr(core.TCP)
		a.die()
		e := c.towards(token, core.CANCEL, "c", "inv", 1)
		e.SentBy = dead
		c.Do(e)
		cancel := p.expect("CANCEL")
		key := func(text string) string { v, _ := parseVia(all(text, "Via")[0]); return v.branch + " " + v.sentBy() }
		if key(cancel) != key(invite) {
			t.Errorf("CANCEL by %s of INVITE by %s", key(cancel), key(invite))
		}
		p.send(answer(cancel, "200 OK", ""))
		if e := c.got(200); e.Txn != cookie+"inv/CANCEL" {
			t.Errorf("event %+v", e)
		}
	})
}

// RFC 3261 s.17.1.1.1: a shorter T1 brings the repetitions closer, and leaves Timers B and F
// where they are. Without one nothing changes.
func TestT1OfOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.T1 = 400 * time.Millisecond })
	for _, method := range []string{core.INVITE, core.OPTIONS} {
		p := newPhone(r, core.UDP)
		var at [2][]time.Duration
		for i, t1 := range []core.Millis{0, 50} {
			start, last, callID := time.Now(), "", fmt.Sprint(method, i)
			r.Do(core.SendRequest{Txn: core.TxnID(cookie + callID), To: toAddr(core.UDP, p.local()), Request: outbound(p, method, callID), T1: t1})
			for len(at[i]) < 4 {
				text := p.recv(patience)
				if text == "" {
					t.Fatalf("%s %d was sent at %v only", method, i, at[i])
				}
				if callIDOf(text) == callID {
					at[i], last = append(at[i], time.Since(start)), text
				}
			}
			p.send(answer(last, "200 OK", ""))
			want[core.ResponseReceived](r)
		}
		// Sent at 0, T1, 3*T1, 7*T1, never before; how late depends on the machine.
		if at[1][1] < 50*time.Millisecond || at[1][3] < 350*time.Millisecond || at[1][3] > 2*time.Second {
			t.Errorf("%s with T1 of 50 ms: at %v", method, at[1])
		}
		if at[0][1] < 400*time.Millisecond || at[0][3] < 2800*time.Millisecond {
			t.Errorf("%s with the usual T1: at %v", method, at[0])
		}
	}
}

// With T1 of 5 ms an unanswered request is given up after 64 usual T1, not after 64 of these.
func TestPatienceIsNotShortened(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil) // T1 is 30 ms: 1.92 s
	p := newPhone(r, core.UDP)
	for _, method := range []string{core.INVITE, core.OPTIONS} {
		start := time.Now()
		r.Do(core.SendRequest{Txn: core.TxnID(cookie + method), To: toAddr(core.UDP, p.local()), Request: outbound(p, method, method), T1: 5})
		if e := want[core.TransactionFailed](r); e.Cause != core.TimedOut || time.Since(start) < 1900*time.Millisecond {
			t.Errorf("%s: %+v after %v", method, e, time.Since(start))
		}
	}
}

// RFC 3261 s.18.2.2: the caller's INVITE went to A, which is dead. C answers it by its Via,
// from its own socket, as often as its core asks (s.13.3.1.4: the core repeats a 2xx, there
// is no transaction), and the ACK that then comes to C is its core's.
func TestAnswerInTheNameOfADeadNode(t *testing.T) {
	t.Parallel()
	for name, via := range map[string]func(string) string{
		"rport":   func(text string) string { return text },
		"sent-by": func(text string) string { return strings.Replace(text, ";rport", "", 1) },
		"private": func(text string) string { return text }, // a NAT: sent-by is not where it came from
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, c := newNode(t, 1, nil), newNode(t, 3, nil)
			p := newPhoneAt(a)
			text := via(p.request(core.INVITE, "inv", ""))
			if name == "private" {
				text = strings.Replace(text, "UDP "+p.local().String(), "UDP 10.1.2.3:5060", 1)
			}
			p.send(text)
			e := want[core.RequestReceived](a)
			a.die()
			ok := e.Request.Reply(200, "ours")
			ok.Contact = []core.Address{{URI: core.URI{Scheme: "sip", Host: nodeAddr(3).String(), Port: c.Addr(core.UDP).Port()}}}
			for range 3 {
				c.Do(core.Respond{Txn: e.Txn, To: e.From, Response: ok})
				buf := make([]byte, 2000)
				p.udp.SetReadDeadline(time.Now().Add(patience))
				n, from, err := p.udp.ReadFromUDPAddrPort(buf)
				if err != nil || from != c.Addr(core.UDP) || !strings.HasPrefix(string(buf[:n]), "SIP/2.0 200") {
					t.Fatalf("from %v %v\n%s", from, err, buf[:n])
				}
			}
			p.server = c.Addr(core.UDP)
			p.send(p.in(e.Request.CallID, core.ACK, "ack", "", ""))
			if ack := want[core.RequestReceived](c); ack.Request.Method != core.ACK || ack.Txn != "" || ack.Request.CallID != e.Request.CallID {
				t.Errorf("event %+v", ack)
			}
			// Some peers send the ACK under the INVITE's branch.
			p.send(p.in(e.Request.CallID, core.ACK, "inv", "", ""))
			if ack := want[core.RequestReceived](c); ack.Request.Method != core.ACK {
				t.Errorf("event %+v", ack)
			}
		})
	}
	t.Run("tcp", func(t *testing.T) { // the caller listens where its Via says
		t.Parallel()
		a, c := newNode(t, 1, nil), newNode(t, 3, nil)
		p := dialFrom(a, outsider())
		ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(outsider(), 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		p.send(strings.Replace(p.request(core.INVITE, "inv", ""), p.local().String(), ln.Addr().String(), 1))
		e := want[core.RequestReceived](a)
		a.die()
		c.Do(core.Respond{Txn: e.Txn, To: e.From, Response: e.Request.Reply(200, "ours")})
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		q := phoneOn(c, conn)
		q.expect("SIP/2.0 200")
		if localOf(conn.RemoteAddr()).Addr() != nodeAddr(3) {
			t.Errorf("from %v", conn.RemoteAddr())
		}
		q.send(q.in(e.Request.CallID, core.ACK, "ack", "", ""))
		if ack := want[core.RequestReceived](c); ack.Request.Method != core.ACK {
			t.Errorf("event %+v", ack)
		}
	})
}

// Several nodes on one machine: what each writes names its own address, and its datagrams
// and connections come from there.
func TestEachNodeSpeaksFromItsOwnAddress(t *testing.T) {
	t.Parallel()
	nodes := []*rig{newNode(t, 1, nil), newNode(t, 2, nil), newNode(t, 3, nil)}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for i, r := range nodes {
		own := nodeAddr(byte(i + 1))
		p := newPhoneAt(r)
		r.Do(core.SendRequest{Txn: "z9hG4bKudp", To: toAddr(core.UDP, p.local()), Request: outbound(p, core.OPTIONS, "u")})
		buf := make([]byte, 2000)
		p.udp.SetReadDeadline(time.Now().Add(patience))
		n, from, err := p.udp.ReadFromUDPAddrPort(buf)
		if v, _ := parseVia(field1(string(buf[:n]), "Via")); err != nil || from != r.Addr(core.UDP) || from.Addr() != own || v.sentBy() != from.String() {
			t.Errorf("node %d: from %v, Via %v, %v", i+1, from, v.sentBy(), err)
		}
		r.Do(core.SendRequest{Txn: "z9hG4bKtcp", To: toAddr(core.TCP, localOf(ln.Addr())), Request: outbound(p, core.OPTIONS, "t")})
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		q := phoneOn(r, conn)
		text := q.expect("OPTIONS")
		if v, _ := parseVia(field1(text, "Via")); localOf(conn.RemoteAddr()).Addr() != own || v.sentBy() != r.Addr(core.TCP).String() {
			t.Errorf("node %d: from %v, Via %v", i+1, conn.RemoteAddr(), v.sentBy())
		}
		_, token := registered(r)
		if token.Host != own.String() || token.Port != r.Addr(core.TCP).Port() {
			t.Errorf("node %d: token %v", i+1, token)
		}
	}
}

// The address that peers use is not the one that is bound: tokens and Via say the former, and
// it is known again when it comes back.
func TestTokenHasTheContactAddress(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp4", "0.0.0.0:0") // a port that is free on every address
	if err != nil {
		t.Fatal(err)
	}
	bound := netip.AddrPortFrom(nodeAddr(2), localOf(probe.Addr()).Port())
	probe.Close()
	a := newNode(t, 1, nil)
	b := newNode(t, 2, func(c *Config) {
		c.Listen = []Listen{{Transport: core.UDP, Addr: netip.MustParseAddrPort("0.0.0.0:0"), Contact: bound},
			{Transport: core.TCP, Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), bound.Port()), Contact: bound}}
	})
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: outsider().AsSlice()}}).Dial("tcp4", bound.String())
	if err != nil {
		t.Fatal(err)
	}
	p := phoneOn(b, conn)
	p.server = bound
	token := register(b, p)
	if netip.AddrPortFrom(netip.MustParseAddr(token.Host), token.Port) != bound {
		t.Fatalf("token %v, want at %v", token, bound)
	}
	a.hears(p, token, "there")
}
