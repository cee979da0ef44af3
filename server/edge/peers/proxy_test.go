package peers

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// proxy is a network between others and one process: TCP and UDP towards that process, and
// back on TCP. Heartbeats back take the proxy of the other process.
type proxy struct {
	addr netip.AddrPort
	to   netip.AddrPort
	tcp  net.Listener
	udp  net.PacketConn
	work sync.WaitGroup

	mu        sync.Mutex
	conns     map[net.Conn]bool
	deaf      bool     // datagrams are lost
	mute      bool     // what is said on TCP is lost, in both directions; nothing is refused
	curt      bool     // of what the dialing side says, only the hello comes through
	datagrams [][]byte // that were let through
	streams   []*bytes.Buffer
}

func newProxy(t *testing.T, to netip.AddrPort) *proxy {
	t.Helper()
	p := &proxy{to: to, conns: map[net.Conn]bool{}}
	for p.udp == nil {
		tcp, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.addr = tcp.Addr().(*net.TCPAddr).AddrPort()
		if p.udp, err = net.ListenPacket("udp4", p.addr.String()); err != nil {
			tcp.Close()
			continue
		}
		p.tcp = tcp
	}
	p.work.Go(p.accept)
	p.work.Go(p.relay)
	t.Cleanup(func() {
		p.tcp.Close()
		p.udp.Close()
		p.cut()
		p.work.Wait()
	})
	return p
}

