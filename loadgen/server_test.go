package loadgen

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

const password = "pw-of-the-agents"

// program is the binary that these tests run: the generator and a server to call, which is a
// process of its own. The generator knows nothing of it.
func program(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts servers; not with -short")
	}
	path := filepath.Join(t.TempDir(), "dialtone")
	if out, err := exec.Command("go", "build", "-o", path, "..").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// server is a `dialtone dev` on ports of its own.
type server struct {
	sip, http string
	process   *os.Process
}

const operatorKey = "dt_operator_ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// dev starts a server. Ports that were free may be taken a moment later by somebody else: then
// it ends, and others are tried.
func dev(t *testing.T, binary string) server {
	t.Helper()
	for range 3 {
		if s, ok := tryDev(t, binary); ok {
			return s
		}
	}
	t.Fatal("no server starts")
	return server{}
}

func tryDev(t *testing.T, binary string) (server, bool) {
	t.Helper()
	port := func() string { // free for both, as SIP takes both
		for range 20 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			u, err := net.ListenPacket("udp", l.Addr().String())
			_ = l.Close()
			if err == nil {
				_ = u.Close()
				return l.Addr().String()
			}
		}
		t.Fatal("no port is free for TCP and UDP")
		return ""
	}
	s := server{sip: port(), http: port()}
	rtp := 8_800 + 400*rand.IntN(3) // this package's area (server/README.md)
	log, err := os.Create(filepath.Join(t.TempDir(), "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "dev", "--sip", s.sip, "--http", s.http, "--rtp", fmt.Sprintf("%d-%d", rtp, rtp+399), "--data", t.TempDir())
	cmd.Env = append(os.Environ(), "DIALTONE_AGENT_PASSWORD="+password, "DIALTONE_OPERATOR_KEY="+operatorKey)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.process = cmd.Process
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the server:\n%.4000s", text)
		}
	})
	client := http.Client{Timeout: 5 * time.Second}
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); {
		resp, err := client.Get("http://" + s.http + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, true
			}
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Logf("the server ended:\n%.2000s", text)
			return s, false
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("the server is not ready in 90 s")
	return s, false
}

// flags are those of the common case, but the password, which is in the environment.
func (s server) flags(path string, more ...string) []string {
	return append([]string{"loadgen", "--target", "udp:" + s.sip, "--to", "sip:5000@demo.localhost", "--agents", "20", "--agent-uri", "sip:{1001..1020}@demo.localhost",
		"--json", path}, more...)
}

// process is a generator that runs.
type process struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	lines  chan string // of stderr
	read   sync.WaitGroup
	said   strings.Builder
}

func start(t *testing.T, binary string, environ []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, args...), lines: make(chan string, 1000)}
	p.cmd.Env = append(append(os.Environ(), "DIALTONE_AGENT_PASSWORD="+password), environ...)
	p.cmd.Stdout = &p.stdout
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.read.Go(func() {
		defer close(p.lines)
		scan := bufio.NewScanner(stderr)
		for scan.Scan() {
			p.said.WriteString(scan.Text() + "\n")
			select {
			case p.lines <- scan.Text():
			default:
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
	})
	return p
}

// until waits for a line of stderr.
func (p *process) until(t *testing.T, text string) string {
	t.Helper()
	timeout := time.After(90 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("it ended without %q:\n%s", text, p.said.String())
			}
			if strings.Contains(line, text) {
				return line
			}
		case <-timeout:
			t.Fatalf("no %q in 90 s", text)
		}
	}
}

