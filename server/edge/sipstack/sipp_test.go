package sipstack

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// sipp runs SIPp as a peer of its own process. The ports are free a moment before.
func sipp(t testing.TB, transport core.Transport, args ...string) (*exec.Cmd, netip.AddrPort) {
	t.Helper()
	path, err := exec.LookPath("sipp")
	if err != nil {
		t.Skip("sipp is not installed: apt-get install sip-tester")
	}
	local := freePort(t)
	mode := map[core.Transport]string{core.UDP: "u1", core.TCP: "t1"}[transport]
	args = append([]string{"-i", "127.0.0.1", "-p", strconv.Itoa(int(local.Port())), "-mp", strconv.Itoa(mediaPort(t)),
		"-t", mode, "-buff_size", "4000000", "-nostdin", "-timeout", "60s", "-timeout_error"}, args...)
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = t.TempDir()
	return cmd, local
}

func freePort(t testing.TB) netip.AddrPort {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return localOf(conn.LocalAddr())
}

// mediaPort finds what SIPp binds even without media: an even port and the second after it.
func mediaPort(t testing.TB) int {
	for range 100 {
		port := freePort(t).Port() &^ 1
		one, err1 := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(port)))
		two, err2 := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(port+2)))
		if err1 == nil {
			one.Close()
		}
		if err2 == nil {
			two.Close()
		}
		if err1 == nil && err2 == nil {
			return int(port)
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}

// run runs SIPp to its end; when another process was quicker with a port, once more.
func run(t testing.TB, transport core.Transport, args ...string) {
	t.Helper()
	for try := 0; ; try++ {
		cmd, _ := sipp(t, transport, args...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		if try < 5 && strings.Contains(string(out), "Address already in use") {
			continue
		}
		lines := strings.Split(string(out), "\n")
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, strings.Join(lines[max(0, len(lines)-45):], "\n"))
	}
}

// uas is a core of a few lines: it takes every call, lets "ring" ring, and ends what is
// cancelled.
func uas() func(core.Event) []core.Effect {
	ringing := map[core.TxnID]*core.Request{}
	return func(e core.Event) []core.Effect {
		q, ok := e.(core.RequestReceived)
		if !ok {
			return nil
		}
		respond := func(txn core.TxnID, r *core.Request, status int) core.Effect {
			res := r.Reply(status, "ours")
			res.Contact = []core.Address{{URI: core.URI{Scheme: "sip", Host: "127.0.0.1", Port: q.Request.URI.Port}}}
			return core.Respond{Txn: txn, To: q.From, Response: res}
		}
		switch q.Request.Method {
		case core.ACK:
			return nil
		case core.INVITE:
			if q.Request.URI.User == "ring" {
				ringing[q.Txn] = q.Request
				return []core.Effect{respond(q.Txn, q.Request, 180)}
			}
			return []core.Effect{respond(q.Txn, q.Request, 180), respond(q.Txn, q.Request, 200)}
		case core.CANCEL:
			all := []core.Effect{respond(q.Txn, q.Request, 200)}
			if invite := ringing[q.Cancels]; invite != nil {
				all = append(all, respond(q.Cancels, invite, 487))
				delete(ringing, q.Cancels)
			}
			return all
		}
		return []core.Effect{respond(q.Txn, q.Request, 200)}
	}
}

// SIPp as caller: INVITE, 100, 180, 200, ACK, BYE; OPTIONS and REGISTER; CANCEL.
func TestSippCalls(t *testing.T) {
	for _, scenario := range []string{"uac", "options", "cancel"} {
		t.Run(scenario, func(t *testing.T) {
			both(t, func(t *testing.T, transport core.Transport) {
				r := newRig(t, nil)
				r.script(uas())
				choose := []string{"-sf", testdata(t, "sipp/"+scenario+".xml")}
				if scenario == "uac" {
					choose = []string{"-sn", "uac", "-d", "50"}
				}
				run(t, transport, append(choose, "-m", "60", "-r", "60", r.Addr(transport).String())...)
			})
		})
	}
}

