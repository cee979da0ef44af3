package app

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// dialFrom opens a TCP connection from a loopback address of its own.
func dialFrom(addr, to string) (*net.TCPConn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: 10 * time.Second}
	conn, err := dialer.Dial("tcp4", to)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// crowd are connections that are opened together and closed together.
type crowd struct {
	conns []*net.TCPConn
	once  sync.Once
}

func gather(t *testing.T, addr, to string, n int) *crowd {
	t.Helper()
	c := &crowd{}
	t.Cleanup(c.leave)
	for range n {
		conn, err := dialFrom(addr, to)
		switch {
		case err == nil:
			c.conns = append(c.conns, conn)
		case !errors.Is(err, syscall.ECONNRESET): // closed at a cap before it was whole
			t.Fatal(err)
		}
	}
	return c
}

func (c *crowd) leave() {
	c.once.Do(func() {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
	})
}

// closed counts those that the node has closed.
func (c *crowd) closed() (n int) {
	for _, conn := range c.conns {
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			n++
		}
	}
	return n
}

// tcpMessage is a request of a phone behind a TCP connection.
func tcpMessage(conn net.Conn, method, uri, user, id, more string) string {
	local := conn.LocalAddr().String()
	return fmt.Sprintf("%s %s SIP/2.0\r\nVia: SIP/2.0/TCP %s;branch=z9hG4bK%s;rport\r\nMax-Forwards: 70\r\nFrom: <sip:%s@%s>;tag=%s\r\n"+
		"To: <sip:%s@%s>\r\nCall-ID: %s@tcp\r\nCSeq: 1 %s\r\nContact: <sip:%s@%s;transport=tcp>\r\n%sContent-Length: 0\r\n\r\n",
		method, uri, local, id, user, demoDomain, id, user, demoDomain, id, method, user, local, more)
}

// tcpExchange sends a request and returns the head of the next message.
func tcpExchange(conn net.Conn, request string) (string, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	var head strings.Builder
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return head.String(), err
		}
		if head.WriteString(line); line == "\r\n" {
			return head.String(), nil
		}
	}
}

// served fails when somebody at another address is not answered by SIP over TCP and by HTTP.
func (h home) served(t *testing.T, addr string) {
	t.Helper()
	conn, err := dialFrom(addr, h.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := tcpExchange(conn, tcpMessage(conn, "OPTIONS", "sip:"+h.domain, "x", fmt.Sprint(time.Now().UnixNano()), ""))
	if err != nil || !strings.HasPrefix(answer, "SIP/2.0 200") {
		t.Errorf("OPTIONS over TCP from %s: %v %q", addr, err, answer)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	reply, err := client.Get(h.banner.HTTP + "/readyz")
	if err != nil {
		t.Errorf("HTTP from %s: %v", addr, err)
		return
	}
	reply.Body.Close()
	if reply.StatusCode != 200 {
		t.Errorf("/readyz from %s: %d", addr, reply.StatusCode)
	}
}

// Connections that say nothing, half of something, or a byte now and then, and those that
// vanish, hold nothing for long; one address cannot take all there are.
func TestBadDayConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute: so long may a connection take for its first message")
	}
	t.Parallel()
	c := newChild(t.TempDir())
	c.environ = append(c.environ, t1Variable+"=50ms")
	c.start(t)
	t.Cleanup(func() { c.close(t) })
	demo := c.demo()
	agent := demo.vip(t)
	demo.vipCall(t, "warm-up", agent)
	before := c.rests(t)
	began := time.Now()

	silent := gather(t, "127.0.0.11", c.tcp, 50)
	half := gather(t, "127.0.0.12", c.tcp, 50)
	for _, conn := range half.conns {
		_, _ = io.WriteString(conn, "INVITE sip:5000@demo.localhost SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.12;bra")
	}
	loris := gather(t, "127.0.0.13", c.tcp, 20)
	lorisOver := loris.trickle("INVITE sip:5000@demo.localhost SIP/2.0\r\nSubject: ", 400*time.Millisecond)
	web := gather(t, "127.0.0.14", strings.TrimPrefix(c.banner.HTTP, "http://"), 20)
	webOver := web.trickle("GET /v1/agents HTTP/1.1\r\nHost: x\r\nX-Slow: ", 200*time.Millisecond)
	demo.vipCall(t, "meanwhile", agent)
	demo.served(t, "127.0.0.2")

	if took := <-webOver; took > 8*time.Second {
		t.Errorf("HTTP heads of a byte now and then were borne for %s", took)
	} else {
		t.Logf("HTTP heads of a byte now and then were borne for %s", took.Round(time.Millisecond))
	}
	t.Run("vanish", func(t *testing.T) { demo.vanish(t) })
	t.Run("cap of SIP", func(t *testing.T) { demo.sipCap(t, agent) })
	t.Run("cap of HTTP", func(t *testing.T) { demo.httpCap(t, agent) })

	for name, crowd := range map[string]*crowd{"silent": silent, "half a message": half, "a byte now and then": loris} {
		for crowd.closed() < len(crowd.conns) && time.Since(began) < 45*time.Second {
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(crowd.conns) - crowd.closed(); n > 0 {
			t.Errorf("%d connections of %q are still open after %s", n, name, time.Since(began))
		}
	}
	t.Logf("SIP of a byte now and then was borne for %s", (<-lorisOver).Round(time.Millisecond))
	c.returns(t, before, 40)
}

// trickle sends the begin of a message and then a byte at a time, until all connections
// are closed; it tells how long that took.
func (c *crowd) trickle(begin string, every time.Duration) <-chan time.Duration {
	over := make(chan time.Duration, 1)
	began := time.Now()
	for _, conn := range c.conns {
		_, _ = io.WriteString(conn, begin)
	}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for open := len(c.conns); open > 0 && time.Since(began) < time.Minute; <-tick.C {
			open = 0
			for _, conn := range c.conns {
				if _, err := conn.Write([]byte("x")); err == nil {
					open++
				}
			}
		}
		over <- time.Since(began)
	}()
	return over
}

