package kernel

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func need(t testing.TB) {
	t.Helper()
	if err := Probe(); err != nil {
		t.Skipf("this kernel does not relay for this process: %v", err)
	}
}

// The program that is part of the repository was made from the source beside it: each of
// the generated files has the hash that was noted when they were made.
func TestProgramIsOfItsSource(t *testing.T) {
	sums, err := os.ReadFile("relay.sum")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(sums)), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines in relay.sum, want those of source, object and Go file", len(lines))
	}
	for _, line := range lines {
		want, name, _ := strings.Cut(line, "  ")
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(content)); got != want {
			t.Errorf("%s has changed since relay.sum was made: run `go generate ./server/edge/media/kernel` (needs clang and libbpf's headers)", name)
		}
	}
}

// call is a flow on loopback: a speaker, the leg that it speaks to, the leg that it goes
// out by, and the hearer.
type call struct {
	speaker, at, by, hearer *net.UDPConn
	relay                   *Relay
	flow                    *Flow
}

func addrOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func newCall(t testing.TB) *call {
	t.Helper()
	conns := make([]*net.UDPConn, 4)
	for i := range conns {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c
	}
	c := &call{speaker: conns[0], at: conns[1], by: conns[2], hearer: conns[3]}
	var err error
	if c.relay, err = open(addrOf(c.at).Addr(), addrOf(c.at).Port(), 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.relay.Close() })
	c.flow = c.relay.Flow(addrOf(c.at).Port())
	return c
}

func (c *call) plan() *Plan {
	return &Plan{From: addrOf(c.speaker), At: addrOf(c.at), By: addrOf(c.by), To: addrOf(c.hearer), InSSRC: 1, OutSSRC: 2, Clock: 8000}
}

func (c *call) say(t testing.TB, from *net.UDPConn, packet string) {
	t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(packet), addrOf(c.at)); err != nil {
		t.Fatal(err)
	}
}

// next returns what a socket hears next, "" when nothing comes.
func next(c *net.UDPConn, within time.Duration) string {
	b := make([]byte, 256)
	_ = c.SetReadDeadline(time.Now().Add(within))
	n, _, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

const voice = "\x80\x00\x00\x05\x00\x00\x00\x05\x00\x00\x00\x01voice"

// Before Give and after Take every packet goes up; between them it is the hearer's, and
// an unusual one ends that, with all behind it.
func TestGiveAndTake(t *testing.T) {
	need(t)
	c := newCall(t)
	up, down := func() bool { return next(c.at, 5*time.Second) != "" }, func() bool { return next(c.hearer, 5*time.Second) != "" }
	c.say(t, c.speaker, voice)
	if !up() {
		t.Fatal("before Give nothing comes up")
	}
	c.flow.Give(c.plan(), &Count{Highest: 1<<16 + 4})
	c.say(t, c.speaker, voice)
	if !down() {
		t.Fatal("after Give nothing is relayed")
	}
	c.say(t, c.by, voice) // a stranger
	if !up() {
		t.Fatal("a stranger's packet is lost")
	}
	c.say(t, c.speaker, voice)
	if !down() {
		t.Fatal("a stranger has ended the flow")
	}
	c.say(t, c.speaker, strings.Replace(voice, "\x80\x00", "\x80\x65", 1)) // a digit
	c.say(t, c.speaker, voice)
	if !up() || !up() {
		t.Fatal("after an unusual packet the next one does not follow it")
	}
	if count, alone := c.flow.Take(); alone || count.Packets != 2 || count.Octets != 10 || count.Highest != 1<<16+5 {
		t.Errorf("%+v, alone %v", count, alone)
	}
	c.flow.Give(c.plan(), &Count{Highest: 1<<16 + 4})
	if _, alone := c.flow.Take(); !alone {
		t.Error("nothing has come, and yet the flow had ended")
	}
	c.say(t, c.speaker, voice)
	if !up() {
		t.Error("after Take nothing comes up")
	}
}

// Watch sees the speaker's packets, at the address that was told and nobody else's, and
// leaves them to the process.
func TestWatch(t *testing.T) {
	need(t)
	c := newCall(t)
	speaker, at := addrOf(c.speaker), addrOf(c.at)
	elsewhere := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 9}), at.Port())
	for _, w := range []struct {
		name     string
		from, at netip.AddrPort
		seen     bool
	}{{"the speaker", speaker, at, true}, {"somebody else", addrOf(c.by), at, false}, {"to another address", speaker, elsewhere, false}} {
		c.flow.Watch(w.from, w.at)
		if c.flow.Seen() {
			t.Errorf("%s: seen before it came", w.name)
		}
		c.say(t, c.speaker, voice)
		if next(c.at, 5*time.Second) == "" {
			t.Fatalf("%s: the packet did not come up", w.name)
		}
		if c.flow.Seen() != w.seen {
			t.Errorf("%s: seen %v", w.name, !w.seen)
		}
	}
}

