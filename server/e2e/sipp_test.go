package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sipp is one process of SIPp with one scenario of testdata/sipp.
type sipp struct {
	*process
	t    testing.TB
	dir  string
	name string
	port int
}

// scenario is what a process of sipp is told.
type scenario struct {
	file    string
	to      string // HOST:PORT of the server; "" for one who waits for calls
	number  string
	host    string // of the Request-URI; the server's address when empty
	tcp     bool
	port    int // own; one is chosen when 0
	mouth   *mouth
	calls   int // 1 when 0
	pause   time.Duration
	status  int // of an agent who rejects
	keys    map[string]string
	options []string
}

// startSipp starts SIPp and returns when it listens, or at once when it calls.
func startSipp(t testing.TB, c scenario) *sipp {
	t.Helper()
	path := tool(t, "sipp", "sip-tester")
	text, err := os.ReadFile(filepath.Join("testdata", "sipp", c.file+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	p := &sipp{t: t, dir: workdir(t, "sipp-"+c.file), name: c.file, port: c.port}
	file := filepath.Join(p.dir, c.file+".xml")
	// A status is checked by sipp before it puts in the keys.
	text = bytes.ReplaceAll(text, []byte("[status]"), []byte(strconv.Itoa(c.status)))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if p.port == 0 {
		p.port = ports(t, 4)
	}
	args := []string{"-sf", file, "-i", "127.0.0.1", "-p", strconv.Itoa(p.port), "-cp", strconv.Itoa(p.port + 2), "-mi", "127.0.0.1", "-mp", strconv.Itoa(ports(t, 4)),
		"-t", map[bool]string{false: "u1", true: "t1"}[c.tcp], "-nostdin", "-timeout", "60s", "-timeout_error", "-m", strconv.Itoa(max(1, c.calls)),
		"-trace_err", "-error_file", filepath.Join(p.dir, "errors"), "-trace_logs", "-log_file", filepath.Join(p.dir, "log"),
		"-cid_str", p.callID("%u"), "-d", strconv.Itoa(int(c.pause.Milliseconds()))}
	if c.calls <= 5 {
		args = append(args, "-trace_msg", "-message_file", filepath.Join(p.dir, "messages"))
	}
	keys := map[string]string{"domain": demoDomain, "host": c.host, "audio": "9", "payload": "0", "format": "PCMU/8000"}
	if c.host == "" {
		keys["host"] = c.to
	}
	if c.mouth != nil {
		keys["audio"], keys["payload"], keys["format"] = strconv.Itoa(c.mouth.port()), strconv.Itoa(int(c.mouth.format.payload)), c.mouth.format.name
	}
	for k, v := range c.keys {
		keys[k] = v
	}
	for k, v := range keys {
		args = append(args, "-key", k, v)
	}
	if c.number != "" {
		args = append(args, "-s", c.number)
	}
	args = append(args, c.options...)
	if c.to != "" {
		args = append(args, c.to)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = p.dir
	p.process = spawn(t, cmd, filepath.Join(p.dir, "screen"))
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("sipp %s: %s\n%s", p.name, tail(filepath.Join(p.dir, "screen"), 12), p.read("errors"))
		}
	})
	if c.mouth != nil {
		go c.mouth.follow(p)
	}
	if c.to == "" {
		eventually(t, "sipp listens", func() bool { return !allFree(p.port, 2) })
	}
	return p
}

func (p *sipp) callID(n string) string { return fmt.Sprintf("%s-%d-%s", p.name, p.port, n) }

// read returns what sipp wrote to one of its files.
func (p *sipp) read(name string) string {
	content, _ := os.ReadFile(filepath.Join(p.dir, name))
	return string(content)
}

// noted counts a line that the scenario logs.
func (p *sipp) noted(what string) (n int) {
	for line := range strings.Lines(p.read("log")) {
		if strings.TrimSpace(line) == what {
			n++
		}
	}
	return n
}

// succeeds waits for the end of the scenario, which must be as it is written.
func (p *sipp) succeeds() {
	p.t.Helper()
	if code := p.status(p.t, patience); code != 0 {
		p.t.Fatalf("sipp %s: exit code %d\n%s", p.name, code, tail(filepath.Join(p.dir, "errors"), 30))
	}
}

// cue tells a caller to hang up.
func (p *sipp) cue() {
	p.t.Helper()
	conn, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", p.port))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "INFO sip:cue@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKcue\r\nFrom: <sip:test@127.0.0.1>;tag=1\r\nTo: <sip:cue@127.0.0.1>\r\n"+
		"Call-ID: %s\r\nCSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n", conn.LocalAddr(), p.callID("1"))
}

// registerSipp registers an agent's address for a sipp that listens on a port. It goes by
// UDP also for one that takes calls over TCP: the connection of a process that ends would
// take the binding along.
func registerSipp(t testing.TB, s *server, user string, port int, tcp bool) {
	t.Helper()
	startSipp(t, scenario{file: "register", to: s.sip.String(), number: user,
		keys: map[string]string{"cport": strconv.Itoa(port), "ctransport": map[bool]string{false: "udp", true: "tcp"}[tcp]}, options: []string{"-au", user, "-ap", password}}).succeeds()
}

// sippAgent is an agent whose phone is a sipp: it listens, registers and is ready.
func sippAgent(t testing.TB, d desk, n int, c scenario) *sipp {
	t.Helper()
	p := startSipp(t, c)
	registerSipp(t, d.s, d.agents[n], p.port, c.tcp)
	d.reaches(t, n, "ready", "idle")
	return p
}

// sippCaller dials a desk.
func sippCaller(t testing.TB, d desk, c scenario) *sipp {
	t.Helper()
	c.to, c.number = d.s.sip.String(), d.number
	return startSipp(t, c)
}