// SIPp answers: the core calls, acknowledges, hangs up.
func TestSippAnswers(t *testing.T) {
	both(t, func(t *testing.T, transport core.Transport) {
		const calls = 30
		r := newRig(t, nil)
		var hungUp sync.WaitGroup
		hungUp.Add(calls)
		var p *phone
		var target core.Target
		r.script(func(e core.Event) []core.Effect {
			if failed, ok := e.(core.TransactionFailed); ok {
				t.Errorf("event %+v", failed)
			}
			res, ok := e.(core.ResponseReceived)
			if !ok {
				return nil
			}
			in := func(method string, cseq uint32, branch string) core.Effect {
				q := outbound(p, method, res.Response.CallID)
				q.To, q.CSeq, q.Route = res.Response.To, cseq, nil
				return core.SendRequest{Txn: core.TxnID(cookie + branch + res.Response.CallID), To: target, Request: q}
			}
			switch {
			case res.Response.Status < 200:
				return nil
			case res.Response.Method == core.BYE:
				hungUp.Done()
				return nil
			}
			return []core.Effect{in(core.ACK, 4, "ack"), in(core.BYE, 5, "bye")}
		})
		cmd, local := sipp(t, transport, "-sn", "uas", "-m", fmt.Sprint(calls))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p = &phone{t: t, server: local}
		p.udp, _ = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(0)))
		t.Cleanup(p.close)
		target = toAddr(transport, local)
		waitForListener(t, transport, local)
		for i := range calls {
			q := outbound(p, "INVITE", fmt.Sprint("call", i))
			q.Route = nil
			r.Do(core.SendRequest{Txn: core.TxnID(fmt.Sprint(cookie, "inv", i)), To: target, Request: q})
		}
		hungUp.Wait()
		cmd.Process.Kill() // it would wait for repeated requests
		cmd.Wait()
	})
}

// waitForListener waits until the process has bound its port.
func waitForListener(t testing.TB, transport core.Transport, addr netip.AddrPort) {
	eventually(t, "sipp listens", func() bool {
		if transport == core.UDP {
			conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
			if err == nil {
				conn.Close()
			}
			return err != nil
		}
		ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(addr))
		if err == nil {
			ln.Close()
		}
		return err != nil
	})
}

