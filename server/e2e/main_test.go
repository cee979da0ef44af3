// Package e2e runs the real program against real phones: sipp, baresip, linphone and our
// own. Nothing of the server is linked in; what is known of it comes by SIP, RTP and the
// API, as for its users. Sound is judged by its content.
package e2e

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// suite is what all tests of a run share.
var suite struct {
	program string    // the binary under test
	dir     string    // of the run
	forks   chan fork // processes to start
	common  shared    // the server of the tests that harm nobody
	ports   atomic.Uint32
}

// patience is how long anything may take that should be done soon; the machine may be busy.
const patience = 25 * time.Second

func TestMain(m *testing.M) {
	os.Exit(func() int {
		flag.Parse()
		if testing.Short() {
			fmt.Println("e2e: skipped, it needs phones and minutes")
			return 0
		}
		if f := flag.Lookup("test.parallel"); f.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
			_ = f.Value.Set("4") // tests mostly wait for phones
		}
		dir, err := os.MkdirTemp("", "dialtone-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		suite.dir, suite.program, suite.forks = dir, filepath.Join(dir, "dialtone"), make(chan fork)
		suite.ports.Store(uint32(os.Getpid()) % 120 * 100) // two runs at a time should not meet
		go startProcesses(suite.forks)
		if given := os.Getenv("DIALTONE_E2E_PROGRAM"); given != "" {
			suite.program = given // judge this one
		} else if out, err := exec.Command("go", "build", "-o", suite.program, "../..").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: go build: %v\n%s", err, out)
			return 1
		}
		code := m.Run()
		suite.common.end()
		if code == 0 {
			_ = os.RemoveAll(dir)
		}
		return code
	}())
}

type fork struct {
	cmd  *exec.Cmd
	done chan error
}

// startProcesses starts every child from one thread that never ends: the kernel kills a
// child with Pdeathsig when the thread that started it ends, and so none outlives the run,
// also when the run is killed.
func startProcesses(forks <-chan fork) {
	runtime.LockOSThread()
	for f := range forks {
		f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		f.done <- f.cmd.Start()
	}
}

// process is a child.
type process struct {
	*exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // of Wait, after ended
}

// spawn starts a child whose output goes to a file.
func spawn(t testing.TB, cmd *exec.Cmd, output string) *process {
	t.Helper()
	file, err := os.OpenFile(output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	f := fork{cmd, make(chan error, 1)}
	suite.forks <- f
	if err := <-f.done; err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p
}

// kill ends a child as a power cut would, and returns when it is gone.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// status waits for the child's end and returns its exit code.
func (p *process) status(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		t.Fatalf("%s still runs after %s", filepath.Base(p.Path), within)
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		t.Fatal(p.err)
	}
	return p.ProcessState.ExitCode()
}

// tool finds a phone or a tool that a test can't do without.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	reason := fmt.Sprintf("%s is not installed: apt-get install %s (make test does)", name, pkg)
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
	return ""
}

// workdir is a directory of the test that stays when the test fails.
func workdir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dialtone-e2e-"+strings.ReplaceAll(t.Name(), "/", "-")+"-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: kept in %s", name, dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// Ports of this suite (server/README.md): below those that the kernel gives out, above
// those that anybody has by name.
const (
	firstPort = 17000
	portCount = 15000
)

// ports returns the first of n ports in a row, even, free for UDP and TCP a moment ago.
func ports(t testing.TB, n int) int {
	t.Helper()
	n += n % 2
	for range 1000 {
		at := int(suite.ports.Add(uint32(n))) - n
		if at%portCount+n >= portCount {
			continue
		}
		if from := firstPort + at%portCount; allFree(from, n) {
			return from
		}
	}
	t.Fatalf("no %d free ports in a row between %d and %d", n, firstPort, firstPort+portCount)
	return 0
}

func allFree(from, n int) bool {
	for port := from; port < from+n; port++ {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		if err != nil {
			return false
		}
		_ = u.Close()
		if n > 10 {
			continue // a range for RTP
		}
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: port})
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	within(t, patience, what, holds)
}

func within(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(25 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %s it does not hold that %s", limit, what)
		}
	}
}

// tail returns the last lines of a file.
func tail(name string, lines int) string {
	content, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
