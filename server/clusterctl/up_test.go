package clusterctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
)

// running is `cluster up` with stand-ins for nodes.
type running struct {
	t              *testing.T
	dir            string
	stdout, stderr *watched
	stop           context.CancelFunc
	code           chan int
	over           atomic.Bool
}

// await waits for a text, as long as there is somebody to print it.
func (r *running) await(from *watched, text string) string {
	r.t.Helper()
	eventually(r.t, "output with "+strconv.Quote(text), func() bool {
		over := r.over.Load() // before the text is looked for
		found := strings.Contains(from.String(), text)
		if over && !found {
			r.t.Fatalf("it has ended, without %q\n%s", text, r.shown())
		}
		return found
	}, r.shown)
	return from.String()
}

func bringUp(t *testing.T, standIn, base string, args ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &running{t: t, dir: t.TempDir(), stdout: new(watched), stderr: new(watched), stop: stop, code: make(chan int, 1)}
	environ := append(os.Environ(), standInVariable+"="+standIn, "DIALTONE_SIP=127.61.9.9:5999", "DIALTONE_OPERATOR_KEY=of-somebody-elses-cluster")
	go func() {
		code := Command(ctx, append([]string{"up", "--data", r.dir, "--base-ip", base}, args...), environ, r.stdout, r.stderr)
		r.over.Store(true)
		r.code <- code
	}()
	return r
}

func (r *running) shown() string { return r.stdout.String() + r.stderr.String() }

// ended stops it and checks that none of its processes is left.
func (r *running) ended(want int) {
	r.t.Helper()
	m := r.machine()
	r.stop()
	select {
	case code := <-r.code:
		if code != want {
			r.t.Errorf("exit code %d, want %d\n%s", code, want, r.shown())
		}
	case <-time.After(patience):
		r.t.Fatalf("it does not end\n%s", r.shown())
	}
	for _, n := range m.Nodes {
		r.gone(n.Pid)
	}
	for _, e := range m.Members {
		r.gone(e.Pid)
	}
}

func (r *running) gone(pid int) {
	r.t.Helper()
	if pid != 0 {
		eventually(r.t, "end of process "+strconv.Itoa(pid), func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, r.shown)
	}
}

