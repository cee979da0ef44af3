package media

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtp"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// The rules of latch, one story each.
func TestLatchRules(t *testing.T) {
	const public1, public2, private = "198.51.100.7:4000", "203.0.113.9:4000", "192.168.1.5:4000"
	type packet struct {
		from string
		ms   int64
		want verdict
	}
	for _, c := range []struct {
		name    string
		remote  string
		packets []packet
	}{
		{"the named address", public1, []packet{{public1, 1, lock}, {public1, 2, hear}, {public2, 3, refuse}}},
		{"another port of the named host", public1, []packet{{"198.51.100.7:9", 1, lock}, {public2, 2, refuse}}},
		{"a phone behind NAT", private, []packet{{public2, 1, lock}, {public1, 2, refuse}}},
		{"nothing named", "", []packet{{public2, 1, lock}, {private, 2, refuse}}},
		{"the named address ends a stranger's lock", private, []packet{{public2, 1, lock}, {private, 2, lock}, {public2, 3, refuse}}},
		{"a stranger before a public phone", public1, []packet{{public2, 1, refuse}, {public2, 20, refuse}, {public1, 30, lock}, {public2, 40, refuse}}},
		{"a stranger on the phone's own machine", "127.0.0.2:4000", []packet{{"127.0.0.9:4000", 1, refuse}, {public2, 2, refuse}, {"127.0.0.2:4000", 3, lock}}},
		{"too late for another host", public1, []packet{{public2, 11000, refuse}, {public1, 60000, lock}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l latch
			if c.remote != "" {
				l.expect(at(c.remote), 0)
			}
			for i, p := range c.packets {
				h := header{seq: uint16(i)}
				got := l.judge(at(p.from), &h, p.ms*int64(time.Millisecond))
				if got != p.want {
					t.Fatalf("packet %d from %s: verdict %d, want %d", i, p.from, got, p.want)
				}
				if got == lock {
					l.settle(at(p.from))
				}
			}
		})
	}
}

// Rule 4: ten packets in sequence prove a media server that sends from elsewhere.
func TestLatchProof(t *testing.T) {
	for _, c := range []struct {
		name string
		seqs []uint16
		ok   bool
	}{
		{"in sequence", []uint16{65533, 65534, 65535, 0, 1, 2, 3, 4, 5, 6}, true},
		{"with a loss", []uint16{1, 2, 3, 5, 6, 7, 9, 10, 11, 12}, true},
		{"guessing", []uint16{1, 900, 17, 4, 60000, 23, 80, 2, 9, 100, 33, 1}, false},
		{"repeating", []uint16{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, false},
	} {
		var l latch
		l.expect(at("198.51.100.7:4000"), 0)
		got := refuse
		for _, seq := range c.seqs {
			got = l.judge(at("203.0.113.9:5"), &header{seq: seq, ssrc: 3}, 1)
		}
		if (got == lock) != c.ok {
			t.Errorf("%s: verdict %d", c.name, got)
		}
	}
}

// Rule 5, jambonz/sbc-outbound#123: late packets of the address before a re-INVITE are
// heard and lock nothing.
func TestLatchReinvite(t *testing.T) {
	var l latch
	old, renewed := at("198.51.100.7:4000"), at("198.51.100.7:5000")
	l.expect(old, 0)
	l.settle(old)
	if !l.expect(renewed, 0) || l.peer.IsValid() {
		t.Fatal("a changed address must end the lock")
	}
	var h header
	if v := l.judge(old, &h, 100e6); v != hear {
		t.Fatalf("late packet of the old address: verdict %d", v)
	}
	if v := l.judge(renewed, &h, 120e6); v != lock {
		t.Fatalf("first packet of the new address: verdict %d", v)
	}
	l.settle(renewed)
	if v := l.judge(old, &h, 140e6); v != refuse {
		t.Fatalf("old address after the lock: verdict %d", v)
	}
	if l.expect(renewed, 0) || l.expect(netip.AddrPort{}, 0) || l.expect(at("0.0.0.0:5000"), 0) {
		t.Fatal("the same or an unknown address must not end the lock")
	}
	// A phone behind NAT that only its SDP thinks to have moved goes on from where it was.
	l.expect(at("198.51.100.7:6000"), 0)
	if v := l.judge(renewed, &h, 600e6); v != lock {
		t.Fatalf("unmoved phone after half a second: verdict %d", v)
	}
}

// Whatever comes: once the named address is locked, it stays until the SDP changes, and
// nobody else is ever heard.
func TestLatchHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := []netip.AddrPort{at("198.51.100.7:4000"), at("198.51.100.7:4002"), at("203.0.113.9:4000"), at("10.0.0.1:4000"), at("127.0.0.1:4000")}
		var l latch
		var now int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, 2e9).Draw(t, "ns")
			who := rapid.SampledFrom(pool).Draw(t, "who")
			if rapid.IntRange(0, 9).Draw(t, "what") == 0 {
				l.expect(who, now)
				continue
			}
			before := l.peer
			v := l.judge(who, &header{seq: uint16(rapid.IntRange(0, 20).Draw(t, "seq"))}, now)
			if before == l.remote && before.IsValid() && (v == hear) != (who == before) {
				t.Fatalf("locked to the named %v, and %v gets verdict %d", before, who, v)
			}
			if before.IsValid() && v == lock && who != l.remote {
				t.Fatalf("%v takes over the lock of %v; the SDP names %v", who, before, l.remote)
			}
			if v == lock {
				l.settle(who)
			}
		}
	})
}

