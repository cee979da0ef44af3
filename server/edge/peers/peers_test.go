package peers

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Emit = nil }, "Emit"},
		{func(c *Config) { c.Addr = netip.AddrPort{} }, "no address"},
		{func(c *Config) { c.Self.ID = "" }, "id has 1 to 64"},
		{func(c *Config) { c.Self.ID = core.NodeID(strings.Repeat("n", 65)) }, "id has 1 to 64"},
		{func(c *Config) { c.Beat = time.Microsecond }, "choose 1 ms to 1 s"},
		{func(c *Config) { c.Misses = 2 }, "choose 3 or more"},
		{func(c *Config) { c.Addr, c.Secret = netip.MustParseAddrPort("192.0.2.1:0"), nil }, "give the cluster's secret"},
		{func(c *Config) { c.Addr, c.Secret = netip.MustParseAddrPort("0.0.0.0:0"), nil }, "give the cluster's secret"},
		{func(c *Config) { c.Secret = []byte("short-and-visible"[:15]) }, "at least 16 bytes"},
	} {
		cfg := Config{Addr: netip.MustParseAddrPort("127.0.0.1:0"), Self: core.Member{ID: "a"}, Secret: []byte(secret), Emit: func(core.Event) bool { return true }}
		c.change(&cfg)
		p, err := New(cfg)
		if err == nil {
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "visible") {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	n := newNode(t, "a", 1)
	if p, err := New(Config{Addr: n.Addr(), Self: core.Member{ID: "b"}, Secret: []byte(secret), Emit: n.emit}); err == nil {
		p.Close()
		t.Error("two nodes have one address")
	}
}

// The end of a process is noticed once, and what is asked of it afterwards does no harm.
func TestEndOfAProcess(t *testing.T) {
	a, b, c := newNode(t, "a", 3), newNode(t, "b", 4), newNode(t, "c", 5)
	introduce(t, a, b, c)
	b.Close()
	b.Close()
	a.await(t, "b", "PeerUp PeerDead")
	c.await(t, "b", "PeerUp PeerDead")
	a.know(b.Member, c.Member)
	a.Do(core.AskPeer{Whom: b.Member, About: c.Member})
	a.SetSelf(8)
	quietFor(t, a.Peers, 10)
	a.await(t, "b", "PeerUp PeerDead")
	for _, l := range a.said() {
		if l.Kind == "PeerDead" && l.Peer != b.Member {
			t.Errorf("%+v is dead", l.Peer)
		}
	}
	if g := a.Gauges(); g.Deaths != 1 || g.Unsaid != 1 || g.Members != 2 {
		t.Errorf("%+v", g)
	}
	if story(b.said(), "a") != "PeerUp" {
		t.Errorf("one that is closed said %s", story(b.said(), "a"))
	}
}

// A process that joins anew is another one; it does not suspect its peers.
func TestJoinsAnew(t *testing.T) {
	a, b := newNode(t, "a", 3), newNode(t, "b", 4)
	introduce(t, a, b)
	b.SetSelf(9)
	a.await(t, "b", "PeerUp PeerDead")
	again := b.Member
	again.Incarnation = 9
	a.know(again)
	a.await(t, "b", "PeerUp PeerDead PeerUp")
	if last := a.said()[len(a.said())-1]; last.Peer != again {
		t.Errorf("up is %+v", last.Peer)
	}
	if got := story(b.said(), "a"); got != "PeerUp" {
		t.Errorf("b said of a: %s", got)
	}
}

// The store may tell of an incarnation before the process itself knows it.
func TestDoesNotKnowWhoItIsYet(t *testing.T) {
	a, b := newNode(t, "a", 3), newNode(t, "b", 0)
	named := b.Member
	named.Incarnation = 4
	b.know(a.Member)
	a.know(named)
	until(t, "tries", func() bool { return b.Gauges().RefusedHellos >= 5 })
	if got := story(a.said(), "b"); got != "" {
		t.Fatalf("%s before b knew who it is", got)
	}
	b.SetSelf(4)
	a.await(t, "b", "PeerUp")
	b.await(t, "a", "PeerUp")
}

// Where it was never met, a refusal is no death: the address may be wrong. Nor is the answer
// of another node, of a stranger, or of a mirror.
func TestNeverMet(t *testing.T) {
	a, c := newNode(t, "a", 3), newNode(t, "c", 5)
	stranger := newNode(t, "d", 6, func(cfg *Config) { cfg.Secret = []byte("the secret of another cluster") })
	closed := newNode(t, "b", 4)
	closed.Close()
	mirror, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mirror.Close()
	go func() {
		for {
			conn, err := mirror.Accept()
			if err != nil {
				return
			}
			b := make([]byte, maxFrame)
			n, _ := conn.Read(b)
			_, _ = conn.Write(b[:n])
			_, _ = conn.Read(b)
			conn.Close()
		}
	}()
	at := func(id core.NodeID, addr netip.AddrPort) core.Member {
		return core.Member{ID: id, Incarnation: 4, Addr: addr}
	}
	wrong := []core.Member{
		closed.Member, at("x", c.Addr()), stranger.Member, at("m", mirror.Addr().(*net.TCPAddr).AddrPort()), at("v6", netip.MustParseAddrPort("[::1]:9")),
	}
	began := machineTime()
	a.know(wrong...)
	stranger.know(a.Member)
	for _, m := range wrong {
		a.await(t, m.ID, "PeerSilent") // after firstWords
	}
	for _, l := range a.said() {
		if l.At-began < firstWords || l.For < firstWords {
			t.Errorf("%+v after %v", l, l.At-began)
		}
	}
	if got := story(stranger.said(), "a"); strings.Contains(got, "Up") || strings.Contains(got, "Dead") {
		t.Errorf("with the wrong secret: %s", got)
	}
	if g := stranger.Gauges(); g.RefusedHellos == 0 {
		t.Errorf("%+v", g)
	}
}

// Addresses of both families: an IPv6 socket reaches both, an IPv4 one its own.
func TestFamilies(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip(err)
	} else {
		l.Close()
	}
	a := newNode(t, "a", 3, func(c *Config) { c.Addr = netip.MustParseAddrPort("[::]:0") })
	b := newNode(t, "b", 4, func(c *Config) { c.Addr = netip.MustParseAddrPort("[::1]:0") })
	c := newNode(t, "c", 5, func(c *Config) { c.Addr = netip.MustParseAddrPort("0.0.0.0:0") })
	v4, v6 := a.Member, a.Member
	v4.Addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Addr().Port())
	v6.Addr = netip.AddrPortFrom(netip.IPv6Loopback(), a.Addr().Port())
	c.Member.Addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.Addr().Port())
	a.know(b.Member, c.Member)
	b.know(v6)
	c.know(v4)
	a.await(t, "b", "PeerUp")
	a.await(t, "c", "PeerUp")
	b.await(t, "a", "PeerUp")
	c.await(t, "a", "PeerUp")
}