// machine is what machine.json says at the moment.
func (r *running) machine() machine {
	r.t.Helper()
	var m machine
	text, err := os.ReadFile(filepath.Join(r.dir, machineFile))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.shown())
	}
	return m
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("pid %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestUp(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	settled(t)
	r := bringUp(t, "well", "127.61.1.", "--nodes", "2", "--json")
	r.await(r.stdout, "\n")
	var m machine
	if err := json.Unmarshal([]byte(r.stdout.String()), &m); err != nil {
		t.Fatalf("not one JSON object: %v\n%s", err, r.shown())
	}
	if len(m.Nodes) != 2 || len(m.Members) != 3 || m.Etcd != "127.61.1.1:2379,127.61.1.2:2379,127.61.1.3:2379" || m.Nodes[1].SIP.String() != "127.61.1.2:5060" {
		t.Errorf("%+v", m)
	}
	secrets := map[string]bool{}
	for _, n := range m.Nodes {
		if text := fileText(t, n.Log); strings.Contains(text, "refused") {
			t.Errorf("log of %s: %s", n.Name, text)
		}
		cfg, err := config.Parse(config.Server, []string{"--config", n.Config}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		secrets[cfg.ClusterSecret.Reveal()] = true
		if cfg.Node != core.NodeID(n.Name) || cfg.SIP != n.SIP || "http://"+cfg.HTTP.String() != n.HTTP || len(cfg.Etcd) != 3 ||
			cfg.OperatorKey.Reveal() != m.OperatorKey || cfg.Data == m.Dir || cfg.ClusterListen != n.Peers {
			t.Errorf("the file of %s says %+v", n.Name, cfg)
		}
	}
	if len(secrets) != 1 || secrets[""] {
		t.Error("the nodes share no secret")
	}
	if r.stderr.String() != "" {
		t.Errorf("progress in a pipe: %q", r.stderr.String())
	}
	// `dialtone call --data DIR` finds the password; the secrets are for their owner alone.
	for _, name := range []string{furnitureFile, keyFile, secretFile, machineFile} {
		if info, err := os.Stat(filepath.Join(m.Dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	if text := fileText(t, m.Dir, furnitureFile); !strings.Contains(text, `"agent_password": "`+m.AgentPassword+`"`) || len(m.AgentPassword) < 10 {
		t.Error("no password for `dialtone call`")
	}
	typeWith(t, nil, "up", "--data", m.Dir, "--base-ip", "127.61.7.").wants(exitUsage, "in use by another cluster")

	kill(t, m.Nodes[0].Pid)
	said := r.await(r.stderr, "start it again: ")
	if !strings.Contains(said, fmt.Sprintf("n1 (pid %d) has ended: signal: killed", m.Nodes[0].Pid)) || !strings.Contains(said, "server --config "+m.Nodes[0].Config) {
		t.Errorf("of a death is said: %s", said)
	}
	if now := r.machine(); now.Nodes[0].Pid != 0 || now.Nodes[1].Pid != m.Nodes[1].Pid {
		t.Errorf("machine.json has pids %d and %d", now.Nodes[0].Pid, now.Nodes[1].Pid)
	}
	r.ended(exitWell)
	if text := fileText(t, m.Nodes[1].Log); !strings.Contains(text, "told to end") {
		t.Errorf("n2 was not told to end:\n%s", text)
	}

	// The keys and the number of etcd members stay those of the data.
	again, err := remember(m.Dir, "127.61.1.", 3)
	if err != nil || again.OperatorKey != m.OperatorKey {
		t.Errorf("%v %v", again, err)
	}
	typeWith(t, nil, "up", "--data", m.Dir, "--base-ip", "127.61.7.").wants(exitUsage, "--etcds 3 --base-ip 127.61.1.")
}

func TestUpRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	settled(t)
	r := bringUp(t, "well", "127.61.2.", "--nodes", "1", "--etcds", "1", "--restart")
	box := r.await(r.stdout, "Ctrl-C ends all of them")
	m := r.machine()
	for _, want := range []string{m.Dial, m.OperatorKey, m.AgentPassword, fmt.Sprintf("kill -9 %d", m.Nodes[0].Pid), "dialtone cluster status --etcd 127.61.2.1:2379"} {
		if !strings.Contains(box, want) {
			t.Errorf("%q is missing in\n%s", want, box)
		}
	}
	was := m.Nodes[0].Pid
	for range 2 {
		kill(t, was)
		eventually(t, "a new process", func() bool {
			pid := r.machine().Nodes[0].Pid
			return pid != 0 && pid != was
		}, r.shown)
		was = r.machine().Nodes[0].Pid
		r.await(r.stderr, fmt.Sprintf("n1 is started again, pid %d", was))
	}
	kill(t, r.machine().Members[0].Pid)
	r.await(r.stderr, "e1 is started again")
	r.ended(exitWell)
}

func TestUpSaysWhoDoesNotStart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	settled(t)
	r := bringUp(t, "fail-n2", "127.61.3.", "--nodes", "2", "--etcds", "1")
	said := r.await(r.stderr, "n2 ended while it started (exit status 1)")
	if !strings.Contains(said, "this node was told to fail") || !strings.Contains(said, "n2.log") {
		t.Errorf("what is said:\n%s", said)
	}
	if code := <-r.code; code != exitWrong {
		t.Errorf("exit code %d", code)
	}
	if r.stdout.String() != "" {
		t.Errorf("it was announced:\n%s", r.stdout.String())
	}
}

// Whoever kills it leaves no process behind that holds the ports.
func TestUpIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	r := &running{t: t, dir: t.TempDir(), stdout: new(watched), stderr: new(watched), code: make(chan int, 1)}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "cluster", "up", "--data", r.dir, "--base-ip", "127.61.4.", "--nodes", "1", "--etcds", "1")
	cmd.Env = append(os.Environ(), standInVariable+"=well")
	cmd.Stdout, cmd.Stderr = r.stdout, r.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		r.over.Store(true)
		r.code <- 0
	}()
	r.await(r.stdout, "Ctrl-C ends all of them")
	m := r.machine()
	t.Cleanup(func() { // where the kernel has not ended them, they shall not stay
		if t.Failed() {
			_ = syscall.Kill(m.Nodes[0].Pid, syscall.SIGKILL)
			_ = syscall.Kill(m.Members[0].Pid, syscall.SIGKILL)
		}
	})
	kill(t, cmd.Process.Pid)
	<-r.code
	r.gone(m.Nodes[0].Pid)
	r.gone(m.Members[0].Pid)
	if taken := layout(r.dir, netip.MustParseAddr("127.61.4.0"), 1, 1).taken(); len(taken) > 0 {
		t.Errorf("ports are still taken: %q", taken)
	}
}

