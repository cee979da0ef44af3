package peers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Variables that make a process of the test binary: a member of a cluster, that does
// nothing but to keep in touch.
const (
	roleVariable = "PEERS_ROLE"
	longVariable = "DIALTONE_LONG" // "1": as many kills as percentiles need
)

const secret = "a secret that all nodes know"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "member" {
		os.Exit(beMember())
	}
	goleak.VerifyTestMain(m)
}

func long() bool { return os.Getenv(longVariable) == "1" }

// order is a line on a child's standard input.
type order struct {
	Self  core.Revision `json:",omitempty"`
	Peers []core.Member `json:",omitempty"`
	Alone bool          `json:",omitempty"` // SetPeers of nobody
	Ask   []core.Member `json:",omitempty"` // whom, about
	Count bool          `json:",omitempty"` // Gauges
	Tight bool          `json:",omitempty"` // room for a few datagrams in its socket
}

// line is one of its output.
type line struct {
	Addr   netip.AddrPort
	Kind   string // of an event
	Peer   core.Member
	About  core.Member
	Hears  bool
	For    time.Duration
	At     time.Duration // CLOCK_MONOTONIC, the same for all processes of the machine
	Gauges *Gauges
	CPU    time.Duration // of the process until now, with Gauges
}

// machineTime is CLOCK_MONOTONIC.
func machineTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

func cpuTime() time.Duration {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func lineOf(ev core.Event) line {
	l := line{At: machineTime(), Kind: strings.TrimPrefix(fmt.Sprintf("%T", ev), "core.")}
	switch e := ev.(type) {
	case core.PeerUp:
		l.Peer = e.Peer
	case core.PeerDead:
		l.Peer = e.Peer
	case core.PeerSilent:
		l.Peer, l.For = e.Peer, e.For
	case core.PeerAsked:
		l.Peer, l.About = e.From, e.About
	case core.PeerTold:
		l.Peer, l.About, l.Hears = e.From, e.About, e.Hears
	}
	return l
}

// beMember runs until its standard input ends: id, incarnation, address, beat, megabytes
// of memory that it has touched. It tells whoever asks that it hears whom it is asked about.
func beMember() int {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(l line) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(l)
	}
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	incarnation, _ := strconv.ParseInt(os.Args[2], 10, 64)
	beat, _ := time.ParseDuration(os.Args[4])
	megabytes, _ := strconv.Atoi(os.Args[5])
	ballast := bytes.Repeat([]byte{1}, megabytes<<20)
	asked := make(chan core.PeerAsked, 16)
	p, err := New(Config{
		Addr: netip.MustParseAddrPort(os.Args[3]), Self: core.Member{ID: core.NodeID(os.Args[1]), Incarnation: core.Revision(incarnation)},
		Secret: []byte(secret), Beat: beat, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Emit: func(ev core.Event) bool {
			if e, ok := ev.(core.PeerAsked); ok {
				asked <- e
			}
			say(lineOf(ev))
			return true
		},
	})
	if err != nil {
		return fail(err)
	}
	go func() {
		for e := range asked {
			p.Do(core.TellPeer{Whom: e.From, About: e.About, Hears: true})
		}
	}()
	say(line{Addr: p.Addr()})
	for orders := json.NewDecoder(os.Stdin); ; {
		var o order
		if err := orders.Decode(&o); err != nil {
			break
		}
		if o.Self != 0 {
			p.SetSelf(o.Self)
		}
		if len(o.Peers) > 0 || o.Alone {
			p.Do(core.SetPeers{Members: o.Peers})
		}
		if len(o.Ask) == 2 {
			p.Do(core.AskPeer{Whom: o.Ask[0], About: o.Ask[1]})
		}
		if o.Tight {
			if err := unix.SetsockoptInt(p.socket.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
				return fail(err)
			}
		}
		if o.Count {
			g := p.Gauges()
			say(line{Gauges: &g, CPU: cpuTime()})
		}
	}
	runtime.KeepAlive(ballast)
	return 0
}

// child is a process that is a member.
type child struct {
	*exec.Cmd
	core.Member
	orders io.WriteCloser
	errors bytes.Buffer

	mu    sync.Mutex
	lines []line
	last  time.Duration // when its output ended: its kernel closes its files, one after the other
	ended chan struct{}
}

// spawn starts a member on an address of loopback; it is killed at the end of the test at
// the latest.
func spawn(t testing.TB, id core.NodeID, incarnation core.Revision, at string, beat time.Duration, megabytes int) *child {
	t.Helper()
	return launch(t, exec.Command(os.Args[0], string(id), fmt.Sprint(incarnation), at, beat.String(), fmt.Sprint(megabytes)), id, incarnation)
}

