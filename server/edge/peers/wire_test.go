package peers

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Only what was sealed with the very key opens, once, and in order; whatever bit is changed.
func TestPulses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, mark := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"), tag(rapid.Uint32().Draw(t, "tag"))
		v, e := newVoice(mark, key), newEar(mark, nil, key)
		other := newEar(mark, nil, append([]byte{1}, key...))
		var sent [][]byte
		highest := -1
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if len(sent) == 0 || rapid.Bool().Draw(t, "send") {
				p := pulse{0, time.Duration(rapid.Int64().Draw(t, "sent")), time.Duration(rapid.Int64().Draw(t, "echo")), time.Duration(rapid.Int64().Draw(t, "held"))}
				b := v.append(nil, p)
				p.seq = v.seq
				sent = append(sent, b)
				if got, why := newEar(mark, nil, key).open(b); why != "" || got != p {
					t.Fatalf("%+v %s, sent %+v", got, why, p)
				}
				continue
			}
			i := rapid.IntRange(0, len(sent)-1).Draw(t, "which")
			b := bytes.Clone(sent[i])
			if bit := rapid.IntRange(-1, 8*len(b)-1).Draw(t, "bit"); bit >= 8*8 { // after magic and tag
				b[bit/8] ^= 1 << (bit % 8)
				if _, why := e.open(b); why != forged {
					t.Fatalf("with bit %d changed: %q", bit, why)
				}
				continue
			}
			if m, why := tagOf(b); m != mark || why != "" {
				t.Fatalf("tag %v %s", m, why)
			}
			if _, why := other.open(b); why != forged {
				t.Fatalf("opens with another key: %q", why)
			}
			want := refusal("")
			if i <= highest {
				want = replayed
			}
			if _, why := e.open(b); why != want {
				t.Fatalf("number %d after %d: %q, want %q", i, highest, why, want)
			}
			highest = max(highest, i)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	key := bytes.Repeat([]byte{7}, 32)
	good := newVoice(5, key).append(nil, pulse{sent: 1})
	f.Add(good)
	f.Add([]byte{})
	f.Add(good[:pulseSize-1])
	f.Add(append(bytes.Clone(good), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &Peers{ears: map[tag]*ear{}}
		q := &peer{out: &outbound{}}
		q.ear = newEar(5, q, key)
		p.ears[5] = q.ear
		if changed := p.heard(b, 1); changed != bytes.Equal(b, good) {
			t.Errorf("heard %v: %x", changed, b)
		}
		var refused uint64
		for _, n := range p.tally.refused {
			refused += n
		}
		if (refused == 1) == bytes.Equal(b, good) {
			t.Errorf("refused %d: %x", refused, b)
		}
	})
}

func FuzzGreeting(f *testing.F) {
	k := []byte(secret)
	hello := appendHello(nil, k, greeting{nonce{1}, 2, process{"node-1", 3}})
	f.Add(hello, hello)
	f.Add(appendWelcome(nil, k, hello, greeting{nonce{9}, 0, process{"node-2", 0}}), hello)
	f.Fuzz(func(t *testing.T, b, before []byte) {
		if g, err := readHello(b, k); err == nil && !bytes.Equal(appendHello(nil, k, g), b) {
			t.Errorf("%x reads as another hello: %+v", b, g)
		}
		if g, err := readWelcome(b, k, before); err == nil && !bytes.Equal(appendWelcome(nil, k, before, g), b) {
			t.Errorf("%x reads as another welcome: %+v", b, g)
		}
		if g, _, err := readGreeting(b); err == nil && (g.who.id == "" || len(g.who.id) > maxID || g.who.incarnation < 0) {
			t.Errorf("%+v", g)
		}
	})
}

func FuzzFrame(f *testing.F) {
	about := core.Member{ID: "node-2", Incarnation: 12, Addr: netip.MustParseAddrPort("[fe80::1%eth0]:4000")}
	f.Add(appendAsk(nil, about))
	f.Add(appendTell(nil, about, true))
	f.Add(appendTell(nil, core.Member{ID: "x"}, false))
	from := core.Member{ID: "node-1", Incarnation: 3}
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := readFrame(b, from)
		if err != nil {
			return
		}
		var again []byte
		switch e := ev.(type) {
		case core.PeerAsked:
			again = appendAsk(nil, e.About)
		case core.PeerTold:
			again = appendTell(nil, e.About, e.Hears)
		}
		if same, err := readFrame(again, from); err != nil || !reflect.DeepEqual(same, ev) {
			t.Errorf("%+v becomes %+v, %v", ev, same, err)
		}
	})
}