func TestPortsThatAreTaken(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.61.5.2:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.61.5.1:5060")))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	dir := t.TempDir()
	got := typeWith(t, nil, "up", "--data", dir, "--base-ip", "127.61.5.")
	got.wants(exitUsage, "127.61.5.2:8080", "API of node n2", "127.61.5.1:5060", "SIP of node n1", "address already in use", "--base-ip 127.1.0.")
	if n := strings.Count(got.stderr, "127.61.5."); n != 2 {
		t.Errorf("%d ports are named:\n%s", n, got.stderr)
	}
	if logs, _ := filepath.Glob(filepath.Join(dir, "*.log")); len(logs) > 0 {
		t.Errorf("something was started: %v", logs)
	}
}

func TestLayoutFitsTheMachine(t *testing.T) {
	base, err := baseAddress("127.1.0.")
	if err != nil {
		t.Fatal(err)
	}
	m := layout("/tmp/a b", base, 9, 5)
	m.OperatorKey, m.AgentPassword = "key", "password"
	seen := map[netip.AddrPort]bool{}
	for _, n := range m.Nodes {
		seen[n.SIP] = true
	}
	for _, e := range m.Members {
		seen[e.Client], seen[e.Peer] = true, true
	}
	if len(seen) != 9+2*5 {
		t.Errorf("%d addresses", len(seen))
	}
	text := m.text(false)
	var widths []int
	for line := range strings.Lines(text) {
		widths = append(widths, len(line))
		if len(line) != widths[0] {
			t.Fatalf("the box is not straight:\n%s", text)
		}
	}
}

func TestWithoutVariables(t *testing.T) {
	got := withoutOurs([]string{"PATH=/bin", "DIALTONE_SIP=x", "DIALTONE_OPERATOR_KEY=y", "DIALTONE_RECORDS_URL=z", "HOME=/"})
	if strings.Join(got, " ") != "PATH=/bin DIALTONE_RECORDS_URL=z HOME=/" {
		t.Errorf("%q", got)
	}
}