// end waits for the exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(2*time.Minute, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	p.read.Wait()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// The whole path, in three processes: callers, queue, agents, audio both ways, and the server's
// own records beside what the phones saw.
func TestLoadThroughAServer(t *testing.T) {
	t.Parallel()
	binary := program(t)
	s := dev(t, binary)
	dir := t.TempDir()
	path := filepath.Join(dir, "out.json")
	p := start(t, binary, []string{"DIALTONE_API_KEY=" + operatorKey}, s.flags(path, "--rate", "3/s", "--duration", "5s", "--hold", "800ms", "--answer-after", "200ms", "--workers", "3", "--agents", "7",
		"--api", "http://"+s.http, "--api-tenant", "demo", "--slo", "dropped==0,completed==15", "--html", filepath.Join(dir, "out.html"))...)
	code := p.end(t)
	res, calls := read(t, path)
	onlyPacing(t, res)
	if code != res.ExitCode() || res.Valid && code != exitPassed {
		t.Errorf("exit code %d, the result says %d\n%s%s", code, res.ExitCode(), p.said.String(), p.stdout.String())
	}
	if res.Workers != 3 || len(res.Machines) != 1 || res.Counts.Completed != 15 || len(calls) != 15 {
		t.Fatalf("%d workers, %+v, %v\n%s", res.Workers, res.Counts, res.Reasons, p.said.String())
	}
	elsewhere, seen := 0, map[int64]bool{}
	for _, c := range calls {
		if seen[c.Index] || c.Worker != int(c.Index%3) || c.Due != measure.Micros(c.Index)*1_000_000/3 || c.FreeAgents < 1 || c.Offers != 1 || c.Agent == "" {
			t.Errorf("%+v", c)
		}
		seen[c.Index] = true
		order := []measure.Micros{c.Due, c.Invited, c.Offered, c.AgentRang, c.AgentAnswer, c.AgentAck, c.HungUp, c.OtherBye, c.Ended}
		for i := range order[1:] {
			if order[i+1] < order[i] {
				t.Errorf("call %d: moments out of order: %v", c.Index, order)
			}
		}
		if n, _ := strconv.Atoi(c.Agent); c.Worker != whose(n-1001) {
			elsewhere++ // its agent is in another process
		}
		if c.CallerEar == nil || c.AgentEar == nil || c.AgentEar.Received == 0 {
			t.Errorf("call %d: caller hears %+v, agent hears %+v", c.Index, c.CallerEar, c.AgentEar)
			continue
		}
		for _, ear := range []*measure.Audio{c.CallerEar, c.AgentEar} { // by the clock of the run, as all moments
			if ear.Voice > 0 && (ear.First < c.AgentAnswer-100_000 || ear.First > c.Ended) {
				t.Errorf("call %d: answered at %d, heard at %d", c.Index, c.AgentAnswer, ear.First)
			}
		}
	}
	if elsewhere == 0 {
		t.Error("no call between two processes: the halves were never joined across them")
	}
	records := res.Verdicts[len(res.Verdicts)-1]
	if records.Metric != "server_records" || !records.Passed {
		t.Errorf("%+v", records)
	}
	for _, name := range []string{"out.json", "out.calls.jsonl", "out.html"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || bytes.Contains(text, []byte(password)) || bytes.Contains(text, []byte(operatorKey)) {
			t.Errorf("%s: %v, or it holds a secret", name, err)
		}
	}
	if code, stdout, stderr := load(t, nil, "recompute", path); code != exitPassed {
		t.Errorf("recompute: %d %s %s", code, stdout, stderr)
	}
	t.Run("behaviours", func(t *testing.T) { behaviours(t, binary, s) })
	t.Run("patience", func(t *testing.T) { patience(t, binary, s) })
	t.Run("wrong password", func(t *testing.T) { wrongPassword(t, binary, s) })
	t.Run("interrupted", func(t *testing.T) { interrupted(t, binary, s) })
	t.Run("a worker dies", func(t *testing.T) { workerDies(t, binary, s) })
	t.Run("other machines", func(t *testing.T) { otherMachines(t, binary, s) })
}

