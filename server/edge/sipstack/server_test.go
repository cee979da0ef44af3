package sipstack

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// RFC 3261 s.17.2.2: a repeated request is absorbed and answered with the last response.
func TestRetransmissionIsAbsorbed(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	req := p.request("OPTIONS", "a", "")
	p.send(req)
	e := want[core.RequestReceived](r)
	p.send(req) // before the answer: nothing to repeat
	r.quiet(p)
	want := e.Request.Reply(200, "ours")
	want.Header = []core.Field{{Name: "Allow", Value: "INVITE"}}
	r.Do(core.Respond{Txn: e.Txn, To: e.From, Response: want})
	first := p.expect("SIP/2.0 200 OK")
	p.send(req)
	if again := p.expect("SIP/2.0 200 OK"); again != first {
		t.Errorf("repeated as\n%s\nfirst was\n%s", again, first)
	}
	r.quiet(p)
	if field1(first, "Server") != "dialtone" || !strings.Contains(field1(first, "To"), "tag=ours") {
		t.Errorf("answer:\n%s", first)
	}
	if g := r.Gauges(); g.Retransmissions != 2 || g.RequestsReceived["OPTIONS"] != 5 {
		t.Errorf("gauges %+v", g)
	}
}

// RFC 3261 s.17.2.1: 100 without the core, the final response repeated until the ACK, which ends
// here. s.13.3.1.4: 2xx are sent as often as the core says, and not once more.
func TestInviteRejected(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	invite := p.in("c", "INVITE", "a", "Timestamp: 54\r\n", "")
	p.send(invite)
	trying := p.recv(patience)
	if !strings.HasPrefix(trying, "SIP/2.0 100 Trying") || strings.Contains(field1(trying, "To"), "tag=") || field1(trying, "Timestamp") != "54" {
		t.Fatalf("first answer:\n%s", trying)
	}
	e := want[core.RequestReceived](r)
	p.send(invite)
	if again := p.recv(patience); again != trying {
		t.Fatalf("repeated INVITE was answered with\n%s", again)
	}
	r.reply(e, 486)
	for range 3 { // Timer G
		p.expect("SIP/2.0 486 Busy Here")
	}
	p.send(p.in("c", "ACK", "a", "", ""))
	p.send(p.in("c", "ACK", "a", "", ""))
	r.quiet(p)
	for p.recv(time.Millisecond) != "" { // what was on its way before the ACK
	}
	if text := p.recv(3 * sip.T2); text != "" {
		t.Fatalf("after the ACK:\n%s", text)
	}
	eventually(t, "the transaction is gone after Timer I", func() bool { return r.Gauges().ServerInvite == 0 })
}

// RFC 6026 s.7.1, RFC 3261 s.13.3.1.4: the edge sends each 2xx that the core gives once,
// and repeats none by itself; the ACK reaches the core whatever branch it has.
func TestInviteAccepted(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p := newPhone(r, transport)
		invite := p.in("c", "INVITE", "a", "", "v=0")
		p.send(invite)
		e := want[core.RequestReceived](r)
		if string(e.Request.Body) != "v=0" || e.From.Addr != p.local() || e.From.Flow == "" || e.From.Transport != transport {
			t.Fatalf("event %+v", e)
		}
		r.reply(e, 180)
		p.expect("SIP/2.0 180 Ringing")
		r.reply(e, 200)
		p.expect("SIP/2.0 200 OK")
		if text := p.recv(8 * sip.T1); text != "" {
			t.Fatalf("the edge repeated by itself:\n%s", text)
		}
		r.reply(e, 200)
		p.expect("SIP/2.0 200 OK")
		r.reply(e, 180) // too late, and must not take the place of the 200
		p.send(invite)
		for _, branch := range []string{"other", "a"} { // sipp and old phones keep the INVITE's
			p.send(p.in("c", "ACK", branch, "", ""))
			ack := want[core.RequestReceived](r)
			if ack.Request.Method != "ACK" || ack.Txn != "" || ack.Cancels != "" {
				t.Fatalf("event %+v", ack)
			}
		}
		if text := p.recv(4 * sip.T1); text != "" {
			t.Fatalf("unexpected:\n%s", text)
		}
	})
}

// A final response is the last word of the core: another one must not be sent, and not be
// repeated in its place. The library would do the second.
func TestFirstFinalResponseCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	bye := p.request("BYE", "a", "")
	p.send(bye)
	e := want[core.RequestReceived](r)
	r.reply(e, 200)
	p.expect("SIP/2.0 200 OK")
	r.reply(e, 481)
	r.reply(e, 100)
	r.quiet(p) // the effects are of one Call-ID, the answers of the marker come behind them
	p.send(bye)
	p.expect("SIP/2.0 200 OK")
}

