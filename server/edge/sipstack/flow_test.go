package sipstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// closedBy waits for the far end to close, and returns what it sent before and when.
func closedBy(t *testing.T, conn net.Conn) (string, time.Duration) {
	t.Helper()
	start := time.Now()
	conn.SetReadDeadline(start.Add(patience))
	text, err := io.ReadAll(conn)
	if err, ok := err.(net.Error); ok && err.Timeout() {
		t.Fatal("the connection stays open")
	}
	return string(text), time.Since(start)
}

func briefFlows(c *Config) { c.FlowOpening, c.FlowIdle = 300*time.Millisecond, 1200*time.Millisecond }

// Connections that say nothing, a byte at a time, or half of a message, end after
// FlowOpening; the core never hears of them.
func TestHalfOpenConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, briefFlows)
	msg := func(p *phone) string { return p.request("OPTIONS", "a", strings.Repeat("x", 500)) }
	for name, speak := range map[string]func(p *phone){
		"silent": func(*phone) {},
		"half":   func(p *phone) { p.send(msg(p)[:100]) },
		"body":   func(p *phone) { text := msg(p); p.send(text[:len(text)-1]) },
		"pings":  func(p *phone) { drip(p, strings.Repeat("\r\n", 200)) },
		"loris":  func(p *phone) { drip(p, msg(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPhone(r, core.TCP)
			speak(p)
			if _, took := closedBy(t, p.tcp); took > 5*time.Second {
				t.Errorf("closed after %v", took)
			}
		})
	}
	eventually(t, "all are gone", func() bool { return r.Gauges().Flows == 0 })
	r.quiet(newPhone(r, core.UDP))
}

// drip sends a byte every 20 ms until the connection breaks.
func drip(p *phone, text string) {
	go func() {
		for i := range text {
			if _, err := p.tcp.Write([]byte{text[i]}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

// A peer that has spoken may be silent for FlowIdle; pings keep it (RFC 5626 s.3.5.1), but
// a message that it begins has to end within FlowOpening again.
func TestIdleConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, briefFlows)
	p := newPhone(r, core.TCP)
	p.send(p.request("OPTIONS", "a", ""))
	flow := want[core.RequestReceived](r).From.Flow
	for start := time.Now(); time.Since(start) < 2*time.Second; {
		p.send("\r\n\r\n")
		pong := make([]byte, 2)
		p.tcp.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(p.tcp, pong); err != nil || string(pong) != "\r\n" {
			t.Fatalf("pong %q, %v", pong, err)
		}
		time.Sleep(300 * time.Millisecond)
	}
	if _, took := closedBy(t, p.tcp); took < 500*time.Millisecond {
		t.Errorf("closed %v after the last ping", took)
	}
	if e := want[core.FlowClosed](r); e.Flow != flow {
		t.Errorf("event %+v, want %s", e, flow)
	}

	q := newPhone(r, core.TCP)
	q.send(q.request("OPTIONS", "b", "") + "INVITE sip:a@b SIP/2.0\r\n")
	want[core.RequestReceived](r)
	if _, took := closedBy(t, q.tcp); took > time.Second {
		t.Errorf("half a message after a whole one: closed after %v", took)
	}
	want[core.FlowClosed](r)
}

// RFC 3261 s.18.3: a stream whose boundaries are lost is closed, after an answer where one
// is possible. What is not SIP is closed at once.
func TestBrokenStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for name, c := range map[string]struct{ from, to, want string }{
		"no length":      {"Content-Length: 0\r\n", "", "SIP/2.0 400 Bad Request (Content-Length missing or malformed)\r\n"},
		"two lengths":    {"Content-Length: 0\r\n", "Content-Length: 0\r\nl: 5\r\n", "SIP/2.0 400 "},
		"too long":       {"Content-Length: 0\r\n", "Content-Length: 99999\r\n", "SIP/2.0 513 "},
		"no end":         {"Content-Length: 0\r\n", strings.Repeat("X: y\r\n", 4000), "SIP/2.0 513 "},
		"TLS":            {"OPTIONS", "\x16\x03\x01", ""},
		"another server": {"SIP/2.0\r\n", "HTTP/1.1\r\n", ""},
	} {
		p := newPhone(r, core.TCP)
		p.send(strings.Replace(p.request("OPTIONS", "a", ""), c.from, c.to, 1))
		text, _ := closedBy(t, p.tcp)
		if !strings.HasPrefix(text, c.want) || c.want == "" && text != "" {
			t.Errorf("%s: got %q, want %q", name, text, c.want)
		}
	}
	r.quiet(newPhone(r, core.UDP))
}

// Limits of connections, altogether and per source; what is closed makes room again.
func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxFlows, c.MaxFlowsPerSource = 8, 5 })
	var held []*phone
	for range 5 {
		p := newPhone(r, core.TCP)
		p.send(p.request("OPTIONS", "a", ""))
		want[core.RequestReceived](r)
		held = append(held, p)
	}
	for range 10 {
		conn, err := net.Dial("tcp4", r.Addr(core.TCP).String())
		if err == nil { // else it was closed while it was opened
			closedBy(t, conn)
		}
	}
	eventually(t, "ten are refused", func() bool { return r.Gauges().Shed["flows_of_source"] == 10 })
	if g := r.Gauges(); g.Flows != 5 || g.Shed["flows_of_source"] != 10 {
		t.Errorf("gauges %+v", g)
	}
	held[0].close()
	want[core.FlowClosed](r)
	p := newPhone(r, core.TCP)
	p.send(p.request("OPTIONS", "a", ""))
	want[core.RequestReceived](r)

	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	refused := 0
	for range 5 {
		conn, err := other.Dial("tcp4", r.Addr(core.TCP).String())
		if errors.Is(err, syscall.ECONNRESET) {
			refused++
			continue
		}
		if err != nil {
			t.Skip("no second loopback address:", err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !err.(net.Error).Timeout() {
			refused++
		}
	}
	if g := r.Gauges(); g.Flows != 8 || refused != 2 || g.Shed["flows"] != 2 {
		t.Errorf("refused %d, gauges %+v", refused, g)
	}
}

// A peer that does not read must not hold anything: Do returns at once, and the connection
// is closed when too much waits for it. livekit/livekit#2440.
func TestPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p, target := reachable(r, core.TCP)
	p.tcp.(*net.TCPConn).SetReadBuffer(4096)
	big := outbound(p, "MESSAGE", "c")
	big.ContentType, big.Body = "text/plain", make([]byte, 50000)
	longest := time.Duration(0)
	sent := 0
	for ; r.Gauges().Flows == 1 && sent < 2000; sent++ {
		start := time.Now()
		r.Do(core.SendRequest{Txn: core.TxnID(fmt.Sprint("z9hG4bK", sent)), To: target, Request: big})
		longest = max(longest, time.Since(start))
		if sent%50 == 49 {
			time.Sleep(time.Millisecond)
		}
	}
	for closed := false; sent > 0 || !closed; {
		select {
		case e := <-r.events:
			switch e := e.(type) {
			case core.TransactionFailed:
				sent--
			case core.FlowClosed:
				closed = true
			default:
				t.Fatalf("event %+v", e)
			}
		case <-time.After(patience):
			t.Fatalf("%d transactions never failed, closed %v", sent, closed)
		}
	}
	if longest > writeTimeout/5 { // microseconds when idle, a time slice or two when not; never the peer's time
		t.Errorf("Do took %v", longest)
	}
}