func TestWitness(t *testing.T) {
	a, b, c := newNode(t, "a", 3), newNode(t, "b", 4), newNode(t, "c", 5)
	introduce(t, a, b, c)
	lastOf := func(n *node, kind string) (found line) {
		until(t, kind, func() bool {
			lines := n.said()
			i := slices.IndexFunc(lines, func(l line) bool { return l.Kind == kind })
			if i >= 0 {
				found = lines[i]
			}
			return i >= 0
		})
		return found
	}
	gone := core.Member{ID: "gone", Incarnation: 77} // without an address
	for _, about := range []core.Member{c.Member, gone} {
		a.Do(core.AskPeer{Whom: b.Member, About: about})
		asked := lastOf(b, "PeerAsked")
		if asked.Peer != a.Member || asked.About != about {
			t.Errorf("asked %+v", asked)
		}
		b.Do(core.TellPeer{Whom: asked.Peer, About: asked.About, Hears: about == c.Member})
		told := lastOf(a, "PeerTold")
		if told.Peer != b.Member || told.About != about || told.Hears != (about == c.Member) {
			t.Errorf("told %+v", told)
		}
		for _, n := range []*node{a, b} {
			n.guard.Lock()
			n.lines = nil
			n.guard.Unlock()
		}
	}
	// Who asks and is no member, here in another incarnation, gets no answer.
	b.know(core.Member{ID: "a", Incarnation: 99, Addr: a.Addr()}, c.Member)
	a.Do(core.AskPeer{Whom: b.Member, About: c.Member})
	until(t, "a question that is not heard", func() bool { return b.Gauges().Unheard == 1 })
	a.Do(core.AskPeer{Whom: core.Member{ID: "b", Incarnation: 99}, About: c.Member})
	if a.Gauges().Unsaid != 1 {
		t.Error("asked another incarnation")
	}
	if got := story(b.said(), "a"); strings.Contains(got, "PeerAsked") {
		t.Error("a question of no member came through")
	}
}

