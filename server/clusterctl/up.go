package clusterctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dialtone-cc/dialtone/server/telemetry"
)

const upHelp = `dialtone cluster up runs a cluster on this machine until Ctrl-C: etcd members and nodes, each a
process of its own with an address of its own on loopback, and a demo tenant. Kill what you
like, and see the calls go on.

  dialtone cluster up                          three nodes, three etcd members
  dialtone cluster up --restart                a process that dies is started again
  dialtone cluster up --base-ip 127.1.0. --data /tmp/second      beside another one
  dialtone cluster up --json > cluster.json    addresses, keys and pids for a script
  DIALTONE_RECORDS_URL=postgres://dialtone@127.0.0.1/dialtone dialtone cluster up
                                               one store of finished interactions; else each node has its own

Data, logs and configuration files are in the directory of --data; machine.json there has the
pids as they are at the moment. Exit codes: 0 it was ended, 1 a process did not start or all
have died, 2 bad usage, or something that is needed is taken.
`

const (
	machineFile  = "machine.json"
	readyWithin  = 60 * time.Second
	readyEvery   = 50 * time.Millisecond
	readyAsk     = 2 * time.Second
	endGrace     = 10 * time.Second // beyond drainLimit, then SIGKILL
	restartFirst = 200 * time.Millisecond
	restartLast  = 5 * time.Second
	restartCalm  = 10 * time.Second // who lived so long begins with restartFirst again
)

// processes is the processes of a machine while `cluster up` runs.
type processes struct {
	*machine
	line    *commandLine
	exe     string
	env     []string
	restart bool
	spawner *spawner
	started []*process               // the last of each name
	pauses  map[string]time.Duration // before the next start
	ended   chan *process
	again   chan string   // names whose pause is over
	over    chan struct{} // closed when nobody reads the two any more
	show    progress
}

