package media

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// TestAcrossNamespaces has the phones on other machines, as far as the kernel can tell:
// three network namespaces joined by two pairs of virtual Ethernet. The node does not
// forward (ip_forward is 0 in a new namespace), one phone is behind a gateway, and the
// other's interface computes its checksums itself, so that the program has whole ones to
// keep right.
func TestAcrossNamespaces(t *testing.T) {
	if os.Getenv("MEDIA_NAMESPACES") != "" {
		insideNode(t, os.Getenv("MEDIA_NAMESPACES"))
		return
	}
	needKernel(t)
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and `ip`")
	}
	name := fmt.Sprintf("dt%d", os.Getpid())
	t.Cleanup(func() {
		for _, part := range []string{"n", "a", "b"} {
			_ = exec.Command("ip", "netns", "del", name+part).Run()
		}
	})
	script := `
ip netns add Xn; ip netns add Xa; ip netns add Xb
ip -n Xn link set lo up; ip -n Xa link set lo up; ip -n Xb link set lo up
ip -n Xn link add toa type veth peer name ton netns Xa
ip -n Xn link add tob type veth peer name ton netns Xb
ip -n Xn addr add 10.77.1.1/24 dev toa; ip -n Xn link set toa up
ip -n Xn addr add 10.77.2.1/24 dev tob; ip -n Xn link set tob up
ip -n Xa addr add 10.77.1.2/24 dev ton; ip -n Xa link set ton up; ip -n Xa route add default via 10.77.1.1
ip -n Xb addr add 10.77.2.2/24 dev ton; ip -n Xb link set ton up; ip -n Xb route add default via 10.77.2.1
ip -n Xb addr add 10.77.3.1/32 dev lo; ip -n Xn route add 10.77.3.1/32 via 10.77.2.2`
	for line := range strings.SplitSeq(strings.ReplaceAll(strings.TrimSpace(script), "; ", "\n"), "\n") {
		line = strings.ReplaceAll(line, "X", name)
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", line, err, out)
		}
	}
	inside := exec.Command("ip", "netns", "exec", name+"n", os.Args[0], "-test.run", "^TestAcrossNamespaces$", "-test.v")
	inside.Env = append(os.Environ(), "MEDIA_NAMESPACES="+name)
	out, err := inside.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// insideNode runs in the node's namespace.
func insideNode(t *testing.T, name string) {
	checksumsInSoftware(t, name+"a", "ton")
	r := newRigOn(t, PathKernel, func(c *Config) { c.Addr = netip.IPv4Unspecified() })
	place := func(leg int, namespace, host, node string) *phone {
		p := r.phoneOn(listenIn(t, namespace, host), legID(leg), pcmu)
		p.local = netip.AddrPortFrom(netip.MustParseAddr(node), p.local.Port())
		return p
	}
	exchange := func(what string, a, b *phone) {
		for range 5 {
			a.say(440, 5)
			b.say(880, 5)
			atB, atA := b.listenFor(5), a.listenFor(5)
			b.mustHear(atB, 440, 880)
			a.mustHear(atA, 880, 440)
			mustFlow(t, atB, 0)
			mustFlow(t, atA, 0)
		}
		t.Logf("%s: %+v", what, r.Gauges())
	}
	byKernel := func(least uint64) {
		t.Helper()
		until(t, "relayed by the kernel", func() bool { return r.Gauges().ByKernel >= least })
	}
	a, b := place(1, name+"a", "10.77.1.2", "10.77.1.1"), place(2, name+"b", "10.77.3.1", "10.77.2.1")
	r.talk(a, b)
	exchange("two machines, one behind a gateway", a, b)
	byKernel(40)

	// A phone on the node itself: what it says can be relayed by the kernel, what it hears not.
	c := place(3, name+"n", "10.77.1.1", "10.77.1.1")
	bridge(a, c)
	b.hears(core.Source{})
	until(t, "entrusted to the kernel", func() bool {
		a.say(440, 1)
		c.listenFor(1)
		c.say(880, 1)
		a.listenFor(1)
		return r.areEntrusted(c)
	})
	exchange("one on the node", a, c)
	byKernel(40 + 15)

	// Routes change: the flows begin anew, by the new way.
	bridge(a, b)
	c.hears(core.Source{})
	run(t, "ip", "addr", "add", "10.77.2.9/24", "dev", "tob")
	run(t, "ip", "route", "replace", "10.77.3.1/32", "via", "10.77.2.2", "src", "10.77.2.1")
	r.talkOn(a, b)
	exchange("after a change of routes", a, b)

	// An interface that comes later is served too.
	run(t, "ip", "link", "add", "later", "type", "veth", "peer", "name", "later", "netns", name+"a")
	run(t, "ip", "addr", "add", "10.77.4.1/24", "dev", "later")
	run(t, "ip", "link", "set", "later", "up")
	run(t, "ip", "-n", name+"a", "addr", "add", "10.77.4.2/24", "dev", "later")
	run(t, "ip", "-n", name+"a", "link", "set", "later", "up")
	d := place(4, name+"a", "10.77.4.2", "10.77.4.1")
	a.hears(core.Source{})
	bridge(d, b)
	r.talkOn(d, b)
	before := r.Gauges().ByKernel
	exchange("an interface that came later", d, b)
	until(t, "relayed by the kernel", func() bool { return r.Gauges().ByKernel >= before+30 })
	if n := dropped(t); n != 0 {
		t.Errorf("%d packets with a wrong checksum reached the node", n)
	}
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
}

// dropped returns how many UDP packets of this namespace had a wrong checksum.
func dropped(t *testing.T) (n int) {
	t.Helper()
	snmp, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(snmp)) {
		fields := strings.Fields(line)
		if fields[0] != "Udp:" {
			continue
		}
		for i, field := range fields {
			if names != nil && names[i] == "InCsumErrors" {
				_, _ = fmt.Sscan(field, &n)
			}
		}
		names = fields
	}
	return n
}

// inNamespace does something on a thread of another network namespace. The thread ends
// with it.
func inNamespace(t *testing.T, name string, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/var/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				err = do()
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func listenIn(t *testing.T, namespace, host string) (c *net.UDPConn) {
	t.Helper()
	inNamespace(t, namespace, func() (err error) {
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // an address may take a moment
			if c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(host)}); err == nil || time.Now().After(deadline) {
				return err
			}
		}
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// checksumsInSoftware makes an interface send whole checksums (ETHTOOL_STXCSUM).
func checksumsInSoftware(t *testing.T, namespace, name string) {
	t.Helper()
	inNamespace(t, namespace, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return setChecksumOffload(fd, name, 0)
	})
}

// setChecksumOffload is ioctl SIOCETHTOOL (Linux, include/uapi/linux/ethtool.h).
func setChecksumOffload(fd int, name string, on uint32) error {
	value := struct{ command, data uint32 }{0x17, on}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
