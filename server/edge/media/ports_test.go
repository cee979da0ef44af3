package media

import (
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

func portAbove(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+1) }

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	return len(entries)
}

// RFC 3550 s.11: RTP on the even port, RTCP one above; exhaustion is refused with a cause;
// a closed port rests.
func TestPortsExhaustionAndRest(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rest, c.To = time.Second, c.From+5 })
	seen := map[uint16]bool{}
	for i := range 3 {
		r.Do(core.OpenMedia{Leg: legID(i)})
		port := await(t, r.inbox, openedLeg, legID(i)).Local.Port()
		if port%2 != 0 || seen[port] {
			t.Fatalf("port %d", port)
		}
		seen[port] = true
	}
	r.Do(core.OpenMedia{Leg: legID(1)}) // asked twice: the same answer
	if port := await(t, r.inbox, openedLeg, legID(1)).Local.Port(); !seen[port] {
		t.Fatalf("port %d", port)
	}
	r.Do(core.OpenMedia{Leg: legID(9)})
	if cause := await(t, r.inbox, refusedLeg, legID(9)).Cause; !strings.Contains(cause, "port range") {
		t.Fatalf("cause %q", cause)
	}
	r.Do(core.CloseMedia{Leg: legID(1)})
	await(t, r.inbox, closedLeg, legID(1))
	closed := time.Now()
	r.Do(core.OpenMedia{Leg: legID(9)})
	await(t, r.inbox, refusedLeg, legID(9)) // it rests
	if g := r.Gauges(); g.PortsFree != 0 || g.PortsResting != 1 || g.Legs != 2 {
		t.Fatalf("%+v", g)
	}
	until(t, "rested", func() bool { return r.Gauges().PortsFree == 1 })
	if d := time.Since(closed); d < 900*time.Millisecond {
		t.Fatalf("free again after %v, it was to rest a second", d)
	}
	r.Do(core.OpenMedia{Leg: legID(9)})
	await(t, r.inbox, openedLeg, legID(9))
}

// A port that another process holds, RTP or RTCP, is passed over.
func TestForeignPortsArePassedOver(t *testing.T) {
	from, _ := freeRange(t, 20)
	for i, port := range []uint16{from, from + 3, from + 6} { // an RTP, an RTCP, an RTP port
		fd, err := bindUDP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), i > 0) // some willing to share
		if err != nil {
			t.Skipf("taken meanwhile: %v", err)
		}
		defer closeFD(fd)
	}
	r := newRig(t, func(c *Config) { c.From, c.To = from, from+9 })
	for i := range 2 {
		r.Do(core.OpenMedia{Leg: legID(i)})
		if port := await(t, r.inbox, openedLeg, legID(i)).Local.Port(); port != from+4 && port != from+8 {
			t.Fatalf("port %d of %d to %d", port, from, from+9)
		}
	}
	r.Do(core.OpenMedia{Leg: legID(2)})
	await(t, r.inbox, refusedLeg, legID(2))
}