// A core without room hears everything later, and the heart goes on.
func TestFullCore(t *testing.T) {
	a, b, c := newNode(t, "a", 3), newNode(t, "b", 4), newNode(t, "c", 5)
	introduce(t, a, b, c)
	a.setFull(true)
	b.Close()
	until(t, "a death that finds no room", func() bool { return a.Gauges().Deaths == 1 && a.refusals() > 0 })
	for range 3 * maxHeralded {
		c.Do(core.AskPeer{Whom: a.Member, About: b.Member})
	}
	until(t, "more questions than are kept", func() bool { return a.Gauges().Unheard == 2*maxHeralded })
	quietFor(t, a.Peers, 20)
	a.mu.Lock()
	kept := len(a.heralded)
	a.mu.Unlock()
	if kept > maxHeralded {
		t.Errorf("%d questions are kept", kept)
	}
	a.setFull(false)
	a.await(t, "b", "PeerUp PeerDead")
	until(t, "the questions", func() bool { return strings.Count(story(a.said(), "c"), "PeerAsked") == maxHeralded })
	if lag := a.Gauges().Lag; !starved(lag, testBeat) && story(c.said(), "a") != "PeerUp" {
		t.Errorf("c said of a: %s; its latest beat was %v late", story(c.said(), "a"), lag)
	}
}

// Who is not named any more is forgotten, wholly.
func TestForgets(t *testing.T) {
	a, b := newNode(t, "a", 3), newNode(t, "b", 4)
	introduce(t, a, b)
	a.know(a.Member)
	a.mu.Lock()
	left := len(a.peers) + len(a.order) + len(a.ears)
	a.mu.Unlock()
	if left != 0 {
		t.Errorf("%d things are kept of nobody", left)
	}
	b.await(t, "a", "PeerUp PeerSilent")
	until(t, "a's connection to end", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.inbound) == 0
	})
	b.Close()
	until(t, "the last connection to end", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.inbound) == 0
	})
	quietFor(t, a.Peers, 5)
	a.await(t, "b", "PeerUp")
}

// At most so many are watched, and as many strangers are borne.
func TestBounds(t *testing.T) {
	a := newNode(t, "a", 3)
	var many []core.Member
	for i := range 2 * maxPeers {
		many = append(many, core.Member{ID: core.NodeID(strings.Repeat("n", 1+i%maxID) + string(rune('A'+i/maxID))), Incarnation: 1, Addr: netip.MustParseAddrPort("127.0.0.1:9")})
	}
	a.know(many...)
	if g := a.Gauges(); g.Members > maxPeers {
		t.Errorf("%d peers", g.Members)
	}
	a.know()
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	began := time.Now()
	for range maxShaking + 50 {
		if conn, err := net.Dial("tcp", a.Addr().String()); err == nil {
			idle = append(idle, conn)
		}
	}
	dialed := time.Since(began)
	// Those that are too many end at once, the others when their second is over.
	ends := func(c net.Conn) <-chan time.Time {
		at := make(chan time.Time, 1)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		go func() {
			_, err := c.Read(make([]byte, 1))
			if os.IsTimeout(err) {
				t.Error("an idle connection is borne for ever")
			}
			at <- time.Now()
		}()
		return at
	}
	oldest, newest := ends(idle[0]), ends(idle[len(idle)-1])
	earlier, lag := (<-oldest).Sub(<-newest), a.Gauges().Lag
	if earlier < handshakeTime/4 && dialed < handshakeTime/4 && lag < handshakeTime/4 {
		t.Errorf("the last of too many ended %v before the first", earlier)
	}
	until(t, "connections that are too many", func() bool { return a.Gauges().RefusedHellos >= 50 })
	b := newNode(t, "b", 4)
	introduce(t, a, b) // when the idle ones have had their second
	if g := a.Gauges(); g.RefusedHellos < maxShaking+50 {
		t.Errorf("idle connections are borne: %+v", g)
	}
}

// The observer was asleep: whoever fell silent meanwhile has another window from then on.
func TestOwnSleep(t *testing.T) {
	a, b := newNode(t, "a", 3), newNode(t, "b", 4)
	introduce(t, a, b)
	a.mu.Lock() // its beats stand
	b.know()    // and b says nothing any more
	quietFor(t, b.Peers, 10)
	awake := machineTime()
	a.mu.Unlock()
	a.await(t, "b", "PeerUp PeerSilent")
	last := a.said()[1]
	if w := windowOf(testBeat, 5).heard; last.At-awake < w {
		t.Errorf("suspected %v after waking, the window is %v", last.At-awake, w)
	}
	if last.For < 10*testBeat/2 {
		t.Errorf("silent for %v", last.For)
	}
	if g := a.Gauges(); g.Restarts == 0 || g.Lag < 5*testBeat {
		t.Errorf("%+v", g)
	}
}
