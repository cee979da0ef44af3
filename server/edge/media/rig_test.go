package media

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/media/kernel"
)

// patience bounds every wait on a condition.
const patience = 10 * time.Second

// inbox collects events as the core's loop would; when full it refuses.
type inbox struct {
	mu     sync.Mutex
	came   *sync.Cond
	events []core.Event
	full   bool
}

func newInbox() *inbox {
	b := &inbox{}
	b.came = sync.NewCond(&b.mu)
	return b
}

func (b *inbox) emit(ev core.Event) bool {
	if ask, ok := ev.(onLoop); ok {
		ask.do()
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		return false
	}
	b.events = append(b.events, ev)
	b.came.Broadcast()
	return true
}

func (b *inbox) setFull(full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.full = full
}

func (b *inbox) count(want func(core.Event) bool) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ev := range b.events {
		if want(ev) {
			n++
		}
	}
	return n
}

// await returns the first event of a type for a leg, and takes it out.
func await[E core.Event](t testing.TB, b *inbox, leg func(E) core.LegID, id core.LegID) E {
	t.Helper()
	deadline := time.Now().Add(patience)
	wake := time.AfterFunc(patience, b.came.Broadcast)
	defer wake.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for i, ev := range b.events {
			if e, ok := ev.(E); ok && leg(e) == id {
				b.events = slices.Delete(b.events, i, i+1)
				return e
			}
		}
		if !time.Now().Before(deadline) {
			var none E
			t.Fatalf("no %T for leg %s within %v; there was %v", none, id, patience, b.events)
		}
		b.came.Wait()
	}
}

func openedLeg(e core.MediaOpened) core.LegID   { return e.Leg }
func refusedLeg(e core.MediaRefused) core.LegID { return e.Leg }
func closedLeg(e core.MediaClosed) core.LegID   { return e.Leg }
func doneLeg(e core.PlaybackDone) core.LegID    { return e.Leg }
func idleLeg(e core.MediaIdle) core.LegID       { return e.Leg }
func resumedLeg(e core.MediaResumed) core.LegID { return e.Leg }
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// rig is a Media on loopback with its events.
type rig struct {
	t testing.TB
	*Media
	*inbox
}

// freeRange finds a range of ports that nobody uses at this moment, below those that the
// kernel gives to sockets without a port of their own (from 32768 on). Only a measurement of
// many calls leaves the area of this package's tests (server/README.md).
func freeRange(t testing.TB, size int) (from, to uint16) {
	t.Helper()
	width := 5000
	if size > width/2 {
		width = 20000
	}
	for range 200 {
		p := 12000 + rand.IntN(width-size)&^1
		if allFree(p, size) {
			return uint16(p), uint16(p + size - 1)
		}
	}
	t.Fatal("no free port range on 127.0.0.1")
	return 0, 0
}

func allFree(from, size int) bool {
	for p := from; p < from+size; p++ {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p})
		if err != nil {
			return false
		}
		c.Close()
	}
	return true
}

// eachPath tells a story on each media path, which must not make a difference to it.
func eachPath(t *testing.T, story func(t *testing.T, path Path)) {
	t.Run(string(PathPortable), func(t *testing.T) { story(t, PathPortable) })
	t.Run(string(PathKernel), func(t *testing.T) {
		needKernel(t)
		story(t, PathKernel)
	})
}

func needKernel(t testing.TB) {
	t.Helper()
	if err := kernel.Probe(); err != nil {
		t.Skipf("this kernel does not relay for this process: %v", err)
	}
}

func newRig(t testing.TB, change func(*Config)) *rig { return newRigOn(t, PathPortable, change) }

func newRigOn(t testing.TB, path Path, change func(*Config)) *rig {
	t.Helper()
	b := newInbox()
	cfg := Config{Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), Rest: time.Millisecond, Path: path, Emit: b.emit, Log: quiet()}
	cfg.From, cfg.To = freeRange(t, 64)
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return &rig{t, m, b}
}

