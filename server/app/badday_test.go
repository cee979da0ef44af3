package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

// The tests named TestBadDay… run the program as a process of its own and see of it what an
// operator sees: SIP, audio, the API, metrics, log, exit code. The process is this very test
// binary, which then does nothing but Command; so the race detector is in it when it is here.

// Variables that make a process of the test binary.
const (
	roleVariable  = "BADDAY_ROLE"    // node or etcd; else the tests run
	t1Variable    = "BADDAY_T1"      // RFC 3261 T1 of a node, for transactions that end within seconds
	filesVariable = "BADDAY_FILES"   // how many files a node may have open
	longVariable  = "DIALTONE_LONG"  // "1": outages last a minute
	etcdVariable  = "BADDAY_ETCD_AT" // where an etcd listens
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		go orphan()
	}
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler)) // of the phones
	switch os.Getenv(roleVariable) {
	case "node":
		os.Exit(beNode())
	case "etcd":
		os.Exit(beEtcd())
	}
	os.Exit(m.Run())
}

// orphan ends a child whose tests are gone, however they ended.
func orphan() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(3)
}

// beNode is what main.go does for `dialtone dev` and `dialtone server`. SIGUSR2 collects
// garbage, so that what is left of the heap is what is really held.
func beNode() int {
	if t1, err := time.ParseDuration(os.Getenv(t1Variable)); err == nil {
		sip.SetTimers(t1, 8*t1, 10*t1)
	}
	if files, err := strconv.ParseUint(os.Getenv(filesVariable), 10, 64); err == nil {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	collect := make(chan os.Signal, 1)
	signal.Notify(collect, syscall.SIGUSR2)
	go func() {
		for range collect {
			debug.FreeOSMemory()
		}
	}()
	return Command(config.Command(os.Args[1]), os.Args[2:], os.Environ(), telemetry.Build{Version: "test"}, os.Stdout, os.Stderr)
}

// beEtcd is an etcd with sockets, until it is killed.
func beEtcd() int {
	etcd, err := etcdstore.Embed(context.Background(), etcdstore.EmbedConfig{Dir: os.Args[1], Listen: os.Getenv(etcdVariable)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Println(etcd.Addr())
	select {} // the test kills it
}

// The secrets of every node. Each is a word that occurs nowhere else.
const (
	secretOperator = "operator-key-xyzzy-4711-plugh"
	secretPassword = "agent-password-frobozz-0815"
	wrongPassword  = "wrong-password-quux-2342"
)

// process is a child with its output.
type process struct {
	*exec.Cmd
	name   string
	stdout *bufio.Reader
	log    string // file with its stderr
	ended  chan struct{}
	code   int
}

// freeAddress returns an address of loopback that is free for UDP and TCP, and that stays
// the same when a child is started again.
func freeAddress() string {
	for {
		tcp, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "127.0.0.1:0"
		}
		at := tcp.Addr().String()
		udp, err := net.ListenPacket("udp4", at)
		_ = tcp.Close()
		if err == nil {
			_ = udp.Close()
			return at
		}
	}
}

// spawn starts a child; it is killed at the end of the test at the latest.
func spawn(t *testing.T, name string, environ []string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), name: name, ended: make(chan struct{}),
		log: filepath.Join(t.TempDir(), name+".log")}
	p.Env = append(os.Environ(), environ...)
	if _, err := p.StdinPipe(); err != nil { // its end is what orphan waits for
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	stderr, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	p.Stderr = stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	return p
}

// line reads the first line of stdout: every child says where it is when it is ready.
func (p *process) line() (string, error) {
	line, err := p.stdout.ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, p.stdout)
		_ = p.Wait()
		p.code = p.ProcessState.ExitCode()
		close(p.ended)
	}()
	return strings.TrimSpace(line), err
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatalf("signal %v to %s: %v", s, p.name, err)
	}
}

func (p *process) kill() {
	_ = p.Process.Signal(syscall.SIGKILL) // works on a stopped one too
	<-p.ended
}

// exit waits for the end and returns the exit code.
func (p *process) exit(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.code
	case <-time.After(within):
		t.Fatalf("%s did not end within %s; its log:\n%s", p.name, within, p.tail())
		return -1
	}
}

func (p *process) said() string {
	content, _ := os.ReadFile(p.log)
	return string(content)
}