func up(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	line := newCommandLine("cluster up", upHelp, stdout, stderr)
	dir := line.String("data", "./.dialtone/cluster", "`DIR` of all data")
	nodes := line.Int("nodes", 3, "`N` nodes, 1 to 9")
	etcds := line.Int("etcds", 3, "`N` etcd members: 1, 3 or 5")
	base := line.String("base-ip", "127.0.0.", "`PREFIX` of the addresses: its first three numbers")
	restart := line.Bool("restart", false, "start a process that dies again")
	asJSON := line.Bool("json", false, "print the machine as one JSON object")
	if _, code, ok := line.read(args, 0); !ok {
		return code
	}
	addr, err := baseAddress(*base)
	switch {
	case err != nil:
		return line.refuse("--base-ip %q: allowed are %s", *base, err)
	case *nodes < 1 || *nodes > 9:
		return line.refuse("--nodes %d: allowed is 1 to 9", *nodes)
	case *etcds != 1 && *etcds != 3 && *etcds != 5:
		return line.refuse("--etcds %d: allowed is 1, 3 or 5: an even number survives no more deaths than the odd one below it", *etcds)
	}
	where, err := filepath.Abs(*dir)
	if err != nil {
		return line.refuse("--data: %s", err)
	}
	lock, err := occupy(where)
	if err != nil {
		return line.refuse("%s", err)
	}
	defer lock.Close()
	m := layout(where, addr, *nodes, *etcds)
	if err := m.prepare(strings.TrimSuffix(*base, ".")+".", *etcds); err != nil {
		return line.fail(exitUsage, "%s", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return line.fail(exitWrong, "%s", err)
	}
	c := &processes{machine: m, line: line, exe: exe, env: withoutOurs(environ), restart: *restart, spawner: newSpawner(),
		pauses: map[string]time.Duration{}, ended: make(chan *process), again: make(chan string), over: make(chan struct{}), show: newProgress(stderr)}
	return c.run(ctx, *asJSON)
}

// prepare checks what must be so before anything starts, and writes the files.
func (m *machine) prepare(base string, etcds int) error {
	if taken := m.taken(); len(taken) > 0 {
		return fmt.Errorf("these ports cannot be used:\n  %s\nEnd what uses them (`ss -lnptu` shows it), or take other addresses, such as --base-ip 127.1.0.",
			strings.Join(taken, "\n  "))
	}
	f, err := remember(m.Dir, base, etcds)
	if err != nil {
		return err
	}
	m.OperatorKey, m.AgentPassword = f.OperatorKey, f.AgentPassword
	return m.writeConfigs(f)
}

// withoutOurs leaves the variables of dialtone out, which would go before the files of the
// nodes, and make them all alike; but the records store is one that all share.
func withoutOurs(environ []string) []string {
	var kept []string
	for _, pair := range environ {
		if !strings.HasPrefix(pair, "DIALTONE_") || strings.HasPrefix(pair, "DIALTONE_RECORDS_") {
			kept = append(kept, pair)
		}
	}
	return kept
}

func (c *processes) run(ctx context.Context, asJSON bool) int {
	defer c.end()
	err := c.bring(ctx)
	c.show.clear()
	if ctx.Err() != nil {
		return exitWell
	}
	if err != nil {
		return c.line.fail(exitWrong, "%s", err)
	}
	if asJSON {
		err = json.NewEncoder(c.line.stdout).Encode(c.machine)
	} else {
		_, err = io.WriteString(c.line.stdout, c.text(c.restart))
	}
	if err != nil {
		return c.line.fail(exitWrong, "nobody reads what is printed: %s", err)
	}
	return c.watch(ctx)
}

// bring starts everything, the members of etcd side by side and then the nodes, and waits
// until all take requests.
func (c *processes) bring(ctx context.Context) error {
	for _, e := range c.Members {
		if err := c.start(e.Name); err != nil {
			return err
		}
	}
	for _, e := range c.Members {
		if err := c.await(ctx, e.Name, func(ctx context.Context) error { return memberReady(ctx, e.Client.String()) }); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := c.start(n.Name); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := c.await(ctx, n.Name, func(ctx context.Context) error { return nodeReady(ctx, n.HTTP) }); err != nil {
			return err
		}
	}
	c.show.line("the demo tenant is made")
	return c.furnish(ctx)
}

// start starts the process of a name, and notes its pid.
func (c *processes) start(name string) error {
	argv, log, pid := c.command(name)
	p, err := c.spawner.start(name, log, c.env, func(p *process) {
		select {
		case c.ended <- p:
		case <-c.over:
		}
	}, argv...)
	if err != nil {
		return err
	}
	for i, old := range c.started {
		if old.name == name {
			c.started = append(c.started[:i], c.started[i+1:]...)
			break
		}
	}
	c.started = append(c.started, p)
	*pid = p.pid()
	return writeJSON(filepath.Join(c.Dir, machineFile), c.machine)
}

// command is what a process is started with, and where its pid is noted.
func (c *processes) command(name string) (argv []string, log string, pid *int) {
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.Name == name {
			return []string{c.exe, "server", "--config", n.Config}, n.Log, &n.Pid
		}
	}
	var all []string
	for _, e := range c.Members {
		all = append(all, e.Name+"=http://"+e.Peer.String())
	}
	for i := range c.Members {
		if e := &c.Members[i]; e.Name == name {
			return []string{c.exe, "etcd", "--name", name, "--dir", filepath.Join(c.Dir, name), "--client", e.Client.String(),
				"--peer", e.Peer.String(), "--cluster", strings.Join(all, ",")}, e.Log, &e.Pid
		}
	}
	panic("no process has the name " + name)
}