// RFC 3261 s.17.2.1: a waiting INVITE gets a 100 within 200 ms.
func TestTryingIsInTime(t *testing.T) {
	t.Parallel()
	timing := timingOf(500 * time.Millisecond)
	if d := timing.trying; d < 100*time.Millisecond || d+timing.grain() > 200*time.Millisecond {
		t.Errorf("100 after %v, up to %v late", d, timing.grain())
	}
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	p.send(p.in("late", "INVITE", "a", "", ""))
	want[core.RequestReceived](r) // and the core says nothing
	if text := p.recv(patience); !strings.HasPrefix(text, "SIP/2.0 100") {
		t.Errorf("waiting INVITE got:\n%s", text)
	}
}

// RFC 3261 s.17.2.1: an INVITE that the core answers soon needs no 100, and it never comes
// behind another response. One that is repeated before gets it at once. "Soon" is longer here
// than the test waits for anything: a 100 that comes did not come by the timer.
func TestTryingIsSpared(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.T1 = 10 * patience })
	if r.timing.trying < 2*patience {
		t.Fatalf("100 after %v", r.timing.trying)
	}
	p := newPhone(r, core.UDP)
	p.send(p.in("soon", "INVITE", "a", "", ""))
	e := want[core.RequestReceived](r)
	r.reply(e, 180)
	if text := p.recv(patience); !strings.HasPrefix(text, "SIP/2.0 180") {
		t.Errorf("first answer:\n%s", text)
	}
	x := r.servers.get(e.Txn)
	x.mu.Lock()
	if x.again.at != 0 || x.request != nil {
		t.Errorf("the 100 is still to come, after %v", x.again.at)
	}
	x.mu.Unlock()
	repeated := p.in("repeated", "INVITE", "b", "", "")
	p.send(repeated)
	p.send(repeated)
	if text := p.recv(patience); !strings.HasPrefix(text, "SIP/2.0 100") || callIDOf(text) != "repeated" {
		t.Errorf("repeated INVITE got:\n%s", text)
	}
	want[core.RequestReceived](r)
	r.quiet(p)
}

// RFC 3261 s.9.2: the core answers the CANCEL and the INVITE, nobody else does.
func TestCancel(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p := newPhone(r, transport)
		p.send(p.in("c", "INVITE", "a", "", ""))
		invite := want[core.RequestReceived](r)
		p.expect("SIP/2.0 100")
		cancel := p.in("c", "CANCEL", "a", "", "")
		p.send(cancel)
		e := want[core.RequestReceived](r)
		if e.Request.Method != "CANCEL" || e.Cancels != invite.Txn || e.Txn == invite.Txn || e.Txn == "" {
			t.Fatalf("event %+v, INVITE was %s", e, invite.Txn)
		}
		if text := p.recv(4 * sip.T1); text != "" {
			t.Fatalf("answered without the core:\n%s", text)
		}
		r.reply(e, 200)
		if text := p.expect("SIP/2.0 200 OK"); field1(text, "CSeq") != "7 CANCEL" {
			t.Fatalf("got\n%s", text)
		}
		r.reply(invite, 487)
		p.expect("SIP/2.0 487 Request Terminated")
		p.send(p.in("c", "ACK", "a", "", ""))
		if transport == core.UDP {
			p.send(cancel) // its answer was lost
			for text := p.recv(patience); field1(text, "CSeq") != "7 CANCEL"; text = p.recv(patience) {
				if !strings.HasPrefix(text, "SIP/2.0 487") { // sent before the ACK came
					t.Fatalf("got %q", text)
				}
			}
		}
		r.quiet(p)
		eventually(t, "the INVITE is gone", func() bool { return r.Gauges().ServerInvite == 0 })
	})
}

// A CANCEL of nothing is the core's to refuse; one from another address must not find the
// call, even with its branch and sent-by.
func TestCancelOfAStranger(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	p.send(p.in("c", "INVITE", "a", "", ""))
	want[core.RequestReceived](r)
	p.send(p.in("c", "CANCEL", "b", "", ""))
	if e := want[core.RequestReceived](r); e.Cancels != "" {
		t.Errorf("a CANCEL with another branch cancels %s", e.Cancels)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
	if err != nil {
		t.Skip("no second loopback address:", err)
	}
	defer conn.Close()
	conn.WriteToUDPAddrPort([]byte(p.in("c", "CANCEL", "a", "", "")), p.server)
	if e := want[core.RequestReceived](r); e.Cancels != "" {
		t.Errorf("a stranger's CANCEL cancels %s", e.Cancels)
	}
}

// RFC 3261 s.18.2.2: the response goes to the port of Via, or with rport (RFC 3581) to
// where the request came from.
func TestResponsePort(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, listening := newPhone(r, core.UDP), newPhone(r, core.UDP)
	req := p.request("OPTIONS", "a", "")
	noRport := strings.Replace(req, ";rport", "", 1)
	p.send(strings.Replace(noRport, p.local().String()+";branch", listening.local().String()+";branch", 1))
	r.reply(want[core.RequestReceived](r), 200)
	listening.expect("SIP/2.0 200")
	p.send(strings.Replace(p.request("OPTIONS", "b", ""), p.local().String()+";branch", listening.local().String()+";branch", 1))
	e := want[core.RequestReceived](r)
	r.reply(e, 200)
	if text := p.expect("SIP/2.0 200"); !strings.Contains(field1(text, "Via"), ";received=127.0.0.1") {
		t.Errorf("Via: %s", field1(text, "Via"))
	}
}

// After a restart the core may answer transactions that this process never saw: the Via
// was stamped when the request came. The TxnID of a repeated request is the same again.
func TestRespondAfterRestart(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		first := newRig(t, nil)
		p := newPhone(first, transport)
		invite := p.in("c", "INVITE", "a", "", "")
		p.send(invite)
		e := want[core.RequestReceived](first)

		second := newRig(t, nil)
		if transport == core.UDP {
			second.reply(e, 200)
			p.expect("SIP/2.0 200 OK")
			p.server = second.Addr(core.UDP)
			p.send(invite)
			if again := want[core.RequestReceived](second); again.Txn != e.Txn {
				t.Errorf("TxnID %s became %s", e.Txn, again.Txn)
			}
			return
		}
		// The connection died with the process: a new one goes to the port in Via.
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		stored := *e.Request // a received message is never changed: its 100 may be due
		e.Request = &stored
		stored.Via = []string{strings.Replace(e.Request.Via[0], p.local().String(), ln.Addr().String(), 1)}
		second.reply(e, 200)
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		q := &phone{t: t, tcp: conn, frames: framer{limit: 1 << 16}}
		defer q.close()
		q.expect("SIP/2.0 200 OK")
	})
}

