package peers

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The cable between two hosts is pulled, for longer than any connection bears: that is
// silence on both sides, and a new beginning when it is plugged in again. The same when
// neither has a route. At last a process is killed while the cable is out, and the end of it
// reaches nobody until it is in again.
func TestUnreachableHost(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and `ip`")
	}
	name := fmt.Sprintf("dtp%d", os.Getpid())
	t.Cleanup(func() {
		for _, side := range []string{"a", "b"} {
			_ = exec.Command("ip", "netns", "del", name+side).Run()
		}
	})
	ip := func(line string) error {
		out, err := exec.Command("ip", strings.Fields(strings.ReplaceAll(line, "X", name))...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
		return nil
	}
	for _, line := range []string{
		"netns add Xa", "netns add Xb", "-n Xa link set lo up", "-n Xb link set lo up",
		"-n Xa link add e type veth peer name e netns Xb",
		"-n Xa addr add 10.78.1.1/24 dev e", "-n Xb addr add 10.78.1.2/24 dev e", "-n Xa link set e up", "-n Xb link set e up",
	} {
		if err := ip(line); err != nil {
			t.Skip(err)
		}
	}
	in := func(side, at string, id core.NodeID) *child {
		return launch(t, exec.Command("ip", "netns", "exec", name+side, os.Args[0], string(id), "7", at, testBeat.String(), "0"), id, 7)
	}
	a, b := in("a", "10.78.1.1:4100", "a"), in("b", "10.78.1.2:4100", "b")
	a.do(t, order{Peers: []core.Member{b.Member}})
	b.do(t, order{Peers: []core.Member{a.Member}})
	isSaid := func(c, of *child, kind string) {
		t.Helper()
		until(t, fmt.Sprintf("%s of %s", kind, of.ID), func() bool { return last(c.said(), of.ID).Kind == kind })
	}
	isSaid(a, b, "PeerUp")
	isSaid(b, a, "PeerUp")
	run := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			if err := ip(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, fault := range [][2][]string{
		{{"-n Xb link set e down"}, {"-n Xb link set e up"}},
		{
			{"-n Xa route add blackhole 10.78.1.2/32", "-n Xb route add blackhole 10.78.1.1/32"},
			{"-n Xa route del blackhole 10.78.1.2/32", "-n Xb route del blackhole 10.78.1.1/32"},
		},
	} {
		run(fault[0]...)
		isSaid(a, b, "PeerSilent")
		isSaid(b, a, "PeerSilent")
		// The kernels give the connections up, and new ones get nowhere.
		until(t, "the connections to be lost", func() bool {
			return a.gauges(t).Gauges.Connected+b.gauges(t).Gauges.Connected == 0
		})
		run(fault[1]...)
		isSaid(a, b, "PeerUp")
		isSaid(b, a, "PeerUp")
	}
	run("-n Xb link set e down")
	isSaid(a, b, "PeerSilent")
	b.signal(syscall.SIGKILL) // `ip netns exec` has become the member itself
	<-b.ended
	run("-n Xb link set e up")
	isSaid(a, b, "PeerDead") // its kernel knows of no such connection, and nobody listens
	if g := a.gauges(t).Gauges; g.Deaths != 1 {
		t.Errorf("%+v", g)
	}
}
