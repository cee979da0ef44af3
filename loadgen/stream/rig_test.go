package stream

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/pion/rtp"
	"go.uber.org/goleak"
)

// patience bounds every wait for a condition; a test that passes never waits for it.
const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func engine(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func open(t testing.TB, e *Engine, o Options) *Stream {
	t.Helper()
	s, err := e.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func talk(t testing.TB, s *Stream, to netip.AddrPort, c Codec) {
	t.Helper()
	if err := s.Talk(to, c); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition on what a stream hears.
func until(t testing.TB, s *Stream, what string, ok func(Heard) bool) Heard {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		h := s.Heard()
		if ok(h) {
			return h
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s; heard %+v", patience, what, h.Audio)
		}
	}
}

// hush mutes a stream and returns how many packets it has sent in all.
func hush(s *Stream) uint64 {
	s.Mute(true)
	return s.Heard().Audio.Sent
}

// plain is a socket that is no stream.
func plain(t testing.TB) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// capture reads packets until enough says so.
func capture(t testing.TB, c *net.UDPConn, enough func([]rtp.Packet) bool) (got []rtp.Packet) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for !enough(got) {
		b := make([]byte, 2048)
		n, _, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatalf("after %d packets: %v", len(got), err)
		}
		var p rtp.Packet
		if err := p.Unmarshal(b[:n]); err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	return got
}

// path is a network between a speaker and a listener that does what a script says with
// each stamped packet, by its index: it returns what arrives, now.
type path struct {
	conn *net.UDPConn
	at   netip.AddrPort
	done chan struct{}
}

func newPath(t testing.TB, to netip.AddrPort, script func(index uint32, packet []byte) [][]byte) *path {
	t.Helper()
	conn, at := plain(t)
	p := &path{conn, at, make(chan struct{})}
	go func() {
		defer close(p.done)
		b := make([]byte, 2048)
		for {
			n, _, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			st, _ := readStamp(b[12:n])
			for _, out := range script(st.index, append([]byte(nil), b[:n]...)) {
				_, _ = conn.WriteToUDPAddrPort(out, to)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-p.done })
	return p
}

func openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// still is an engine whose only thread is the test: time passes by step alone, and what is
// sent over loopback has arrived when the call returns.
type still struct {
	*loop
	t    testing.TB
	open []*Stream
}

func stillEngine(t testing.TB, cfg Config) *still {
	t.Helper()
	e, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k := &still{loop: e.loops[0], t: t}
	k.look()
	k.ticked = k.now / int64(tick)
	t.Cleanup(func() {
		for _, s := range k.open {
			closeFD(s.fd)
		}
		k.poller.close()
	})
	return k
}

func (k *still) stream(o Options) *Stream {
	k.t.Helper()
	if err := o.check(); err != nil {
		k.t.Fatal(err)
	}
	fd, at, err := bindEven(k.engine.cfg.Addr)
	if err != nil {
		k.t.Fatal(err)
	}
	s := newStream(k.engine, k.loop, o, fd, at)
	k.open = append(k.open, s)
	if err := k.take(s); err != nil {
		k.t.Fatal(err)
	}
	return s
}

func (k *still) connect(s *Stream, to netip.AddrPort, c Codec) {
	k.t.Helper()
	var peer sockaddr
	peer.set(to, familyOf(to.Addr()))
	if err := connectUDP(s.fd, &peer); err != nil {
		k.t.Fatal(err)
	}
	k.talk(s, nil, c, k.engine.tone(s.options.Tone, c))
}

// step lets so many ticks pass at once, as if the loop had been held up for them.
func (k *still) step(ticks int) {
	k.now = (k.ticked + int64(ticks)) * int64(tick)
	for k.ticked < k.now/int64(tick) {
		k.serve()
	}
	real := time.Now()
	k.offset = real.UnixNano() - int64(real.Sub(k.engine.birth))
	for before := k.pacing.received - 1; before != k.pacing.received; {
		before = k.pacing.received
		k.listen()
	}
}