func launch(t testing.TB, cmd *exec.Cmd, id core.NodeID, incarnation core.Revision) *child {
	t.Helper()
	c := &child{Cmd: cmd, ended: make(chan struct{}), Member: core.Member{ID: id, Incarnation: incarnation}}
	c.Env = append(os.Environ(), roleVariable+"=member")
	c.Stderr = &c.errors
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.orders = stdin
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var l line
			if json.Unmarshal(lines.Bytes(), &l) != nil {
				continue
			}
			c.mu.Lock()
			c.lines = append(c.lines, l)
			c.mu.Unlock()
		}
		c.last = machineTime()
		_ = c.Wait()
	}()
	t.Cleanup(func() {
		c.signal(syscall.SIGKILL)
		<-c.ended
		if t.Failed() {
			t.Logf("%s said:\n%s", id, c.errors.String())
		}
	})
	until(t, "the address of "+string(id), func() bool {
		for _, l := range c.said() {
			c.Addr = l.Addr
		}
		return c.Addr.IsValid()
	})
	return c
}

func (c *child) signal(s syscall.Signal) { _ = c.Process.Signal(s) }

func (c *child) do(t testing.TB, o order) {
	t.Helper()
	if err := json.NewEncoder(c.orders).Encode(o); err != nil {
		t.Fatal(err)
	}
}

func (c *child) said() []line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// gauges asks for the figures as they are now.
func (c *child) gauges(t testing.TB) line {
	t.Helper()
	before := len(c.said())
	c.do(t, order{Count: true})
	var l line
	until(t, "figures", func() bool {
		for _, l = range c.said()[before:] {
			if l.Gauges != nil {
				return true
			}
		}
		return false
	})
	return l
}

// recorder takes events in place of a core.
type recorder struct {
	guard sync.Mutex
	lines []line
	full  bool
	turns int // events that were refused
}

func (r *recorder) emit(ev core.Event) bool {
	l := lineOf(ev)
	r.guard.Lock()
	defer r.guard.Unlock()
	if r.full {
		r.turns++
		return false
	}
	r.lines = append(r.lines, l)
	return true
}

func (r *recorder) setFull(full bool) {
	r.guard.Lock()
	defer r.guard.Unlock()
	r.full = full
}

func (r *recorder) refusals() int {
	r.guard.Lock()
	defer r.guard.Unlock()
	return r.turns
}

func (r *recorder) said() []line {
	r.guard.Lock()
	defer r.guard.Unlock()
	return slices.Clone(r.lines)
}

// story is what was said of one peer, as "PeerUp PeerSilent".
func story(lines []line, id core.NodeID) string {
	var words []string
	for _, l := range lines {
		if l.Peer.ID == id && l.Kind != "" {
			words = append(words, l.Kind)
		}
	}
	return strings.Join(words, " ")
}

// node is a member in this process.
type node struct {
	*Peers
	recorder
	Member core.Member
}

// testBeat is long enough for a machine that has much else to do.
const testBeat = 40 * time.Millisecond

func newNode(t testing.TB, id core.NodeID, incarnation core.Revision, change ...func(*Config)) *node {
	t.Helper()
	n := &node{}
	cfg := Config{
		Addr: netip.MustParseAddrPort("127.0.0.1:0"), Self: core.Member{ID: id, Incarnation: incarnation},
		Secret: []byte(secret), Beat: testBeat, Emit: n.emit,
	}
	for _, c := range change {
		c(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	n.Peers, n.Member = p, core.Member{ID: id, Incarnation: incarnation, Addr: p.Addr()}
	return n
}

// know sets the peers of a node.
func (n *node) know(members ...core.Member) { n.Do(core.SetPeers{Members: members}) }

func (n *node) await(t testing.TB, id core.NodeID, want string) {
	t.Helper()
	until(t, fmt.Sprintf("%s of %s: %s", n.Member.ID, id, want), func() bool { return story(n.said(), id) == want })
}

// introduce lets all know all, and waits until all have heard all.
func introduce(t testing.TB, nodes ...*node) {
	t.Helper()
	var members []core.Member
	for _, n := range nodes {
		members = append(members, n.Member)
	}
	for _, n := range nodes {
		n.know(members...)
	}
	for _, n := range nodes {
		for _, m := range members {
			if m.ID != n.Member.ID {
				n.await(t, m.ID, "PeerUp")
			}
		}
	}
}

// until waits for a condition; the limit is for a machine that hardly turns.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !done(); time.Sleep(500 * time.Microsecond) {
		if time.Now().After(limit) {
			t.Fatalf("still no %s", what)
		}
	}
}

// quietFor lets so many beats pass at p, by its own count.
func quietFor(t testing.TB, p *Peers, beats int) {
	t.Helper()
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.tally.beats
	}
	from := count()
	until(t, "beats", func() bool { return count() >= from+beats })
}

// starved reports whether a node's beats were so late that others may rightly have missed it.
func starved(lag, beat time.Duration) bool { return lag > 2*beat }

// percentile of figures, as at index n*q.
func percentile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*q))]
}