// Messages of one socket reach the core in the order in which they came.
func TestOrder(t *testing.T) {
	both(t, func(t *testing.T, transport core.Transport) {
		r := newRig(t, nil)
		p := newPhone(r, transport)
		const n = 300
		for i := range n {
			method := []string{"OPTIONS", "INVITE", "ACK", "BYE"}[i%4]
			p.send(p.in(fmt.Sprint("c", i), method, fmt.Sprint("b", i), "", ""))
			if transport == core.UDP && i%20 == 19 { // the socket's buffer is finite
				eventually(t, "read", func() bool { return len(r.events) == i+1 })
			}
		}
		for i := range n {
			if e := want[core.RequestReceived](r); e.Request.CallID != fmt.Sprint("c", i) {
				t.Fatalf("%s came as number %d", e.Request.CallID, i)
			}
		}
	})
}

// Errors of New say which address is meant and what to do.
func TestListenErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	emit := func(core.Event) bool { return true }
	for name, c := range map[string]struct {
		cfg  Config
		want []string
	}{
		"taken UDP":   {Config{Emit: emit, Listen: []Listen{{Transport: core.UDP, Addr: r.Addr(core.UDP)}}}, []string{"UDP " + r.Addr(core.UDP).String(), "ss -lunp", "another port"}},
		"taken TCP":   {Config{Emit: emit, Listen: []Listen{{Transport: core.UDP, Addr: loopback(0)}, {Transport: core.TCP, Addr: r.Addr(core.TCP)}}}, []string{"TCP " + r.Addr(core.TCP).String(), "ss -ltnp"}},
		"not ours":    {Config{Emit: emit, Listen: []Listen{{Transport: core.UDP, Addr: stranger()}}}, []string{"192.0.2.33", "ip addr"}},
		"unspecified": {Config{Emit: emit, Listen: []Listen{{Transport: core.UDP, Addr: mustAddr("0.0.0.0:0")}}}, []string{"contact address"}},
		"TLS":         {Config{Emit: emit, Listen: []Listen{{Transport: "tls", Addr: loopback(0)}}}, []string{"tls", "udp and tcp"}},
		"nothing":     {Config{Emit: emit}, []string{"at least one"}},
		"no Emit":     {Config{}, []string{"Emit"}},
	} {
		s, err := New(c.cfg)
		if err == nil {
			s.Close(t.Context())
			t.Errorf("%s: no error", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", name, err, w)
			}
		}
	}
}

// Listening on every address, with the one that peers use in Via.
func TestContactAddress(t *testing.T) {
	t.Parallel()
	contact := mustAddr("127.0.0.1:15060")
	r := newRig(t, func(c *Config) {
		c.Listen = []Listen{{Transport: core.UDP, Addr: mustAddr("0.0.0.0:0"), Contact: contact}}
	})
	p := newPhone(r, core.UDP)
	p.server = loopback(r.Addr(core.UDP).Port())
	r.Do(core.SendRequest{Txn: "z9hG4bKa", To: toAddr(core.UDP, p.local()), Request: outbound(p, "OPTIONS", "c")})
	if text := p.expect("OPTIONS"); !strings.HasPrefix(field1(text, "Via"), "SIP/2.0/UDP 127.0.0.1:15060;") {
		t.Errorf("Via %s", field1(text, "Via"))
	}
}