// What a handshake yields is bound to all that was said in it, and to who said it.
func TestHandshakeIsBound(t *testing.T) {
	k, other := []byte(secret), []byte("the secret of another cluster")
	hello := appendHello(nil, k, greeting{nonce{1}, 2, process{"a", 3}})
	welcome := appendWelcome(nil, k, hello, greeting{nonce{4}, 0, process{"b", 5}})
	if g, err := readHello(hello, k); err != nil || g != (greeting{nonce{1}, 2, process{"a", 3}}) {
		t.Fatal(g, err)
	}
	if g, err := readWelcome(welcome, k, hello); err != nil || g.who != (process{"b", 5}) {
		t.Fatal(g, err)
	}
	newer := appendHello(nil, k, greeting{nonce{2}, 2, process{"a", 3}})
	for name, err := range map[string]error{
		"a hello with another secret":   second(readHello(hello, other)),
		"a welcome with another":        second(readWelcome(welcome, other, hello)),
		"an old welcome":                second(readWelcome(welcome, k, newer)),
		"a hello that comes back":       second(readWelcome(hello, k, hello)),
		"a welcome in place of hello":   second(readHello(welcome, k)),
		"a hello that is cut off":       second(readHello(hello[:len(hello)-1], k)),
		"a welcome with something more": second(readWelcome(append(bytes.Clone(welcome), 0), k, hello)),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	all := keysOf(k, hello, welcome)
	if bytes.Equal(all.beats, all.frames) || bytes.Equal(all.beats, keysOf(k, newer, welcome).beats) || bytes.Equal(all.beats, keysOf(other, hello, welcome).beats) {
		t.Error("two connections have one key")
	}
}

func second(_ greeting, err error) error { return err }

// Frames are taken in their order, each once.
func TestFramesInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := []byte("key")
		w := newFrames(key)
		var sealed [][]byte
		for i := range 5 {
			body := []byte{byte(i)}
			sealed = append(sealed, append(body, w.sealNext(body)...))
		}
		r := newFrames(key)
		for i := range 5 {
			which := rapid.IntRange(0, 4).Draw(t, "which")
			body, err := r.open(sealed[which])
			if (err == nil) != (which == i) {
				t.Fatalf("frame %d at place %d: %v", which, i, err)
			}
			if err != nil {
				return
			}
			if body[0] != byte(i) {
				t.Fatalf("frame %d reads %d", i, body[0])
			}
		}
	})
}

// The kernel says when a datagram came. Its clock may be set between that and the reading:
// then the error is at most a beat.
func TestArrival(t *testing.T) {
	s, err := newSocket(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	own, err := unix.Getsockname(s.fd)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	for _, size := range []int{3, pulseSize, pulseSize + 1, 1400} {
		if err := s.sendTo(make([]byte, size), own); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "datagrams", func() bool { return s.receive() == 4 })
	for i, size := range []int{3, pulseSize, pulseSize + 1, pulseSize + 1} {
		if got := len(s.datagram(i)); got != size {
			t.Errorf("datagram %d has %d bytes", i, got)
		}
	}
	for i, c := range []struct {
		wall time.Time
		most time.Duration
		want time.Duration
	}{
		{before.Add(-time.Hour), time.Second, 0},
		{before.Add(time.Hour), time.Second, time.Second},
	} {
		if got := s.arrived(i, c.wall, c.most); got != c.want {
			t.Errorf("%v ago, want %v", got, c.want)
		}
	}
	later := time.Now()
	if got := s.arrived(2, later, time.Hour); got <= 0 || got > later.Sub(before) {
		t.Errorf("%v ago, at most %v", got, later.Sub(before))
	}
	// With the filter of two tags only their heartbeats come through.
	if err := s.only([]tag{5, 1 << 31}); err != nil {
		t.Skip(err)
	}
	good := newVoice(1<<31, nil).append(nil, pulse{})
	for _, b := range [][]byte{good, good[1:], append(bytes.Clone(good), 0), newVoice(6, nil).append(nil, pulse{}), make([]byte, pulseSize), newVoice(5, nil).append(nil, pulse{}), good} {
		if err := s.sendTo(b, own); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.receive(); n != 3 || !bytes.Equal(s.datagram(0), good) || s.drops() != 4 {
		t.Errorf("%d came through, %d were dropped", n, s.drops())
	}
}

func BenchmarkPulse(b *testing.B) {
	v, e := newVoice(5, make([]byte, 32)), newEar(5, nil, make([]byte, 32))
	var out [pulseSize]byte
	b.ReportAllocs()
	for b.Loop() {
		if _, why := e.open(v.append(out[:0], pulse{})); why != "" {
			b.Fatal(why)
		}
	}
}