// What cannot work is said at start, in words.
func TestNewRefuses(t *testing.T) {
	emit := newInbox().emit
	here := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	from, to := freeRange(t, 4)
	for _, c := range []struct {
		name, says string
		cfg        Config
	}{
		{"no Emit", "Emit", Config{Addr: here, From: from, To: to}},
		{"no address", "Addr", Config{From: from, To: to, Emit: emit}},
		{"foreign address", "of this machine", Config{Addr: netip.MustParseAddr("192.0.2.1"), From: from, To: to, Emit: emit}},
		{"no pair", "pair", Config{Addr: here, From: from + 1, To: from + 1, Emit: emit}},
		{"upside down", "pair", Config{Addr: here, From: to, To: from, Emit: emit}},
		{"no directory", "sounds directory", Config{Addr: here, From: from, To: to, Emit: emit, Dir: "/nonexistent"}},
		{"negative", "negative", Config{Addr: here, From: from, To: to, Emit: emit, Rest: -1}},
	} {
		m, err := New(c.cfg)
		if err == nil {
			m.Close()
			t.Errorf("%s: no error", c.name)
		} else if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A pair is in exactly one place, and none is handed out before it has rested.
func TestPortsConserve(t *testing.T) {
	from, to := freeRange(t, 16)
	rapid.Check(t, func(t *rapid.T) {
		const rest = time.Second
		p, err := newPorts(netip.AddrFrom4([4]byte{127, 0, 0, 1}), from, to, rest)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(0, 0)
		taken, freed := []uint16{}, map[uint16]time.Time{}
		fds := map[uint16][2]int{}
		defer func() {
			for _, pair := range fds {
				closeFD(pair[0])
				closeFD(pair[1])
			}
		}()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			if len(taken) > 0 && rapid.Bool().Draw(t, "give") {
				port := taken[0]
				taken = taken[1:]
				closeFD(fds[port][0])
				closeFD(fds[port][1])
				delete(fds, port)
				p.give(port, now)
				freed[port] = now
			} else if port, rtp, rtcp, err := p.take(now); err == nil {
				if _, twice := fds[port]; twice {
					t.Fatalf("port %d handed out twice", port)
				}
				if at, ok := freed[port]; ok && now.Sub(at) < rest {
					t.Fatalf("port %d rested only %v", port, now.Sub(at))
				}
				taken, fds[port] = append(taken, port), [2]int{rtp, rtcp}
			}
			if free, resting := p.gauges(now); free+resting+len(taken) != p.count {
				t.Fatalf("%d free, %d resting, %d taken of %d", free, resting, len(taken), p.count)
			}
		}
	})
}

// Ports, descriptors, goroutines and memory return to where they were, over many calls.
func TestEverythingIsGivenBack(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		files, routines := openFiles(t), runtime.NumGoroutine()
		free := r.Gauges().PortsFree
		for round := range 50 {
			a, b := r.phone(legID(2*round), pcmu), r.phone(legID(2*round+1), pcma)
			bridge(a, b)
			a.say(440, 1)
			b.listenFor(1)
			if n := runtime.NumGoroutine(); n > routines {
				t.Fatalf("%d goroutines with a call, %d without", n, routines)
			}
			for _, p := range []*phone{a, b} {
				r.Do(core.CloseMedia{Leg: p.leg})
				if s := await(t, r.inbox, closedLeg, p.leg).Stats; p == a && s.PacketsReceived != 1 {
					t.Fatalf("%+v", s)
				}
				p.conn.Close()
			}
		}
		until(t, "ports back", func() bool { g := r.Gauges(); return g.PortsFree == free && g.PortsResting == 0 && g.Legs == 0 })
		if n := openFiles(t); n != files {
			t.Errorf("%d files open, %d before", n, files)
		}
		l := r.loops[0]
		if len(l.slots) > 2 || len(l.byID) != 0 || len(l.heard) != 0 {
			t.Errorf("left in the loop: %d slots, %d legs, %d heard", len(l.slots), len(l.byID), len(l.heard))
		}
		r.Close()
		until(t, "goroutines ended", func() bool { return runtime.NumGoroutine() < routines })
		if n := openFiles(t); n > files-3 || (path == PathPortable && n != files-3) {
			t.Errorf("%d files open after Close, want %d", n, files-3)
		}
		r.Do(core.OpenMedia{Leg: legID(999)}) // after Close: nothing happens, nothing panics
		r.Do(core.CloseMedia{Leg: legID(999)})
	})
}

// CloseMedia of an unknown leg is answered, so that nobody waits for ever.
func TestCloseUnknown(t *testing.T) {
	r := newRig(t, nil)
	r.Do(core.CloseMedia{Leg: legID(1)})
	if s := await(t, r.inbox, closedLeg, legID(1)).Stats; s != (core.AudioStats{}) {
		t.Fatalf("%+v", s)
	}
	r.Do(core.SetMedia{Leg: legID(1)})
}

// Events wait for a full inbox and then come, each once and in order.
func TestFullInbox(t *testing.T) {
	r := newRig(t, nil)
	a := r.phone(legID(1), pcmu)
	a.say(440, 1)
	r.inbox.setFull(true)
	a.spec.Hear = core.Source{Kind: core.Playback, File: "none", Play: 7}
	r.Do(core.SetMedia{Leg: a.leg, Spec: a.spec})
	r.Do(core.CloseMedia{Leg: a.leg})
	r.Do(core.OpenMedia{Leg: legID(2)})
	l := r.loopOf(a.leg)
	until(t, "orders taken", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.orders) == 0
	})
	r.inbox.setFull(false)
	await(t, r.inbox, doneLeg, a.leg)
	if s := await(t, r.inbox, closedLeg, a.leg).Stats; s.PacketsReceived != 1 {
		t.Fatalf("%+v", s)
	}
	await(t, r.inbox, openedLeg, legID(2))
	if n := r.inbox.count(func(core.Event) bool { return true }); n != 0 {
		t.Fatalf("more than once: %v", r.inbox.events)
	}
}

// Legs of one interaction share a loop, so a bridge works with any number of them.
func TestManyLoops(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, func(c *Config) { c.Loops = 3 })
		for i := range 6 {
			call := core.InteractionID(rune('a' + i))
			a, b := r.phone(core.LegID(call+"/1"), pcmu), r.phone(core.LegID(call+"/2"), pcma)
			bridge(a, b)
			a.say(440, 5)
			b.mustHear(b.listenFor(5), 440, 880)
		}
		until(t, "gauges of all loops", func() bool { return r.Gauges().Legs == 12 })
	})
}

// The address may be unspecified, of either family.
func TestUnspecifiedAddress(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		for _, addr := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			r := newRigOn(t, path, func(c *Config) { c.Addr = addr })
			a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
			for _, p := range []*phone{a, b} {
				if p.local.Addr() != addr {
					t.Fatalf("local address %v", p.local)
				}
				p.local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.local.Port())
			}
			r.talk(a, b)
			for range 2 {
				a.say(440, 5)
				b.mustHear(b.listenFor(5), 440, 880)
				b.say(880, 5)
				a.mustHear(a.listenFor(5), 880, 440)
				a.conn = listen(t, "127.0.0.1") // and again after an unlock
				a.set(func(s *core.MediaSpec) { s.Remote = addrOf(a.conn) })
			}
		}
	})
}