// The windows of RFC 3550 A.1: 3,000 ahead, 100 behind; and never before the flow's first.
func TestSequenceWindow(t *testing.T) {
	need(t)
	c := newCall(t)
	for _, w := range []struct {
		seq     uint16
		relayed bool
		highest int64
	}{
		{65535, true, 1<<16 + 65535}, {0, true, 2 << 16}, {65530, true, 1<<16 + 65535},
		{65534, true, 1<<16 + 65535}, {2998, true, 2<<16 + 2998}, {2999, false, 0}, {65436, true, 1<<16 + 65535},
		{65435, false, 0}, {30000, false, 0}, {65449, false, 0},
	} {
		p := c.plan()
		p.First = 1<<16 + 65450
		if w.seq == 65436 {
			p.First = 0
		}
		c.flow.Give(p, &Count{Highest: 1<<16 + 65535})
		c.say(t, c.speaker, voice[:2]+string([]byte{byte(w.seq >> 8), byte(w.seq)})+voice[4:])
		if w.relayed != (next(c.hearer, map[bool]time.Duration{true: 5 * time.Second, false: 10 * time.Millisecond}[w.relayed]) != "") {
			t.Errorf("sequence %d after 65535: relayed %v", w.seq, !w.relayed)
		}
		count, _ := c.flow.Take()
		if w.relayed && count.Highest != w.highest {
			t.Errorf("sequence %d: highest %d, want %d", w.seq, count.Highest, w.highest)
		}
	}
}

// A process that is killed leaves no program behind, and no packet is relayed any more.
func TestKilledProcessLeavesNothing(t *testing.T) {
	if os.Getenv("KERNEL_TEST_CHILD") != "" {
		c := newCall(t)
		c.flow.Give(c.plan(), &Count{Highest: 1<<16 + 4})
		c.say(t, c.speaker, voice)
		if next(c.hearer, 5*time.Second) == "" {
			t.Fatal("nothing is relayed")
		}
		info, err := c.relay.objects.Relay.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		fmt.Printf("\nprogram %d\n", id)
		time.Sleep(time.Minute)
		return
	}
	need(t)
	child := exec.Command(os.Args[0], "-test.run", "^TestKilledProcessLeavesNothing$")
	child.Env = append(os.Environ(), "KERNEL_TEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var id ebpf.ProgramID
	for lines := bufio.NewScanner(out); id == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "program %d", &id)
	}
	if id == 0 || !attached(t, id) {
		t.Fatalf("program %d is not attached", id)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	for deadline := time.Now().Add(10 * time.Second); attached(t, id); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("program %d is still attached", id)
		}
	}
}

func attached(t *testing.T, id ebpf.ProgramID) bool {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	found, err := link.QueryPrograms(link.QueryOptions{Target: lo.Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(found.Programs, func(p link.AttachedProgram) bool { return p.ID == id })
}

func TestOpenRefuses(t *testing.T) {
	for _, ports := range [][2]uint16{{10001, 10009}, {10000, 10000}, {10000, 9998}} {
		if r, err := Open(netip.IPv4Unspecified(), ports[0], ports[1]); err == nil {
			r.Close()
			t.Errorf("ports %d to %d: no error", ports[0], ports[1])
		}
	}
}

// BenchmarkProgram is the program alone, per packet: relayed, of a stranger, and to a port
// that is not ours.
func BenchmarkProgram(b *testing.B) {
	need(b)
	c := newCall(b)
	frame := func(from netip.AddrPort, port uint16) []byte {
		f := append([]byte{12: 8}, 0)
		f = append(f, 0x45, 0, 0, 45+155, 0, 0, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
		f = append(f, byte(from.Port()>>8), byte(from.Port()), byte(port>>8), byte(port), 0, 25+155, 0, 0)
		return append(append(f, voice...), make([]byte, 155)...)
	}
	p := c.plan()
	p.By, p.To, p.OutSSRC = p.From, p.At, p.InSSRC // unchanged, so that it may come again
	for name, packet := range map[string][]byte{
		"relayed":  frame(p.From, p.At.Port()),
		"stranger": frame(p.To, p.At.Port()),
		"foreign":  frame(p.From, p.At.Port()+1),
	} {
		b.Run(name, func(b *testing.B) {
			c.flow.Give(p, &Count{Highest: 1<<16 + 5})
			_, took, err := c.relay.objects.Relay.Benchmark(packet, b.N, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/op")
			if count, _ := c.flow.Take(); (name == "relayed") != (count.Packets > 0) {
				b.Fatalf("%d relayed", count.Packets)
			}
		})
	}
}