// whose says which of three workers has agent i of seven. They register side by side, so the first
// round of calls may meet its own worker's agents; the second one, seven calls later, cannot.
func whose(i int) int {
	for k := range 3 {
		if i < 7*(k+1)/3 {
			return k
		}
	}
	return -1
}

// Agents hold and hang up, all of them.
func behaviours(t *testing.T, binary string, s server) {
	dir := t.TempDir()
	path, profile := filepath.Join(dir, "out.json"), filepath.Join(dir, "load.yaml")
	text := "agents:\n  behaviours:\n    - {do: hold, share: 100%, after: 300ms, for: 400ms}\nagent_hangs_up: 100%\n"
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, binary, nil, s.flags(path, "--profile", profile, "--rate", "poisson:3/s", "--duration", "2s", "--hold", "1500ms", "--answer-after", "uniform:50ms..150ms", "--seed", "2")...)
	p.end(t)
	res, calls := read(t, path)
	onlyPacing(t, res)
	if res.Counts.Completed != res.Counts.Offered || res.Counts.Offered == 0 {
		t.Errorf("%+v %v", res.Counts, res.Reasons)
	}
	for _, c := range calls {
		// On hold the caller hears the server's music: packets that are not the agent's voice.
		if c.HungUp < c.AgentAnswer+1_400_000 || c.OtherBye < c.HungUp || c.CallerEar == nil || c.CallerEar.Received <= c.CallerEar.Voice {
			t.Errorf("%+v %+v", c, c.CallerEar)
		}
	}
}

func patience(t *testing.T, binary string, s server) {
	path := filepath.Join(t.TempDir(), "out.json")
	p := start(t, binary, nil, s.flags(path, "--rate", "4/s", "--duration", "1s", "--patience", "700ms", "--answer-after", "4s")...)
	p.end(t)
	res, calls := read(t, path)
	onlyPacing(t, res)
	if res.Counts.Abandoned != 4 {
		t.Errorf("%+v %v", res.Counts, res.Reasons)
	}
	for _, c := range calls {
		if c.AgentAnswer != measure.Never || c.HungUp < c.Invited+650_000 {
			t.Errorf("%+v", c)
		}
	}
}

func wrongPassword(t *testing.T, binary string, s server) {
	path := filepath.Join(t.TempDir(), "out.json")
	for environ, says := range map[string]string{"DIALTONE_AGENT_PASSWORD=not-it": "agent 1001 is refused (401): is its password right?", "DIALTONE_AGENT_PASSWORD=": "the server wants a password"} {
		p := start(t, binary, []string{environ}, s.flags(path, "--rate", "1/s", "--duration", "1s")...)
		if code := p.end(t); code != exitInvalid || !strings.Contains(p.said.String(), says) || strings.Contains(p.said.String(), "not-it") {
			t.Errorf("exit code %d: %s", code, p.said.String())
		}
		if _, err := os.Stat(callsPath(path)); err == nil {
			t.Error("a load that never began left a calls file")
		}
	}
}

// Ctrl-C: everybody hangs up, the results are written, and they are marked.
func interrupted(t *testing.T, binary string, s server) {
	path := filepath.Join(t.TempDir(), "out.json")
	p := start(t, binary, nil, s.flags(path, "--rate", "4/s", "--duration", "60s", "--hold", "30s", "--answer-after", "100ms", "--workers", "2")...)
	p.until(t, "240 calls in 1m0s")
	time.Sleep(3 * time.Second) // some calls
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	code := p.end(t)
	res, calls := read(t, path)
	if code != exitInvalid || !strings.Contains(strings.Join(res.Invalid, "\n"), "interrupted after") {
		t.Errorf("exit code %d: %q", code, res.Invalid)
	}
	if len(calls) == 0 || len(calls) >= 240 || res.Counts.Failed > 0 || time.Duration(res.Duration)*time.Microsecond > 40*time.Second {
		t.Errorf("%+v in %v: %v", res.Counts, time.Duration(res.Duration)*time.Microsecond, res.Reasons)
	}
}