// A response must leave however long it is; the library refuses above 1300 bytes.
func TestLongResponseOverUDP(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	p.send(p.in("c", "INVITE", "a", "", ""))
	e := want[core.RequestReceived](r)
	res := e.Request.Reply(200, "ours")
	res.ContentType, res.Body = "application/sdp", []byte(strings.Repeat("a=x\r\n", 1000))
	r.Do(core.Respond{Txn: e.Txn, To: e.From, Response: res})
	if text := p.expect("SIP/2.0 200 OK"); len(text) < 5000 {
		t.Errorf("%d bytes arrived", len(text))
	}
}

// Two phones behind one proxy with equal branches but other sent-by, and an RFC 2543 peer
// without branch, are different transactions (s.17.2.3).
func TestTransactionMatching(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	seen := map[core.TxnID]bool{}
	req := p.in("c", "INVITE", "a", "", "")
	old := strings.Replace(req, ";branch="+cookie+p.name+"a", "", 1)
	for _, text := range []string{
		req, strings.Replace(req, p.local().String()+";branch", "other.example.com;branch", 1),
		old, strings.Replace(old, "CSeq: 7", "CSeq: 8", 1), strings.Replace(old, "Call-ID: c", "Call-ID: d", 1),
	} {
		p.send(text)
		p.send(text)
		e := want[core.RequestReceived](r)
		if seen[e.Txn] {
			t.Errorf("TxnID %s was used twice, for\n%s", e.Txn, text)
		}
		seen[e.Txn] = true
		r.quiet(p)
	}
}

// Malformed requests are answered over the wire, ACK never (RFC 3261 s.17.1.1.3).
func TestMalformedIsAnswered(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p := newPhone(r, transport)
		p.send(strings.Replace(p.in("c", "ACK", "a", "", ""), "<sip:caller@example.com>", "<sip:caller", 1))
		p.send(strings.Replace(p.in("c", "OPTIONS", "b", "", ""), "<sip:caller@example.com>", "<sip:caller", 1))
		text := p.expect("SIP/2.0 400 Bad Request (")
		if field1(text, "Call-ID") != "c" || field1(text, "CSeq") != "7 OPTIONS" || !strings.Contains(field1(text, "To"), ";tag=e.") {
			t.Errorf("answer:\n%s", text)
		}
		p.send(strings.Replace(p.in("d", "OPTIONS", "c", "", ""), "SIP/2.0\r\n", "SIP/3.0\r\n", 1))
		p.expect("SIP/2.0 505 Version Not Supported")
		r.quiet(p)
		if g := r.Gauges(); g.Malformed != 3 {
			t.Errorf("counted %d malformed", g.Malformed)
		}
	})
}

// RFC 4475 over real sockets: the process lives, and the next request is served.
func TestTortureOverSockets(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	for _, c := range torture() {
		p.send(string(tortureFile(t, c.file)))
		q := newPhone(r, core.TCP)
		q.tcp.Write(tortureFile(t, c.file))
	}
	p.send(p.in("last", "OPTIONS", "last", "", ""))
	for want[core.RequestReceived](r).Request.CallID != "last" {
	}
}

// Garbage and keep-alives: nothing comes back over UDP, and no event.
func TestNoiseIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	noise := []string{"\r\n\r\n", "\r\n", "\x00\x01\x00\x00!\x12\xa4B0123456789ab", "GET / HTTP/1.0\r\n\r\n", "x", "\x80\xc8\x00\x06"}
	for _, text := range noise {
		p.send(text)
	}
	r.quiet(p)
	if text := p.recv(4 * sip.T1); text != "" {
		t.Errorf("answered with %q", text)
	}
	if g := r.Gauges(); g.Garbage != 4 || g.KeepAlives != 2 {
		t.Errorf("gauges %+v", g)
	}
}