func quiet() *slog.Logger {
	if os.Getenv("MEDIA_LOG") != "" {
		return slog.Default()
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// codecs of the tests.
var (
	pcmu = core.Codec{Name: "PCMU", Payload: 0, Clock: 8000}
	pcma = core.Codec{Name: "PCMA", Payload: 8, Clock: 8000}
	g722 = core.Codec{Name: "G722", Payload: 9, Clock: 8000}
	opus = core.Codec{Name: "OPUS", Payload: 111, Clock: 48000}
)

// phone is a party: a socket, a stream that it sends and one that it hears.
type phone struct {
	t     testing.TB
	rig   *rig
	leg   core.LegID
	conn  *net.UDPConn
	codec core.Codec
	spec  core.MediaSpec
	local netip.AddrPort // of the leg

	seq, ssrc uint32
	ts        uint32
	phase     float64
}

// phone opens a leg and a socket to it. The specification talks both ways and hears
// silence; change it with set.
func (r *rig) phone(leg core.LegID, codec core.Codec) *phone {
	r.t.Helper()
	return r.phoneOn(listen(r.t, "127.0.0.1"), leg, codec)
}

func (r *rig) phoneOn(conn *net.UDPConn, leg core.LegID, codec core.Codec) *phone {
	r.t.Helper()
	p := &phone{conn: conn, t: r.t, rig: r, leg: leg, codec: codec, seq: 1000, ts: 50000, ssrc: 0x1000 + uint32(codec.Payload)}
	r.Do(core.OpenMedia{Leg: leg})
	p.local = await(r.t, r.inbox, openedLeg, leg).Local
	p.spec = core.MediaSpec{Remote: addrOf(p.conn), Codec: codec, Telephone: 101, Send: true, Receive: true}
	p.set(func(*core.MediaSpec) {})
	return p
}

func listen(t testing.TB, host string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func addrOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *phone) set(change func(*core.MediaSpec)) {
	change(&p.spec)
	p.rig.Do(core.SetMedia{Leg: p.leg, Spec: p.spec})
	p.rig.settled(p.leg)
}

// settled waits until the loop has carried out what was asked, not only taken it: until
// then the kernel may relay a packet by what was said before.
func (r *rig) settled(leg core.LegID) {
	r.t.Helper()
	done := make(chan struct{})
	r.loopOf(leg).post(order{do: orderEmit, event: onLoop{do: func() { close(done) }}})
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		r.t.Fatal("orders were not carried out")
	}
}

func (p *phone) hears(src core.Source) { p.set(func(s *core.MediaSpec) { s.Hear = src }) }

func bridge(a, b *phone) {
	a.hears(core.Source{Kind: core.Bridge, Peer: b.leg})
	b.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
}

// talk bridges two parties and lets each say two frames to the other. On the kernel's path
// it returns when the kernel relays for both, if they have one codec.
func (r *rig) talk(a, b *phone) {
	r.t.Helper()
	bridge(a, b)
	for range 2 {
		a.say(440, 1)
		b.listenFor(1)
		b.say(880, 1)
		a.listenFor(1)
	}
	r.entrusted(a, b)
}

// talkOn lets two parties talk until the kernel relays for both, on the kernel's path.
func (r *rig) talkOn(a, b *phone) {
	r.t.Helper()
	until(r.t, "entrusted to the kernel", func() bool {
		a.say(440, 1)
		b.say(880, 1)
		b.listenFor(1)
		a.listenFor(1)
		return r.Path() != PathKernel || r.areEntrusted(a, b)
	})
}

// entrusted waits until the kernel relays what parties say, on the kernel's path, if they
// have one codec.
func (r *rig) entrusted(parties ...*phone) {
	r.t.Helper()
	if r.Path() != PathKernel || parties[0].codec != parties[len(parties)-1].codec {
		return
	}
	until(r.t, "entrusted to the kernel", func() bool { return r.areEntrusted(parties...) })
}

// areEntrusted asks the loop itself, for the gauges lag.
func (r *rig) areEntrusted(parties ...*phone) bool {
	all := make(chan bool, 1)
	r.loopOf(parties[0].leg).post(order{do: orderEmit, event: onLoop{do: func() {
		yes := true
		for _, p := range parties {
			yes = yes && r.legs[p.leg].entrusted
		}
		all <- yes
	}}})
	return <-all
}

// say sends frames of a tone in Hz, 20 ms each, one after the other; the relay does not
// care for the pace.
func (p *phone) say(hz float64, frames int) {
	p.t.Helper()
	for range frames {
		p.packet(p.codec.Payload, p.tone(hz))
		p.ts += 160
	}
}

func (p *phone) tone(hz float64) []byte {
	b := make([]byte, frameSamples)
	for i := range b {
		v := int16(8000 * math.Sin(p.phase))
		p.phase += 2 * math.Pi * hz / 8000
		if b[i] = ulawEncode(v); p.codec == pcma {
			b[i] = alawEncode(v)
		}
	}
	return b
}

// packet sends one with the next sequence number.
func (p *phone) packet(pt uint8, payload []byte) {
	p.t.Helper()
	p.raw(&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: pt, SequenceNumber: uint16(p.seq), Timestamp: p.ts, SSRC: p.ssrc}, Payload: payload})
	p.seq++
}