// tail is the end of the log, as it is without --log-level debug.
func (p *process) tail() string {
	var lines []string
	for line := range strings.Lines(p.said()) {
		if !strings.Contains(line, `"level":"DEBUG"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-30):], "")
}

// startNode's twin for a process of its own.
type child struct {
	*process
	args    []string
	environ []string
	banner  banner
	sip     netip.AddrPort
	tcp     string
	dir     string
	client  *http.Client

	mu      sync.Mutex
	secrets []string        // that this node has seen
	answers strings.Builder // of the API, without those that show a new key
}

// rtpPorts gives every node of this package a range of its own.
var rtpPorts atomic.Uint32

const (
	firstRTP = 4800
	rtpWidth = 400
	rtpCount = 4000
)

// startChild starts `dialtone dev`, or `dialtone server` when that is the first argument,
// on free ports and waits until it is ready. At the end of the test it is ended, and its
// log, metrics, answers and flight record are searched for secrets and panics.
func startChild(t *testing.T, dir string, args ...string) *child {
	t.Helper()
	c := newChild(dir, args...)
	c.start(t)
	t.Cleanup(func() { c.close(t) })
	return c
}

func newChild(dir string, args ...string) *child {
	command := "dev"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	from := firstRTP + rtpPorts.Add(rtpWidth)%rtpCount
	c := &child{dir: dir, client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		environ: []string{roleVariable + "=node", "DIALTONE_OPERATOR_KEY=" + secretOperator, "DIALTONE_AGENT_PASSWORD=" + secretPassword},
		secrets: []string{secretOperator, secretPassword, wrongPassword}}
	c.secrets = append(c.secrets, storedForms(demoDomain, secretPassword)...)
	c.args = append([]string{command, "--data", dir, "--sip", freeAddress(), "--http", "127.0.0.1:0",
		"--rtp", fmt.Sprintf("%d-%d", from, from+rtpWidth-1), "--log-level", "debug", "--log-format", "json", "--json"}, args...)
	return c
}

// start starts the process, for the first time or again on the same data.
func (c *child) start(t *testing.T) {
	t.Helper()
	c.process = spawn(t, "node", c.environ, c.args...)
	line, err := c.line()
	if err != nil {
		t.Fatalf("the node did not start: exit code %d\n%s", c.exit(t, 10*time.Second), c.tail())
	}
	if err := json.Unmarshal([]byte(line), &c.banner); err != nil {
		t.Fatalf("banner %q: %v", line, err)
	}
	c.sip, c.tcp = netip.MustParseAddrPort(c.banner.SIP), c.banner.SIPTCP
}

// close ends the node as an operator does, and judges what it has said.
func (c *child) close(t *testing.T) {
	select {
	case <-c.ended:
	default:
		c.dump(t)
		for _, path := range []string{"/metrics", "/openapi.json", "/readyz"} {
			if _, _, err := c.try("GET", path, "", ""); err != nil {
				t.Errorf("GET %s at the end: %v", path, err)
			}
		}
		_ = c.Process.Signal(syscall.SIGTERM)
		await(t, "the drain begins", func() bool { return strings.Contains(c.said(), `"msg":"draining:`) })
		_ = c.Process.Signal(syscall.SIGTERM) // the second ends at once
		select {
		case <-c.ended:
		case <-time.After(20 * time.Second):
			t.Errorf("the node did not end within 20 s of two SIGTERM")
			c.kill()
		}
	}
	c.judge(t)
	if t.Failed() {
		t.Logf("the end of the node's log:\n%s", c.tail())
	}
}

// end drains a node that has nothing left to do.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.dump(t)
	c.signal(t, syscall.SIGTERM)
	if code := c.exit(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d: %s", code, c.tail())
	}
}

// dump has the flight record written and waits for it.
func (c *child) dump(t *testing.T) {
	t.Helper()
	before := len(c.flights())
	if c.Process.Signal(syscall.SIGUSR1) != nil {
		return
	}
	await(t, "the flight record", func() bool {
		files := c.flights()
		return len(files) != before && strings.Contains(c.said(), files[len(files)-1]) || strings.Contains(c.said(), "no space left")
	})
}

func (c *child) flights() []string {
	files, _ := filepath.Glob(filepath.Join(c.dir, "flight-*.txt"))
	return files
}

// judge searches all that the node has said for secrets, panics and races.
func (c *child) judge(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	texts := map[string]string{"the log": c.said(), "the API's answers": c.answers.String()}
	for _, name := range c.flights() {
		content, _ := os.ReadFile(name)
		texts["the flight record"] += string(content)
	}
	for where, text := range texts {
		for _, secret := range c.secrets {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s shows the secret %q: …%s…", where, secret, text[max(0, at-200):min(len(text), at+200)])
			}
		}
		for _, sign := range []string{"panic", "goroutine 1 [", "DATA RACE", "the core broke", "fatal error"} {
			if at := strings.Index(text, sign); at >= 0 && where == "the log" {
				t.Errorf("%s holds %q: %s", where, sign, text[max(0, at-200):min(len(text), at+3000)])
			}
		}
	}
}

// hide adds a secret to those that must not be seen.
func (c *child) hide(secrets ...string) {
	c.mu.Lock()
	c.secrets = append(c.secrets, secrets...)
	c.mu.Unlock()
}

