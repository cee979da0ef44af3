package phone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(answerWith) != "" {
		answerAll()
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	fastT1   = 50 * time.Millisecond
	patience = 20 * time.Second
)

var loopback = netip.MustParseAddr("127.0.0.1")

// listen opens an endpoint towards a target.
func listen(t testing.TB, target netip.AddrPort, cfg ...func(*EndpointConfig)) *Endpoint {
	t.Helper()
	c := EndpointConfig{Target: Target{Addr: target}, T1: fastT1}
	for _, f := range cfg {
		f(&c)
	}
	e, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func overTCP(c *EndpointConfig) { c.Target.Network = "tcp" }

func add(t testing.TB, e *Endpoint, cfg Config) *Phone {
	t.Helper()
	p, err := e.Phone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func within(t testing.TB) context.Context {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	t.Cleanup(stop)
	return ctx
}

// await waits for a condition.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func closed(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
	}
}

func incoming(t testing.TB, p *Phone) *Call {
	t.Helper()
	select {
	case c := <-p.Incoming():
		return c
	case <-time.After(patience):
		t.Fatal("nobody calls")
		return nil
	}
}

func dial(t testing.TB, p *Phone, uri string) *Call {
	t.Helper()
	c, err := p.Dial(uri)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ends waits for the end of a call and checks why it came.
func ends(t testing.TB, c *Call, want Cause) {
	t.Helper()
	closed(t, fmt.Sprintf("the end of a call, %s", want), c.Done())
	if c.Cause() != want {
		t.Fatalf("the call ended: %s (status %d, %v), want %s", c.Cause(), c.Status(), c.Err(), want)
	}
}

// empty waits until nothing is left of any call or transaction.
func empty(t testing.TB, all ...*Endpoint) {
	t.Helper()
	for _, e := range all {
		await(t, "nothing left", func() bool { s := e.Stats(); return s.Calls == 0 && s.Transactions == 0 })
		e.mu.Lock()
		if len(e.past.order) != 0 || len(e.alarms) != 0 {
			t.Errorf("%d remembered, %d alarms", len(e.past.order), len(e.alarms))
		}
		e.mu.Unlock()
	}
}

// peer is a SIP element by hand: a socket and strings.
type peer struct {
	t    testing.TB
	conn *net.UDPConn
	at   netip.AddrPort
	from netip.AddrPort // of the last message
}

func newPeer(t testing.TB) *peer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &peer{t: t, conn: conn, at: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// next returns the next message.
func (p *peer) next() string {
	p.t.Helper()
	buf := make([]byte, 65536)
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	n, from, err := p.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		p.t.Fatalf("nothing came: %v", err)
	}
	p.from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	return string(buf[:n])
}

// expect returns the next message that begins with a text; those that begin with one of
// the others are passed over (repetitions).
func (p *peer) expect(start string, over ...string) string {
	p.t.Helper()
	for {
		m := p.next()
		if strings.HasPrefix(m, start) {
			return m
		}
		known := false
		for _, o := range over {
			known = known || strings.HasPrefix(m, o)
		}
		if !known {
			p.t.Fatalf("got\n%s\nwant %s", m, start)
		}
	}
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := p.conn.WriteToUDPAddrPort([]byte(text), p.from); err != nil {
		p.t.Fatal(err)
	}
}

// header returns the value of the first field of that name.
func header(m, name string) string {
	for line := range strings.SplitSeq(m, "\r\n") {
		if rest, ok := strings.CutPrefix(line, name+": "); ok {
			return rest
		}
	}
	return ""
}

const audioSDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"

// reply answers a request; extra are whole lines.
func (p *peer) reply(m, status, body string, extra ...string) {
	p.t.Helper()
	var b strings.Builder
	b.WriteString("SIP/2.0 " + status + "\r\n")
	for line := range strings.SplitSeq(m, "\r\n") {
		name, _, _ := strings.Cut(line, ":")
		switch name {
		case "Via", "From", "Call-ID", "CSeq", "Record-Route":
			b.WriteString(line + "\r\n")
		case "To":
			b.WriteString(line)
			if !strings.Contains(line, ";tag=") && !strings.HasPrefix(status, "100") {
				b.WriteString(";tag=peer")
			}
			b.WriteString("\r\n")
		}
	}
	for _, e := range extra {
		b.WriteString(e + "\r\n")
	}
	if body != "" {
		b.WriteString("Content-Type: application/sdp\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	p.send(b.String())
}

func (p *peer) contact() string { return "Contact: <sip:peer@" + p.at.String() + ">" }

// request sends a request to an address.
func (p *peer) request(to netip.AddrPort, method, uri, callID, from, toField string, seq int, branch, body string, extra ...string) {
	p.t.Helper()
	p.from = to
	text := fmt.Sprintf("%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\n",
		method, uri, p.at, branch, from, toField, callID, seq, method)
	for _, e := range append(extra, p.contact()) {
		text += e + "\r\n"
	}
	if body != "" {
		text += "Content-Type: application/sdp\r\n"
	}
	p.send(text + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
}

type verdict int

const (
	pass verdict = iota
	drop
	keep
)

// bend is a proxy between two endpoints which records its route, so that all of a dialog
// passes through it, and which loses or delays what its rule says.
type bend struct {
	conn *net.UDPConn
	at   netip.AddrPort
	done chan struct{}

	mu   sync.Mutex
	a, b netip.AddrPort
	rule func(start, m string) verdict
	kept []kept
	log  []string // first lines that came, in order
	all  []string
}

type kept struct {
	m  string
	to netip.AddrPort
}

func newBend(t testing.TB) *bend {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	x := &bend{conn: conn, at: conn.LocalAddr().(*net.UDPAddr).AddrPort(), done: make(chan struct{}), rule: func(string, string) verdict { return pass }}
	go x.run()
	t.Cleanup(func() { _ = conn.Close(); <-x.done })
	return x
}

// between makes two endpoints that reach each other through the bend.
func (x *bend) between(t testing.TB) (a, b *Endpoint) {
	a, b = listen(t, x.at), listen(t, x.at)
	x.mu.Lock()
	x.a, x.b = a.Addr(), b.Addr()
	x.mu.Unlock()
	return a, b
}

func (x *bend) when(rule func(start, m string) verdict) {
	x.mu.Lock()
	x.rule = rule
	x.mu.Unlock()
}

// release lets go what was kept, in order.
func (x *bend) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range x.kept {
		_, _ = x.conn.WriteToUDPAddrPort([]byte(k.m), k.to)
	}
	x.kept = nil
}

// seen counts messages that begin so.
func (x *bend) seen(start string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range x.log {
		if strings.HasPrefix(l, start) {
			n++
		}
	}
	return n
}

// messages returns those that begin so.
func (x *bend) messages(start string) (found []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.all {
		if strings.HasPrefix(m, start) {
			found = append(found, m)
		}
	}
	return found
}

func (x *bend) run() {
	defer close(x.done)
	buf := make([]byte, 65536)
	for {
		n, from, err := x.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		x.mu.Lock()
		m := string(buf[:n])
		start, _, _ := strings.Cut(m, "\r\n")
		x.log, x.all = append(x.log, start), append(x.all, m)
		to := x.b
		if from.Port() == x.b.Port() {
			to = x.a
		}
		out := x.forward(m)
		switch x.rule(start, m) {
		case pass:
			_, _ = x.conn.WriteToUDPAddrPort([]byte(out), to)
		case keep:
			x.kept = append(x.kept, kept{out, to})
		}
		x.mu.Unlock()
	}
}

// forward does what a record-routing proxy does (RFC 3261 s.16.6, s.16.7).
func (x *bend) forward(m string) string {
	lines := strings.Split(m, "\r\n")
	own := "SIP/2.0/UDP " + x.at.String()
	if strings.HasPrefix(m, "SIP/2.0 ") {
		return strings.Join(append(lines[:1:1], lines[2:]...), "\r\n") // the topmost Via is ours
	}
	branch := strings.TrimPrefix(header(m, "Via"), "SIP/2.0/UDP ")
	_, branch, _ = strings.Cut(branch, "branch="+cookie)
	branch, _, _ = strings.Cut(branch, ";")
	out := []string{lines[0], "Via: " + own + ";branch=" + cookie + "bend" + branch}
	if strings.HasPrefix(m, "INVITE ") {
		out = append(out, "Record-Route: <sip:"+x.at.String()+";lr>")
	}
	for _, l := range lines[1:] {
		if !strings.HasPrefix(l, "Route: <sip:"+x.at.String()) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\r\n")
}

// udpHole is an address where nobody answers.
func udpHole(t testing.TB) netip.AddrPort { return newPeer(t).at }