// await asks until a process is ready. Whichever ends before is the error.
func (c *processes) await(ctx context.Context, name string, ready func(context.Context) error) error {
	c.show.line("waiting for " + name)
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, readyAsk)
		err := ready(try)
		done()
		if err == nil {
			return nil
		}
		select {
		case p := <-c.ended:
			return fmt.Errorf("%s ended while it started (%s). The end of %s:\n%s", p.name, p.how(), p.log, tail(p.log))
		case <-ctx.Done():
			_, log, _ := c.command(name)
			return fmt.Errorf("%s is not ready after %s: %w. The end of %s:\n%s", name, readyWithin, err, log, tail(log))
		case <-time.After(readyEvery):
		}
	}
}

// memberReady returns nil when a read through the quorum succeeds at that member.
func memberReady(ctx context.Context, endpoint string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Get(ctx, "health", clientv3.WithCountOnly())
	return err
}

func nodeReady(ctx context.Context, base string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Close = true
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(reply.Body, 500))
		return errors.New(reply.Status + " " + strings.TrimSpace(string(text)))
	}
	return nil
}

// watch reports who dies, and starts it again when that is wanted, until ctx ends or nobody
// is left.
func (c *processes) watch(ctx context.Context) int {
	for {
		select {
		case <-ctx.Done():
			return exitWell
		case p := <-c.ended:
			c.died(p)
			if len(c.started) == 0 && !c.restart {
				return c.line.fail(exitWrong, "no process is left")
			}
		case name := <-c.again:
			if err := c.start(name); err != nil {
				c.line.fail(exitWrong, "%s", err)
				c.plan(name, restartLast)
				continue
			}
			_, _, pid := c.command(name)
			fmt.Fprintf(c.line.stderr, "%s is started again, pid %d\n", name, *pid)
		}
	}
}

// died reports a process and plans its next start.
func (c *processes) died(p *process) {
	for i, each := range c.started {
		if each == p {
			c.started = append(c.started[:i], c.started[i+1:]...)
			break
		}
	}
	argv, log, pid := c.command(p.name)
	*pid = 0
	if err := writeJSON(filepath.Join(c.Dir, machineFile), c.machine); err != nil {
		c.line.fail(exitWrong, "%s", err)
	}
	fmt.Fprintf(c.line.stderr, "%s (pid %d) has ended: %s; its log is %s\n", p.name, p.pid(), p.how(), log)
	if !c.restart {
		fmt.Fprintf(c.line.stderr, "  start it again: %s\n", strings.Join(argv, " "))
		return
	}
	pause := min(max(2*c.pauses[p.name], restartFirst), restartLast)
	if time.Since(p.began) > restartCalm {
		pause = restartFirst
	}
	c.plan(p.name, pause)
}

func (c *processes) plan(name string, pause time.Duration) {
	c.pauses[name] = pause
	time.AfterFunc(pause, func() {
		select {
		case c.again <- name:
		case <-c.over:
		}
	})
}

// end ends what runs: the nodes first, so that they can write while they drain.
func (c *processes) end() {
	close(c.over)
	var nodes, members []*process
	for _, p := range c.started {
		if argv, _, _ := c.command(p.name); argv[1] == "server" {
			nodes = append(nodes, p)
		} else {
			members = append(members, p)
		}
	}
	c.show.line("the nodes drain; Ctrl-C ends them at once")
	stop(nodes, drainLimit+endGrace)
	c.show.line("etcd ends")
	stop(members, endGrace)
	c.show.clear()
	c.spawner.close()
	_ = os.Remove(filepath.Join(c.Dir, machineFile))
}

// progress is one line on a terminal that says what goes on, and nothing in a pipe.
type progress struct{ out io.Writer }

func newProgress(w io.Writer) progress {
	if file, ok := w.(*os.File); ok {
		if terminal, _ := telemetry.Terminal(file); terminal && os.Getenv("TERM") != "dumb" {
			return progress{file}
		}
	}
	return progress{}
}

const eraseLine = "\r\x1b[K"

func (p progress) line(text string) {
	if p.out != nil {
		fmt.Fprint(p.out, eraseLine, text, " ...")
	}
}

func (p progress) clear() {
	if p.out != nil {
		fmt.Fprint(p.out, eraseLine)
	}
}