// vanish has a registered phone's connection reset: its agent is offered nothing any more.
// Other connections are reset in the middle of a message, or right after one.
func (h home) vanish(t *testing.T) {
	conn, err := dialFrom("127.0.0.15", h.tcp)
	if err != nil {
		t.Fatal(err)
	}
	challenge, err := tcpExchange(conn, tcpMessage(conn, "REGISTER", "sip:"+h.domain, "1003", "v1", ""))
	if err != nil {
		t.Fatal(err)
	}
	field, response := answerTo(t, challenge, "1003", secretPassword, "REGISTER", "sip:"+h.domain, 1)
	h.hide(response)
	answer, err := tcpExchange(conn, tcpMessage(conn, "REGISTER", "sip:"+h.domain, "1003", "v2", field))
	if err != nil || !strings.HasPrefix(answer, "SIP/2.0 200") {
		t.Fatalf("REGISTER over TCP: %v %q", err, answer)
	}
	await(t, "agent 1003 is ready", func() bool { return h.agentState(h.tenant, "1003") == "ready idle" })
	_ = conn.SetLinger(0) // a reset, as from a phone without power
	_ = conn.Close()
	await(t, "agent 1003 is logged out", func() bool { return h.agentState(h.tenant, "1003") == "logged_out idle" })
	for i := range 200 {
		gone, err := dialFrom("127.0.0.15", h.tcp)
		if err != nil {
			t.Fatal(err)
		}
		whole := tcpMessage(gone, []string{"OPTIONS", "REGISTER", "FROBNICATE"}[i%3], "sip:"+h.domain, "1004", fmt.Sprintf("gone%d", i), "")
		_, _ = io.WriteString(gone, whole[:len(whole)*(i%5)/4])
		_ = gone.SetLinger(0)
		_ = gone.Close()
	}
	await(t, "the flows of 127.0.0.15 are gone", func() bool { return h.metrics(t)["dialtone_sip_flows"] <= 120 })
}

// sipCap: one address gets a quarter of the connections; another one is still served.
func (h home) sipCap(t *testing.T, agent *phone.Phone) {
	const perSource = 2500
	crowd := gather(t, "127.0.0.16", h.tcp, perSource+100)
	await(t, "those beyond the cap are closed", func() bool { return h.metrics(t)[`dialtone_sip_shed_total{limit="flows_of_source"}`] == 100 })
	h.served(t, "127.0.0.2")
	h.vipCall(t, "at-the-cap", agent)
	crowd.leave()
	await(t, "the connections are gone", func() bool { return h.metrics(t)["dialtone_sip_flows"] <= 120 })
}

// httpCap: the same of the API, whose connections would take the descriptors of calls.
func (h home) httpCap(t *testing.T, agent *phone.Phone) {
	crowd := gather(t, "127.0.0.17", strings.TrimPrefix(h.banner.HTTP, "http://"), maxConns/2+100)
	await(t, "those beyond the cap are closed", func() bool { return h.metrics(t)["dialtone_http_connections_shed_total"] >= 100 })
	h.served(t, "127.0.0.2")
	h.vipCall(t, "at-the-cap-of-http", agent)
	crowd.leave()
	await(t, "the connections are gone", func() bool { return h.metrics(t)["dialtone_http_connections"] <= 30 })
}

// A process that may have few files: connections, however many, leave enough for calls.
func TestBadDayFewFiles(t *testing.T) {
	t.Parallel()
	c := newChild(t.TempDir())
	c.environ = append(c.environ, filesVariable+"=300")
	c.start(t)
	t.Cleanup(func() { c.close(t) })
	demo := c.demo()
	agent := demo.vip(t)
	for i := range 8 { // from several addresses, for each has its share only
		gather(t, fmt.Sprintf("127.0.3.%d", i), strings.TrimPrefix(c.banner.HTTP, "http://"), 50)
		gather(t, fmt.Sprintf("127.0.3.%d", i), c.tcp, 50)
	}
	demo.vipCall(t, "few-files", agent)
	await(t, "the first connections are given up", func() bool { return c.ready() == 200 })
	c.oneCDR(t, "", "few-files")
}