func workerDies(t *testing.T, binary string, s server) {
	path := filepath.Join(t.TempDir(), "out.json")
	p := start(t, binary, nil, s.flags(path, "--rate", "4/s", "--duration", "5s", "--hold", "500ms", "--answer-after", "100ms", "--drain", "2s", "--patience", "3s", "--workers", "2")...)
	p.until(t, "20 calls in 5s")
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	pids := strings.Fields(string(children))
	if err != nil || len(pids) == 0 { // a child belongs to the thread that started it
		pids = childrenOf(t, p.cmd.Process.Pid)
	}
	if len(pids) != 2 {
		t.Fatalf("workers: %q", pids)
	}
	pid, _ := strconv.Atoi(pids[1])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	code := p.end(t)
	res, _ := read(t, path)
	if why := strings.Join(res.Invalid, "\n"); code != exitInvalid || !strings.Contains(why, "died: it ended with signal: killed; its calls are missing") {
		t.Errorf("exit code %d: %q", code, res.Invalid)
	}
	if res.Counts.Offered == 0 || res.Counts.Offered == 20 {
		t.Errorf("the other worker did not go on, or the dead one did: %+v", res.Counts)
	}
}

func childrenOf(t *testing.T, pid int) (pids []string) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil {
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	return pids
}

// Two joiners and a coordinator that makes no calls itself.
func otherMachines(t *testing.T, binary string, s server) {
	path := filepath.Join(t.TempDir(), "out.json")
	token := []string{"DIALTONE_JOIN_TOKEN=a token of more than sixteen"}
	p := start(t, binary, token, s.flags(path, "--rate", "4/s", "--duration", "2s", "--hold", "500ms", "--answer-after", "100ms", "--workers", "0", "--coordinate", "127.0.0.1:0", "--await", "2")...)
	line := p.until(t, "workers to join at ")
	addr := line[strings.LastIndexByte(line, ' ')+1:]
	stranger := start(t, binary, []string{"DIALTONE_JOIN_TOKEN=another one of sixteen"}, "loadgen", "--join", addr)
	if code := stranger.end(t); code != exitInvalid || !strings.Contains(stranger.said.String(), "is the join token the same") {
		t.Errorf("a stranger: exit code %d, %s", code, stranger.said.String())
	}
	a, b := start(t, binary, token, "loadgen", "--join", addr), start(t, binary, token, "loadgen", "--join", addr)
	codes := []int{p.end(t), a.end(t), b.end(t)}
	res, _ := read(t, path)
	onlyPacing(t, res)
	if res.Workers != 2 || res.Counts.Completed != 8 || codes[1] != exitPassed || codes[2] != exitPassed {
		t.Errorf("exit codes %v, %d workers, %+v %v\n%s%s", codes, res.Workers, res.Counts, res.Reasons, a.said.String(), b.said.String())
	}
}

// The load goes on, the calls fail, and there is a report. It waits for as long as parties do that
// nobody answers, so it has a server of its own, beside the others.
func TestTheServerDies(t *testing.T) {
	t.Parallel()
	binary := program(t)
	s := dev(t, binary)
	path := filepath.Join(t.TempDir(), "out.json")
	p := start(t, binary, nil, s.flags(path, "--rate", "4/s", "--duration", "6s", "--hold", "2s", "--answer-after", "100ms", "--drain", "1s", "--slo", "failed==0")...)
	p.until(t, "24 calls in 6s")
	time.Sleep(3 * time.Second) // some calls are up
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	code := p.end(t)
	res, calls := read(t, path)
	if code == exitPassed || res.Counts.Offered != 24 || len(calls) != 24 {
		t.Errorf("exit code %d, %+v", code, res.Counts)
	}
	if res.Counts.Failed+res.Counts.Cut < 10 {
		t.Errorf("%+v %v", res.Counts, res.Reasons)
	}
}