// try asks the API with the operator's key for a tenant ("": demo).
func (c *child) try(method, path, body, tenant string) (int, string, error) {
	if tenant == "" {
		tenant = "demo"
	}
	r, err := http.NewRequest(method, c.banner.HTTP+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+secretOperator)
	r.Header.Set("Dialtone-Tenant", tenant)
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	c.keepAnswer(content)
	return answer.StatusCode, string(content), err
}

// keepAnswer keeps what the API said, to be searched. A new key is shown once by design;
// from then on it is a secret.
func (c *child) keepAnswer(content []byte) {
	var made struct {
		Key string `json:"api_key"`
	}
	_ = json.Unmarshal(content, &made)
	c.mu.Lock()
	defer c.mu.Unlock()
	if made.Key != "" {
		c.secrets = append(c.secrets, made.Key)
		content = bytes.ReplaceAll(content, []byte(made.Key), nil)
	}
	if c.answers.Len() < 8<<20 {
		c.answers.Write(content)
	}
}

// ask is try where an answer with one of the statuses is wanted.
func (c *child) ask(t *testing.T, method, path, body string, want ...int) string {
	t.Helper()
	status, content, err := c.try(method, path, body, "")
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	for _, s := range want {
		if s == status {
			return content
		}
	}
	t.Fatalf("%s %s: %d, wanted %v: %s", method, path, status, want, content)
	return ""
}

// ready returns the status of /readyz, 0 when it did not answer.
func (c *child) ready() int {
	status, _, _ := c.try("GET", "/readyz", "", "")
	return status
}

// metrics reads all figures; of those with labels each is under its full name.
func (c *child) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(c.ask(t, "GET", "/metrics", "", 200)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err == nil {
			all[name] = v
		}
	}
	return all
}

// await waits for a condition, for at most 20 seconds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// heap returns the bytes that are held after a collection.
func (c *child) heap(t *testing.T) float64 {
	t.Helper()
	before := c.metrics(t)["go_gc_duration_seconds_count"]
	c.signal(t, syscall.SIGUSR2)
	var now map[string]float64
	await(t, "garbage is collected", func() bool { now = c.metrics(t); return now["go_gc_duration_seconds_count"] >= before+1 })
	return now["go_memstats_heap_alloc_bytes"]
}

// cdr is what the tests read of a finished interaction.
type cdr struct {
	ID          string    `json:"id"`
	Phase       string    `json:"phase"`
	Caller      string    `json:"caller"`
	Agent       string    `json:"agent"`
	EndedAt     time.Time `json:"ended_at"`
	Termination struct {
		Result string `json:"result"`
		Reason string `json:"reason"`
		By     string `json:"hung_up_by"`
	} `json:"termination"`
	Timeline []struct {
		What string `json:"what"`
	} `json:"timeline"`
}

// cdrs reads every finished interaction of the tenant, page by page.
func (c *child) cdrs(tenant string) ([]cdr, error) {
	var all []cdr
	for after := ""; ; {
		status, body, err := c.try("GET", "/v1/interactions?phase=ended&limit=100&after="+after, "", tenant)
		if err != nil || status != 200 {
			return nil, errors.Join(err, fmt.Errorf("status %d: %s", status, body))
		}
		page, next := interactionsIn(body)
		all = append(all, page...)
		if after = next; after == "" {
			return all, nil
		}
	}
}

// interactionsIn reads one page, and where the next one begins.
func interactionsIn(body string) (data []cdr, next string) {
	var page struct {
		Data []cdr  `json:"data"`
		Next string `json:"next"`
	}
	_ = json.Unmarshal([]byte(body), &page)
	return page.Data, page.Next
}

// oneCDR waits until the caller has a CDR and returns it; two are an error, now and later:
// each test calls it again at its end.
func (c *child) oneCDR(t *testing.T, tenant, caller string) (found cdr) {
	t.Helper()
	await(t, "one CDR of "+caller, func() bool {
		all, err := c.cdrs(tenant)
		n := 0
		for _, one := range all {
			if one.Caller == caller {
				found = one
				n++
			}
		}
		if n > 1 {
			t.Fatalf("caller %s has %d CDRs", caller, n)
		}
		return err == nil && n == 1
	})
	return found
}

// agentState returns what an agent does.
func (c *child) agentState(tenant, id string) string {
	status, body, err := c.try("GET", "/v1/agents/"+id, "", tenant)
	if err != nil || status != 200 {
		return fmt.Sprint(status, err)
	}
	var agent struct {
		State  string `json:"state"`
		Status string `json:"status"`
	}
	_ = json.Unmarshal([]byte(body), &agent)
	return agent.Status + " " + agent.State
}