// A stranger is refused and counted, before and after, and hears nothing.
func TestStrangerIsRefused(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		a.say(440, 3)
		b.listenFor(3)
		thief := listen(t, "127.0.0.2")
		for i := range 20 {
			p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(a.seq) + uint16(i), Timestamp: a.ts, SSRC: a.ssrc}, Payload: a.tone(1700)}
			raw, err := p.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := thief.WriteToUDPAddrPort(raw, a.local); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "20 refused", func() bool { return r.Gauges().Refused == 20 })
		a.say(440, 10)
		got := b.listenFor(10)
		b.mustHear(got, 440, 1700)
		mustFlow(t, got, 0)
		b.say(880, 3)
		a.listenFor(3)
		_ = thief.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if n, _, err := thief.ReadFromUDPAddrPort(make([]byte, 99)); err == nil {
			t.Fatalf("the stranger hears %d bytes", n)
		}
		r.Do(core.CloseMedia{Leg: a.leg})
		s := await(t, r.inbox, closedLeg, a.leg).Stats
		if s.Refused != 20 || s.PacketsReceived != 15 || s.PacketsLost != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// What lies in the socket at the moment of the lock is judged packet by packet.
func TestLockLeavesNoStrangersBehind(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		bridge(a, b)
		thief := listen(t, "127.0.0.2")
		noise := func(seq int) []byte {
			p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(seq), SSRC: 666}, Payload: a.tone(1700)}
			raw, err := p.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		// On the loop's thread the sockets fill while it waits here.
		hold, free := make(chan struct{}), make(chan struct{})
		r.inbox.setFull(false)
		r.pause(a.leg, hold, free)
		<-hold
		a.say(440, 1)
		for i := range 5 {
			if _, err := thief.WriteToUDPAddrPort(noise(i), a.local); err != nil {
				t.Fatal(err)
			}
		}
		a.say(440, 9)
		close(free)
		b.mustHear(b.listenFor(10), 440, 1700)
		until(t, "five refused", func() bool { return r.Gauges().Refused == 5 })
	})
}

// pause stops a leg's loop until free is closed.
func (r *rig) pause(id core.LegID, hold, free chan struct{}) {
	r.loopOf(id).post(order{do: orderEmit, event: onLoop{do: func() {
		close(hold)
		<-free
	}}})
}

// onLoop is an event of the tests' own: the inbox carries it out on the loop's thread, after
// all orders before it. The embedded interface lends it isEvent.
type onLoop struct {
	core.Event
	do func()
}

// A phone that moves with a re-INVITE is heard and spoken to at its new address, and its
// old one is a stranger's.
func TestReinviteMovesThePeer(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		files := openFiles(t)
		for range 3 {
			a.say(440, 3)
			b.mustHear(b.listenFor(3), 440, 880)
			b.say(880, 3)
			a.mustHear(a.listenFor(3), 880, 440)
			old := a.conn
			a.conn = listen(t, "127.0.0.1")
			a.set(func(s *core.MediaSpec) { s.Remote = addrOf(a.conn) })
			b.say(880, 3) // before the first packet from there: to where the SDP says
			a.mustHear(a.listenFor(3), 880, 440)
			a.say(440, 2)
			b.listenFor(2)
			refused := r.Gauges().Refused
			if _, err := old.WriteToUDPAddrPort([]byte("\x80\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01old"), a.local); err != nil {
				t.Fatal(err)
			}
			until(t, "the old address refused", func() bool { return r.Gauges().Refused == refused+1 })
			old.Close()
		}
		if n := openFiles(t); n != files {
			t.Errorf("%d files open after the moves, %d before", n, files)
		}
	})
}

// Behind NAT: the SDP names an address that is not ours to reach; the source is learnt.
func TestPhoneBehindNAT(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		a.set(func(s *core.MediaSpec) { s.Remote = at("192.168.77.7:4000") })
		bridge(a, b)
		a.say(440, 2)
		b.listenFor(2)
		b.say(880, 5)
		a.mustHear(a.listenFor(5), 880, 440)
	})
}

// A peer whose port is shut for a moment (ICMP) is heard again afterwards.
func TestPeerShutsItsPort(t *testing.T) {
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, nil)
		a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
		r.talk(a, b)
		b.conn.Close()
		a.say(440, 20)
		until(t, "20 handled", func() bool { g := r.Gauges(); return g.Relayed+g.Dropped >= 24 })
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(b.spec.Remote))
		if err != nil {
			t.Skipf("the port was taken meanwhile: %v", err)
		}
		defer conn.Close()
		b.conn = conn
		a.say(440, 5)
		b.mustHear(b.listenFor(5), 440, 880)
	})
}