func (p *phone) raw(packet *rtp.Packet) {
	p.t.Helper()
	b, err := packet.Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	p.bytes(b)
}

func (p *phone) bytes(b []byte) {
	p.t.Helper()
	if _, err := p.conn.WriteToUDPAddrPort(b, p.local); err != nil {
		p.t.Fatal(err)
	}
}

// listenFor returns the next n packets.
func (p *phone) listenFor(n int) []*rtp.Packet {
	p.t.Helper()
	var got []*rtp.Packet
	for len(got) < n {
		packet := p.next(patience)
		if packet == nil {
			p.t.Fatalf("leg %s: only %d of %d packets came", p.leg, len(got), n)
		}
		got = append(got, packet)
	}
	return got
}

// next returns the next RTP packet, nil when none comes in time.
func (p *phone) next(within time.Duration) *rtp.Packet {
	p.t.Helper()
	b := make([]byte, 2048)
	_ = p.conn.SetReadDeadline(time.Now().Add(within))
	n, _, err := p.conn.ReadFromUDPAddrPort(b)
	if err != nil {
		return nil
	}
	packet := &rtp.Packet{}
	if err := packet.Unmarshal(b[:n]); err != nil {
		p.t.Fatalf("leg %s sent what is not RTP: %v", p.leg, err)
	}
	return packet
}

// samples decodes packets in their own codec.
func (p *phone) samples(packets []*rtp.Packet) []int16 {
	var all []int16
	for _, packet := range packets {
		for _, c := range packet.Payload {
			if p.codec == pcma {
				all = append(all, alawSample[c])
			} else {
				all = append(all, ulawSample[c])
			}
		}
	}
	return all
}

// goertzel returns the share of the power of samples that lies at a frequency, 0 to 1.
func goertzel(samples []int16, hz float64) float64 {
	w := 2 * math.Cos(2*math.Pi*hz/8000)
	var s1, s2, total float64
	for _, v := range samples {
		s1, s2 = float64(v)+w*s1-s2, s1
		total += float64(v) * float64(v)
	}
	if total == 0 {
		return 0
	}
	return 2 * (s1*s1 + s2*s2 - w*s1*s2) / (total * float64(len(samples)))
}

// mustHear fails unless the tone is nearly all that is in the packets.
func (p *phone) mustHear(packets []*rtp.Packet, hz, not float64) {
	p.t.Helper()
	s := p.samples(packets)
	if yes, no := goertzel(s, hz), goertzel(s, not); yes < 0.9 || no > 0.05 {
		p.t.Fatalf("leg %s hears %.0f%% of %g Hz and %.0f%% of %g Hz", p.leg, 100*yes, hz, 100*no, not)
	}
}

// mustFlow fails unless packets are one flow: one SSRC, sequence by one each, time
// forward by at most slack more than a frame.
func mustFlow(t testing.TB, packets []*rtp.Packet, slack uint32) {
	t.Helper()
	for i := 1; i < len(packets); i++ {
		a, b := packets[i-1], packets[i]
		if a.SSRC != b.SSRC {
			t.Fatalf("packet %d: SSRC %#x after %#x", i, b.SSRC, a.SSRC)
		}
		if b.SequenceNumber != a.SequenceNumber+1 {
			t.Fatalf("packet %d: sequence %d after %d", i, b.SequenceNumber, a.SequenceNumber)
		}
		if d := b.Timestamp - a.Timestamp; d < 160 || d > 160+slack {
			t.Fatalf("packet %d: timestamp goes on by %d", i, int32(d))
		}
	}
}

func legID(n int) core.LegID { return core.LegID(fmt.Sprintf("int_test/%d", n)) }