// BenchmarkSippCall measures the CPU time of this process per INVITE-180-200-ACK-BYE, a
// core of a few lines included; SIPp is a process of its own.
func BenchmarkSippCall(b *testing.B) {
	for _, transport := range []core.Transport{core.UDP, core.TCP} {
		b.Run(string(transport), func(b *testing.B) {
			r := newRig(b, nil)
			r.script(uas())
			before, start := cpuTime(b), time.Now()
			run(b, transport, "-sn", "uac", "-d", "10", "-m", strconv.Itoa(b.N), "-r", "2000", "-l", "8000", r.Addr(transport).String())
			used := cpuTime(b) - before
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/call")
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "calls/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkSippBridge is the SIP of a queue call: INVITE-200-ACK from a caller, INVITE-180-
// 200-ACK to an agent, BYE both ways. SIPp is caller and agent, in processes of their own.
func BenchmarkSippBridge(b *testing.B) {
	for _, rate := range []int{50, 500, 2000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) { benchmarkBridge(b, rate) })
	}
}

func benchmarkBridge(b *testing.B, rate int) {
	r := newRig(b, nil)
	cmd, agent := sipp(b, core.UDP, "-sn", "uas")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	waitForListener(b, core.UDP, agent)
	r.script(bridge(toAddr(core.UDP, agent)))
	before, switches := usage(b)
	run(b, core.UDP, "-sn", "uac", "-d", "10", "-m", strconv.Itoa(b.N), "-r", fmt.Sprint(rate), "-l", "8000", r.Addr(core.UDP).String())
	eventually(b, "every call was bridged", func() bool { return r.Gauges().RequestsSent[core.BYE] >= uint64(b.N) })
	after, switched := usage(b)
	b.ReportMetric(float64((after-before).Microseconds())/float64(b.N), "us-CPU/call")
	b.ReportMetric(float64(switched-switches)/float64(b.N), "switches/call")
	b.ReportMetric(0, "ns/op")
}

// bridge is a core of a few lines that connects every caller to one agent.
func bridge(agent core.Target) func(core.Event) []core.Effect {
	callers := map[string]core.RequestReceived{}
	us := []core.Address{{URI: core.URI{Scheme: "sip", Host: "127.0.0.1", Port: 5060}}}
	send := func(method, callID string, cseq uint32, to core.Address) core.Effect {
		q := &core.Request{Method: method, URI: core.URI{Scheme: "sip", User: "agent", Host: agent.Host, Port: agent.Port}, Message: core.Message{
			From: core.Address{URI: core.URI{Scheme: "sip", Host: "q"}, Params: ";tag=ours"}, To: to, CallID: callID, CSeq: cseq, Contact: us}}
		return core.SendRequest{Txn: core.TxnID(cookie + method + callID), To: agent, Request: q}
	}
	return func(e core.Event) []core.Effect {
		switch e := e.(type) {
		case core.RequestReceived:
			switch id := e.Request.CallID; e.Request.Method {
			case core.INVITE:
				callers[id] = e
				return []core.Effect{send(core.INVITE, id, 1, core.Address{URI: core.URI{Scheme: "sip", Host: "agent"}})}
			case core.BYE:
				return []core.Effect{core.Respond{Txn: e.Txn, To: e.From, Response: e.Request.Reply(200, "")},
					send(core.BYE, id, 2, core.Address{URI: core.URI{Scheme: "sip", Host: "agent"}, Params: ";tag=theirs"})}
			}
		case core.ResponseReceived:
			caller, ok := callers[e.Response.CallID]
			if !ok || e.Response.Status != 200 || e.Response.Method != core.INVITE {
				return nil
			}
			delete(callers, e.Response.CallID)
			ok200 := caller.Request.Reply(200, "ours")
			ok200.Contact = us
			return []core.Effect{send(core.ACK, e.Response.CallID, 1, e.Response.To), core.Respond{Txn: caller.Txn, To: caller.From, Response: ok200}}
		}
		return nil
	}
}

func cpuTime(b *testing.B) time.Duration {
	used, _ := usage(b)
	return used
}

// usage returns the CPU time of this process and how often one of its threads went to sleep.
func usage(b *testing.B) (used time.Duration, switches int64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Nvcsw
}

// BenchmarkRead and BenchmarkWrite are the two conversions of an INVITE with SDP.
func BenchmarkRead(b *testing.B) {
	data := invite()
	p := newParser(1 << 16)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := read(p, data, stranger()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	m, err := read(newParser(1<<16), invite(), stranger())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		appendRequest(make([]byte, 0, 1024), m.request, m.request.Via[0], "dialtone")
	}
}

func invite() []byte {
	sdp := "v=0\r\no=- 1 1 IN IP4 192.0.2.3\r\ns=-\r\nc=IN IP4 192.0.2.3\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n"
	return fmt.Appendf(nil, "INVITE sip:5000@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.3:5060;rport;branch=z9hG4bK776asdhds\r\nMax-Forwards: 70\r\n"+
		"From: \"Alice\" <sip:alice@example.com>;tag=1928301774\r\nTo: <sip:5000@example.com>\r\nCall-ID: a84b4c76e66710@192.0.2.3\r\nCSeq: 314159 INVITE\r\n"+
		"Contact: <sip:alice@192.0.2.3:5060;transport=udp>\r\nAllow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\nSupported: timer, replaces\r\nUser-Agent: phone/1.0\r\n"+
		"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s", len(sdp), sdp)
}
