package phone

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// answerWith is the variable under which this test binary is a UAS and nothing else, so
// that the caller's CPU is measured alone.
const answerWith = "PHONE_TEST_ANSWERS"

// answerer starts a UAS by hand in a process of its own.
func answerer(t testing.TB) netip.AddrPort {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), answerWith+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(strings.TrimSpace(line))
}

func answerAll() {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	_ = conn.SetReadBuffer(socketBuffer)
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	fmt.Println(at)
	buf := make([]byte, 65536)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		m := string(buf[:n])
		switch {
		case strings.HasPrefix(m, "INVITE"):
			_, _ = conn.WriteToUDPAddrPort(reply(m, "180 Ringing", at, ""), from)
			_, _ = conn.WriteToUDPAddrPort(reply(m, "200 OK", at, audioSDP), from)
		case strings.HasPrefix(m, "BYE"):
			_, _ = conn.WriteToUDPAddrPort(reply(m, "200 OK", at, ""), from)
		}
	}
}

func reply(m, status string, at netip.AddrPort, body string) []byte {
	b := append(make([]byte, 0, 1024), "SIP/2.0 "+status+"\r\n"...)
	for line := range strings.SplitSeq(m, "\r\n") {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "Via", "From", "Call-ID", "CSeq":
			b = append(b, line+"\r\n"...)
		case "To":
			if b = append(b, line...); !strings.Contains(line, "tag=") {
				b = append(b, ";tag=peer"...)
			}
			b = append(b, "\r\n"...)
		}
	}
	b = append(b, "Contact: <sip:peer@"+at.String()+">\r\n"...)
	return append(appendBody(b, []byte(body))[:len(b):cap(b)], appendBody(nil, []byte(body))...)
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCall is a whole call (INVITE, 180, 200, ACK, BYE, 200) of a caller: the CPU time
// of all but the audio engine's threads, which work by the tick and not by the call.
func BenchmarkCall(b *testing.B) {
	e := listen(b, answerer(b), func(c *EndpointConfig) { c.T1 = time.Second })
	p := add(b, e, Config{User: "alice"})
	uri := "sip:5000@" + e.cfg.Target.Addr.String()
	b.ReportAllocs()
	used := func() time.Duration { return cpu() - e.media.Pacing().CPU }
	before := used()
	var g sync.WaitGroup
	free := make(chan struct{}, 32)
	for b.Loop() {
		free <- struct{}{}
		g.Go(func() {
			defer func() { <-free }()
			c, err := p.Call(b.Context(), uri)
			if err != nil {
				b.Error(err)
				return
			}
			if err := c.HangUp(b.Context()); err != nil {
				b.Error(err)
			}
		})
	}
	g.Wait()
	b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/call")
	b.ReportMetric(float64(e.Stats().Resent)/float64(b.N), "resent/call")
}

// BenchmarkRead is the reading of one message, a 200 with SDP.
func BenchmarkRead(b *testing.B) {
	wire := reply("INVITE x SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:40000;branch=z9hG4bKabcdefghijklmnopq;rport\r\nFrom: <sip:alice@127.0.0.1>;tag=abcdefghijkl\r\n"+
		"To: <sip:5000@127.0.0.1:5060>\r\nCall-ID: abcdefghijklmnopqrstuvwxyz\r\nCSeq: 1 INVITE\r\n", "200 OK", netip.MustParseAddrPort("127.0.0.1:5060"), audioSDP)
	p := newParser()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := read(p, wire); err != nil {
			b.Fatal(err)
		}
	}
}