func (p *proxy) set(deaf, mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf, p.mute = deaf, mute
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) relay() {
	b := make([]byte, 2048)
	for {
		n, _, err := p.udp.ReadFrom(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		if !p.deaf {
			p.datagrams = append(p.datagrams, bytes.Clone(b[:n]))
			_, _ = p.udp.WriteTo(b[:n], net.UDPAddrFromAddrPort(p.to))
		}
		p.mu.Unlock()
	}
}

func (p *proxy) accept() {
	for {
		in, err := p.tcp.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp4", p.to.String())
		if err != nil {
			in.Close()
			continue
		}
		heard := &bytes.Buffer{}
		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.streams = append(p.streams, heard)
		p.mu.Unlock()
		p.work.Go(func() { p.copy(out, in, heard) })
		p.work.Go(func() { p.copy(in, out, io.Discard) })
	}
}

func (p *proxy) copy(to, from net.Conn, heard io.Writer) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		mute := p.mute || p.curt && heard != io.Discard && heard.(*bytes.Buffer).Len() > 0
		if !mute {
			_, _ = heard.Write(b[:n])
		}
		if err != nil {
			delete(p.conns, from)
			delete(p.conns, to)
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
		if !mute {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
}

// between makes two nodes whose every word goes through two proxies: the first towards a,
// the second towards b.
func between(t *testing.T) (a, b *node, toA, toB *proxy) {
	t.Helper()
	a, b = newNode(t, "a", 3), newNode(t, "b", 4)
	toA, toB = newProxy(t, a.Addr()), newProxy(t, b.Addr())
	a.Member.Addr, b.Member.Addr = toA.addr, toB.addr
	introduce(t, a, b)
	return a, b, toA, toB
}

// Datagrams are lost in one direction: who does not hear says so, the other one hears.
func TestAsymmetricLoss(t *testing.T) {
	a, b, toA, toB := between(t)
	toA.set(true, false)
	a.await(t, "b", "PeerUp PeerSilent")
	quietFor(t, a.Peers, 10)
	toA.set(false, false)
	a.await(t, "b", "PeerUp PeerSilent PeerUp")
	if lag := a.Gauges().Lag; !starved(lag, testBeat) && story(b.said(), "a") != "PeerUp" {
		t.Errorf("b said of a: %s; its latest beat was %v late", story(b.said(), "a"), lag)
	}
	toB.set(true, false)
	b.await(t, "a", story(b.said(), "a")+" PeerSilent")
	if g := a.Gauges(); g.Deaths != 0 || g.Connected != 1 {
		t.Errorf("%+v", g)
	}
}

// A connection that ends and comes again, again and again, is no death.
func TestConnectionIsCut(t *testing.T) {
	a, b, toA, toB := between(t)
	for range 10 {
		toA.cut()
		toB.cut()
		until(t, "new connections", func() bool {
			toA.mu.Lock()
			toB.mu.Lock()
			defer toA.mu.Unlock()
			defer toB.mu.Unlock()
			return len(toA.conns) > 0 && len(toB.conns) > 0
		})
	}
	until(t, "new connections", func() bool { return a.Gauges().Connected == 1 && b.Gauges().Connected == 1 })
	quietFor(t, a.Peers, 10)
	for _, n := range []*node{a, b} {
		if g := n.Gauges(); g.Deaths != 0 || g.Silences != 0 && !starved(g.Lag, testBeat) {
			t.Errorf("%+v", g)
		}
	}
	a.mu.Lock()
	if len(a.ears) > 2 {
		t.Errorf("%d connections are listened for", len(a.ears))
	}
	a.mu.Unlock()
}

// TCP goes nowhere, heartbeats come: that is no silence. When they end it is one, and it
// does not end before both are there again.
func TestNoWayForTCP(t *testing.T) {
	a, b, toA, toB := between(t)
	toB.set(false, true)
	toB.cut()
	until(t, "the connection to be lost", func() bool { return a.Gauges().Connected == 0 })
	quietFor(t, a.Peers, 20)
	if g := a.Gauges(); story(a.said(), "b") != "PeerUp" && !starved(max(g.Lag, b.Gauges().Lag), testBeat) {
		t.Errorf("a said of b: %s", story(a.said(), "b"))
	}
	toA.set(true, false)
	until(t, "a silence", func() bool { return last(a.said(), "b").Kind == "PeerSilent" })
	toA.set(false, false)
	before := story(a.said(), "b")
	quietFor(t, a.Peers, 10)
	if now := story(a.said(), "b"); now != before {
		t.Errorf("%s without a connection", now)
	}
	toB.set(false, false)
	until(t, "b to be up", func() bool { return a.Gauges().Up == 1 })
	if g := a.Gauges(); g.Deaths != 0 {
		t.Errorf("%+v", g)
	}
}

// Half a handshake: the dialing side is through, its confirm is lost. The heartbeats go on
// with the key of the connection before, and count.
func TestLostConfirm(t *testing.T) {
	a, b, _, toB := between(t)
	toB.mu.Lock()
	toB.curt = true
	toB.mu.Unlock()
	for range 3 {
		was := b.Gauges().RefusedHellos
		toB.cut()
		until(t, "half a handshake", func() bool { return b.Gauges().RefusedHellos > was }) // by its end, or after a second
	}
	if g := a.Gauges(); story(a.said(), "b") != "PeerUp" && !starved(max(g.Lag, b.Gauges().Lag), testBeat) {
		t.Errorf("a said of b: %s", story(a.said(), "b"))
	}
	a.mu.Lock()
	if len(a.ears) > 2 {
		t.Errorf("%d connections are listened for", len(a.ears))
	}
	a.mu.Unlock()
	toB.mu.Lock()
	toB.curt = false
	toB.mu.Unlock()
	toB.cut()
	until(t, "a whole handshake", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.peers["b"].next == nil && a.peers["b"].out != nil
	})
}

// What was recorded makes no dead one live and no live one silent.
func TestReplay(t *testing.T) {
	a, b, toA, toB := between(t)
	quietFor(t, b.Peers, 20)
	replay := func() {
		toA.mu.Lock()
		old := slices.Clone(toA.datagrams)
		toA.mu.Unlock()
		for _, datagram := range old {
			_, _ = toA.udp.WriteTo(datagram, net.UDPAddrFromAddrPort(a.Addr()))
		}
	}
	replay()
	until(t, "replayed datagrams", func() bool { return a.Gauges().Refused[string(replayed)] >= 10 })

	// The connection of a to b, said again by another: b must not take it for a's.
	voiceOf := func() *voice {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.peers["a"].voice
	}
	was, hellos := voiceOf(), b.Gauges().RefusedHellos
	toB.mu.Lock()
	said := bytes.Clone(toB.streams[0].Bytes())
	toB.mu.Unlock()
	conn, err := net.Dial("tcp4", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write(said)
	until(t, "a refusal", func() bool { return b.Gauges().RefusedHellos > hellos })
	if voiceOf() != was {
		t.Error("b speaks to who replays")
	}

	toA.set(true, false)
	a.await(t, "b", "PeerUp PeerSilent")
	before := a.Gauges().Refused[string(replayed)]
	replay()
	until(t, "replayed datagrams", func() bool { return a.Gauges().Refused[string(replayed)] > before })
	quietFor(t, a.Peers, 5)
	a.await(t, "b", "PeerUp PeerSilent")
}

// Datagrams of strangers, with tags that are guessed and tags that are right, change nothing
// but figures; a flood of them does not push out the heartbeats.
func TestForgedTraffic(t *testing.T) {
	a, b, toA, _ := between(t)
	seed := uint64(time.Now().UnixNano())
	chance := rand.New(rand.NewPCG(seed, 1))
	quietFor(t, b.Peers, 5)
	toA.mu.Lock()
	model := toA.datagrams[len(toA.datagrams)-1]
	toA.mu.Unlock()
	junk, err := net.Dial("udp4", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer junk.Close()
	for range 100 {
		forgery := bytes.Clone(model)
		forgery[8+chance.IntN(pulseSize-8)] ^= byte(1 + chance.IntN(255))
		_, _ = junk.Write(forgery)
	}
	until(t, "forgeries", func() bool { return a.Gauges().Refused[string(forged)] == 100 })
	// The socket must hold the heartbeats of a flood much longer than it could hold the flood.
	ended := make(chan struct{})
	var flood sync.WaitGroup
	for i := range 2 {
		stranger := rand.New(rand.NewPCG(seed, uint64(i)))
		flood.Go(func() {
			b := bytes.Clone(model)
			for {
				select {
				case <-ended:
					return
				default:
				}
				for range 64 {
					b[4], b[5], b[6], b[7] = byte(stranger.Uint32()), byte(stranger.Uint32()), byte(stranger.Uint32()), byte(stranger.Uint32())
					_, _ = junk.Write(b[:chance64(stranger, len(b))])
				}
			}
		})
	}
	until(t, "a flood", func() bool { return a.Gauges().Refused["kernel"] > 20000 })
	quietFor(t, a.Peers, 20)
	close(ended)
	flood.Wait()
	g := a.Gauges()
	if got := story(a.said(), "b"); got != "PeerUp" && !starved(max(g.Lag, b.Gauges().Lag), testBeat) {
		t.Errorf("a said of b: %s; seed %d; %+v", got, seed, g)
	}
	if g.Refused[string(unknown)] > 100 || g.Refused[string(malformed)] > 0 || g.Deaths != 0 {
		t.Errorf("strangers get past the filter: %+v", g)
	}
	b.Close()
	until(t, "b to be gone", func() bool { return a.Gauges().Connected == 0 })
	for _, datagram := range [][]byte{model, model[:20], nil} {
		_, _ = junk.Write(datagram)
	}
	until(t, "b to be silent", func() bool { return a.Gauges().Up == 0 }) // its proxy refuses nothing
}

// chance64 is mostly a whole heartbeat, and sometimes less.
func chance64(r *rand.Rand, whole int) int {
	if r.IntN(8) == 0 {
		return r.IntN(whole)
	}
	return whole
}

// A restart behind something that takes connections in the process's place: who answers
// next is another one.
func TestAnotherIncarnationAnswers(t *testing.T) {
	a, b := newNode(t, "a", 3), newNode(t, "b", 4)
	toB := newProxy(t, b.Addr())
	b.Member.Addr = toB.addr
	introduce(t, a, b)
	b.Close()
	until(t, "the connection to be lost", func() bool { return a.Gauges().Connected == 0 })
	quietFor(t, a.Peers, 5)
	if a.Gauges().Deaths != 0 {
		t.Fatal("dead, though nobody refused")
	}
	again := newNode(t, "b", 5, func(c *Config) { c.Addr = toB.to })
	until(t, "the death", func() bool { return a.Gauges().Deaths == 1 })
	again.Member.Addr = toB.addr
	again.know(a.Member)
	a.know(again.Member)
	until(t, "b to be up", func() bool { l := last(a.said(), "b"); return l.Kind == "PeerUp" && l.Peer == again.Member })
	for _, l := range a.said() {
		if l.Kind == "PeerDead" && l.Peer.Incarnation != 4 {
			t.Errorf("%+v is dead", l.Peer)
		}
	}
}