func TestStopIsPatient(t *testing.T) {
	settled(t)
	s := newSpawner()
	defer s.close()
	log := filepath.Join(t.TempDir(), "log")
	begin := time.Now()
	var all []*process
	for _, script := range []string{"trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", "trap '' TERM; echo up; while :; do sleep 0.05; done"} {
		p, err := s.start("sh", log, os.Environ(), func(*process) {}, "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	eventually(t, "both up", func() bool { return strings.Count(fileText(t, log), "up") == 2 }, func() string { return fileText(t, log) })
	stop(all, 500*time.Millisecond)
	if took := time.Since(begin); took < 500*time.Millisecond {
		t.Errorf("who does not listen was killed after %s", took)
	}
	if all[0].how() != "exit status 0" || all[1].how() != "signal: killed" || !strings.Contains(tail(log), "bye") {
		t.Errorf("%s, %s, %s", all[0].how(), all[1].how(), tail(log))
	}
}

func TestEtcdFlags(t *testing.T) {
	right := []string{"--name", "e1", "--dir", "/d", "--client", "127.0.0.1:2379", "--peer", "127.0.0.1:2380"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--name is missing"},
		{append(right[2:], "--name", ""), "--name is missing"},
		{append(right, "--client", "localhost:2379"), "--client"},
		{append(right, "--client", "0.0.0.0:2379"), "--client"},
		{append(right, "--peer", "127.0.0.1:0"), "--peer"},
		{append(right, "--cluster", "e2=http://127.0.0.1:2380"), "--name e1 is not among the members of --cluster: e2"},
		{append(right, "--cluster", "e1=http://127.0.0.1:2381"), "both must be the same"},
		{append(right, "--cluster", "e1=https://127.0.0.1:2380"), "http://"},
		{append(right, "--cluster", "e1=127.0.0.1:2380,e1=127.0.0.1:2380"), "given twice"},
		{append(right, "--cluster", "e1"), "is not NAME=URL"},
		{append(right, "--clinet", "x"), "did you mean --client?"},
		{append(right, "x"), `"x" is not expected`},
	} {
		var out bytes.Buffer
		if code := Etcd(t.Context(), c.args, &out, &out); code != exitUsage || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: %d %s, want %q", c.args, code, out.String(), c.want)
		}
	}
	cfg, err := memberOf("e2", "/d", "127.0.0.2:2379", "127.0.0.2:2380", "e1=http://127.0.0.1:2380, e2=127.0.0.2:2380")
	if err != nil || len(cfg.Cluster) != 2 || cfg.Cluster["e2"].String() != "127.0.0.2:2380" {
		t.Errorf("%+v %v", cfg, err)
	}
	var out bytes.Buffer
	if code := Etcd(t.Context(), []string{"--help"}, &out, &out); code != exitWell || !strings.Contains(out.String(), "deploy/etcd.service") {
		t.Errorf("%d %s", code, out.String())
	}
}

// Whatever is typed is refused, or a configuration in which the member is one of its cluster.
func FuzzEtcdFlags(f *testing.F) {
	f.Add("e1", "127.0.0.1:2379", "127.0.0.1:2380", "e1=http://127.0.0.1:2380,e2=http://127.0.0.2:2380")
	f.Add("e1", "[::1]:2379", "http://[::1]:2380/", "")
	f.Fuzz(func(t *testing.T, name, client, peer, all string) {
		cfg, err := memberOf(name, "/d", client, peer, all)
		if own := cfg.Cluster[name]; err == nil && (own.Port() == 0 || cfg.Client.Port() == 0 || !own.Addr().IsValid()) {
			t.Errorf("%+v", cfg)
		}
	})
}

func TestEtcdRunsUntilItIsTold(t *testing.T) {
	args := []string{"--name", "e1", "--dir", t.TempDir(), "--client", "127.61.6.1:2379", "--peer", "127.61.6.1:2380"}
	ctx, stop := context.WithCancel(t.Context())
	stdout, stderr, code := new(watched), new(watched), make(chan int, 1)
	go func() { code <- Etcd(ctx, args, stdout, stderr) }()
	stdout.await(t, "etcd member e1: clients at 127.61.6.1:2379")
	if err := memberReady(t.Context(), "127.61.6.1:2379"); err != nil {
		t.Error(err)
	}
	var again bytes.Buffer
	if code := Etcd(t.Context(), args, &again, &again); code != exitUsage || !strings.Contains(again.String(), "in use by another process") {
		t.Errorf("a second process on the same data: %d %s", code, again.String())
	}
	stop()
	if got := <-code; got != exitWell {
		t.Errorf("exit code %d\n%s", got, stderr.String())
	}
	// It waits for the others, and is told to end meanwhile.
	ctx, stop = context.WithCancel(t.Context())
	log := new(watched)
	go func() {
		code <- Etcd(ctx, []string{"--name", "e1", "--dir", t.TempDir(), "--client", "127.61.6.2:2379", "--peer", "127.61.6.2:2380",
			"--cluster", "e1=http://127.61.6.2:2380,e2=http://127.61.6.3:2380"}, log, log)
	}()
	log.await(t, "etcd member starts")
	stop()
	if got := <-code; got != exitWell {
		t.Errorf("exit code %d\n%s", got, log.String())
	}
}
