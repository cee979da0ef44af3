package sipstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// T1 is 30 ms here, so 64*T1 is 1.92 s.
func TestMain(m *testing.M) {
	sip.SetTimers(30*time.Millisecond, 120*time.Millisecond, 150*time.Millisecond)
	sip.Timer_D = 400 * time.Millisecond
	os.Exit(m.Run())
}

const patience = 10 * time.Second // the machine may be busy with other tests

// rig is a Stack on loopback whose events the test reads, or a script answers.
type rig struct {
	*Stack
	t      testing.TB
	events chan core.Event
	full   atomic.Bool // the core's inbox
	phones atomic.Int64
	panics uint64 // that the test brings about
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, events: make(chan core.Event, 1<<14)}
	cfg := Config{
		Listen: []Listen{{Transport: core.UDP, Addr: loopback(0)}, {Transport: core.TCP, Addr: loopback(0)}},
		Emit: func(e core.Event) bool {
			if r.full.Load() {
				return false
			}
			select {
			case r.events <- e:
				return true
			default:
				return false
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Stack = s
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if n := s.Gauges().Panics; n != r.panics {
			t.Errorf("%d messages ended in a panic, want %d", n, r.panics)
		}
	})
	return r
}

// want returns the next event, which must be of type T.
func want[T core.Event](r *rig) T {
	r.t.Helper()
	select {
	case e := <-r.events:
		if e, ok := e.(T); ok {
			return e
		}
		r.t.Fatalf("got event %T %+v, want %T", e, e, *new(T))
	case <-time.After(patience):
		r.t.Fatalf("no event, want %T", *new(T))
	}
	panic("unreachable")
}

// quiet checks that p caused no event until now: what it sends next is the next event.
func (r *rig) quiet(p *phone) {
	r.t.Helper()
	mark := p.request("OPTIONS", "quiet"+fmt.Sprint(p.cseq), "")
	p.send(mark)
	if e := want[core.RequestReceived](r); e.Request.Method != "OPTIONS" || e.Request.CallID != callIDOf(mark) {
		r.t.Fatalf("unexpected event %+v", e.Request)
	}
}

// script answers events in one goroutine, as the loop does.
func (r *rig) script(answer func(core.Event) []core.Effect) {
	done := make(chan struct{})
	r.t.Cleanup(func() { close(done) })
	go func() {
		for {
			select {
			case e := <-r.events:
				for _, effect := range answer(e) {
					r.Do(effect)
				}
			case <-done:
				return
			}
		}
	}()
}

func (r *rig) reply(e core.RequestReceived, status int) {
	r.Do(core.Respond{Txn: e.Txn, To: e.From, Response: e.Request.Reply(status, "ours")})
}

// phone is a peer that speaks by hand, over UDP or TCP.
type phone struct {
	t      testing.TB
	udp    *net.UDPConn
	tcp    net.Conn
	server netip.AddrPort
	frames framer
	cseq   int
	name   string
}

func newPhone(r *rig, transport core.Transport) *phone {
	r.t.Helper()
	p := &phone{t: r.t, server: r.Addr(transport), frames: framer{limit: 1 << 16}}
	var err error
	if transport == core.UDP {
		p.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(0)))
	} else {
		p.tcp, err = net.Dial("tcp4", p.server.String())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(p.close)
	// The number tells apart phones that are given the same port one after the other.
	p.name = fmt.Sprintf("%s-%d", strings.ReplaceAll(p.local().String(), ":", "."), r.phones.Add(1))
	return p
}

func (p *phone) close() {
	if p.udp != nil {
		p.udp.Close()
	} else {
		p.tcp.Close()
	}
}

func (p *phone) local() netip.AddrPort {
	if p.udp != nil {
		return localOf(p.udp.LocalAddr())
	}
	return localOf(p.tcp.LocalAddr())
}

func (p *phone) transport() core.Transport {
	if p.udp != nil {
		return core.UDP
	}
	return core.TCP
}

func (p *phone) via(branch string) string {
	return writeVia(p.transport(), p.local(), cookie+p.name+branch)
}

// request writes a request with a Call-ID and a branch of their own.
func (p *phone) request(method, branch, body string) string {
	p.cseq++
	return p.in(fmt.Sprintf("%s-%d", p.name, p.cseq), method, branch, "", body)
}

// in writes a request of one Call-ID; more holds further header fields.
func (p *phone) in(callID, method, branch, more, body string) string {
	return fmt.Sprintf("%s sip:5000@%s SIP/2.0\r\nVia: %s\r\nFrom: <sip:caller@example.com>;tag=theirs\r\nTo: <sip:5000@example.com>\r\n"+
		"Call-ID: %s\r\nCSeq: 7 %s\r\nContact: <sip:caller@%s>\r\nMax-Forwards: 70\r\n%sContent-Length: %d\r\n\r\n%s",
		method, p.server, p.via(branch), callID, method, p.local(), more, len(body), body)
}

func (p *phone) send(text string) {
	p.t.Helper()
	var err error
	if p.udp != nil {
		_, err = p.udp.WriteToUDPAddrPort([]byte(text), p.server)
	} else {
		_, err = p.tcp.Write([]byte(text))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// recv returns the next message, "" after wait.
func (p *phone) recv(wait time.Duration) string {
	if p.udp != nil {
		buf := make([]byte, 1<<16)
		p.udp.SetReadDeadline(time.Now().Add(wait))
		n, _, err := p.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return ""
		}
		return string(buf[:n])
	}
	p.tcp.SetReadDeadline(time.Now().Add(wait))
	for {
		if msg, _, err := p.frames.next(); msg != nil || err != nil {
			return string(msg)
		}
		n, err := p.tcp.Read(p.frames.room())
		if err != nil {
			return ""
		}
		p.frames.grew(n)
	}
}

// expect returns the next message, which must begin with start. 100 Trying is passed over.
func (p *phone) expect(start string) string {
	p.t.Helper()
	for {
		text := p.recv(patience)
		switch {
		case strings.HasPrefix(text, start):
			return text
		case strings.HasPrefix(text, "SIP/2.0 100"):
			continue
		}
		p.t.Fatalf("got %q, want %q", text, start)
	}
}

// answer writes a response to a request that the Stack sent.
func answer(request, status, more string) string {
	head, _, _ := strings.Cut(request, "\r\n\r\n")
	out := "SIP/2.0 " + status + "\r\n"
	for line := range strings.SplitSeq(head, "\r\n") {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "Via", "From", "Call-ID", "CSeq":
			out += line + "\r\n"
		case "To":
			if !strings.Contains(line, "tag=") {
				line += ";tag=theirs"
			}
			out += line + "\r\n"
		}
	}
	return out + more + "Content-Length: 0\r\n\r\n"
}

func field1(text, name string) string {
	for line := range strings.SplitSeq(text, "\r\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return v
		}
	}
	return ""
}

func callIDOf(text string) string { return field1(text, "Call-ID") }

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// both runs a test over UDP and over TCP.
func both(t *testing.T, f func(t *testing.T, transport core.Transport)) {
	for _, transport := range []core.Transport{core.UDP, core.TCP} {
		t.Run(string(transport), func(t *testing.T) { t.Parallel(); f(t, transport) })
	}
}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func testdata(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
