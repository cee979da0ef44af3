package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// anchor is a server that stands in the audio of calls: what the relay experiments measure.
type anchor struct {
	subject string
	parts   []*process
	close   func()
	talking func() int // calls that are up
}

func (a *anchor) cpu() (time.Duration, error) {
	total := time.Duration(0)
	for _, p := range a.parts {
		d, err := p.cpu()
		if err != nil {
			return 0, err
		}
		total += d
	}
	return total, nil
}

func (a *anchor) memory() (int64, error) {
	total := int64(0)
	for _, p := range a.parts {
		n, err := p.memory()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// startKamailio runs Kamailio as registrar and proxy with rtpengine as its relay, in user
// space: its kernel module is not part of what Debian installs without building it.
func (s *Suite) startKamailio(ctx context.Context, agents int) (*anchor, error) {
	dir, err := os.MkdirTemp(s.work, "kamailio-")
	if err != nil {
		return nil, err
	}
	cfg, err := unpack(dir, "peers/kamailio.cfg", "udp:SIP", "udp:"+sipAddr, "udp:CONTROL", "udp:"+controlAddr, "AGENTS", strconv.Itoa(agents))
	if err != nil {
		return nil, err
	}
	relay, err := start(dir, "rtpengine", nil, "rtpengine", "--foreground", "--log-stderr", "--log-level=3", "--interface=127.0.0.1",
		"--listen-ng="+controlAddr, "--table=-1", "--delete-delay=0", "--port-min=10000", "--port-max=25998", "--pidfile="+dir+"/rtpengine.pid")
	if err != nil {
		return nil, err
	}
	if err := until(ctx, 10*time.Second, func() bool { return bound(controlAddr) }); err != nil {
		relay.stop()
		return nil, fmt.Errorf("rtpengine does not listen: %w\n%s", err, relay.tail())
	}
	proxy, err := start(dir, "kamailio", nil, "kamailio", "-DD", "-E", "-f", cfg, "-Y", dir, "-w", dir, "-m", "512", "-M", "32")
	if err != nil {
		relay.stop()
		return nil, err
	}
	stop := func() {
		proxy.stop()
		relay.stop()
		_ = os.RemoveAll(dir)
	}
	if err := until(ctx, 10*time.Second, func() bool { return bound(sipAddr) }); err != nil {
		stop()
		return nil, fmt.Errorf("kamailio does not listen: %w\n%s", err, proxy.tail())
	}
	return &anchor{subject: "Kamailio + rtpengine", parts: []*process{proxy, relay}, close: stop, talking: func() int { return boundPorts(10000, 25998) / 4 }}, nil
}

// bound says whether somebody listens on a UDP address.
func bound(addr string) bool {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

// missing says which of the programs are not installed.
func missing(programs ...string) []string {
	var names []string
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			names = append(names, name)
		}
	}
	return names
}

// boundPorts counts the UDP ports of a range that are bound: an anchored call has four, one
// for RTP and one for RTCP on each side.
func boundPorts(from, to uint64) int {
	text, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil && from <= port && port <= to {
			n++
		}
	}
	return n
}
