package stream

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pairs opens n pairs of streams, the callers in one engine and the agents in another one
// (or the same), each caller talking to its agent. It returns what closes them.
func pairs(b *testing.B, callers, agents *Engine, n int, both bool) {
	b.Helper()
	for i := range n {
		caller, err := callers.Open(Options{Voice: uint64(2*i + 1), Tone: 440, Label: "agent_hears"})
		if err != nil {
			b.Fatal(err)
		}
		agent, err := agents.Open(Options{Voice: uint64(2*i + 2), Tone: 880, Label: "caller_hears"})
		if err != nil {
			b.Fatal(err)
		}
		if err := caller.Talk(agent.Addr(), PCMU); err != nil {
			b.Fatal(err)
		}
		if both {
			err = agent.Talk(caller.Addr(), PCMU)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// settle waits until an engine has sent or received n packets more.
func settle(e *Engine, n uint64) (from, to Pacing, took time.Duration) {
	from = e.Pacing()
	begin := time.Now()
	for to = from; max(to.Sent-from.Sent, to.Received-from.Received) < n; to = e.Pacing() {
		time.Sleep(200 * time.Millisecond)
	}
	return from, to, time.Since(begin)
}

func report(b *testing.B, from, to Pacing, took time.Duration, n uint64) {
	b.ReportMetric((to.CPU-from.CPU).Seconds()*1e6/float64(n), "us-CPU/packet")
	b.ReportMetric((to.CPU-from.CPU).Seconds()/took.Seconds(), "cores")
	b.ReportMetric(float64(n)/took.Seconds(), "packets/s")
	b.ReportMetric(float64(to.Lateness.ValueAtQuantile(50)), "us-late-p50")
	b.ReportMetric(float64(to.Lateness.ValueAtQuantile(99)), "us-late-p99")
	b.ReportMetric(float64(to.Lateness.ValueAtQuantile(99.9)), "us-late-p99.9")
	b.ReportMetric(float64(to.Stall.Microseconds()), "us-stall")
	b.ReportMetric(float64(to.Missed+to.Errors+to.Overrun), "faults")
	b.ReportMetric(0, "ns/op")
}

// b.N packets are sent by 1,000 calls: 2,000 streams of one thread, 100,000 packets/s, all
// of which that same thread receives.
func BenchmarkTwoWay(b *testing.B) {
	for _, calls := range []int{100, 1000} {
		b.Run(fmt.Sprintf("calls=%d", calls), func(b *testing.B) {
			_ = RealTime() // where it is permitted
			e := engine(b, Config{})
			pairs(b, e, e, calls, true)
			b.ResetTimer()
			from, to, took := settle(e, uint64(b.N))
			report(b, from, to, took, to.Sent-from.Sent)
		})
	}
}

// One thread sends for 2,000 streams, another one receives: what each costs by itself. On
// loopback the sender's share contains the kernel's way up to the receiver's socket.
func BenchmarkOneWay(b *testing.B) {
	for _, side := range []string{"send", "receive"} {
		b.Run(side, func(b *testing.B) {
			_ = RealTime()
			sender := engine(b, Config{})
			receiver := engine(b, Config{})
			pairs(b, sender, receiver, 2000, false)
			b.ResetTimer()
			if side == "send" {
				from, to, took := settle(sender, uint64(b.N))
				report(b, from, to, took, to.Sent-from.Sent)
				return
			}
			from, to, took := settle(receiver, uint64(b.N))
			report(b, from, to, took, to.Received-from.Received)
		})
	}
}

// What the kernel takes for the same packets, whatever the generator: one thread writes to
// and reads from 2,000 connected sockets in turn, twelve in each tick, and does nothing else;
// as fast as it can, or paced like the engine, when each tick begins with cold caches.
func BenchmarkFloor(b *testing.B) {
	for _, paced := range []bool{false, true} {
		b.Run(map[bool]string{false: "flood", true: "paced"}[paced], func(b *testing.B) { floor(b, paced) })
	}
}

func floor(b *testing.B, paced bool) {
	const streams, burst = 2000, 12
	fds, at := make([]int, streams), make([]netip.AddrPort, streams)
	for i := range fds {
		var err error
		if fds[i], at[i], err = bindEven(netip.MustParseAddr("127.0.0.1")); err != nil {
			b.Fatal(err)
		}
		defer closeFD(fds[i])
	}
	for i, fd := range fds {
		var peer sockaddr
		peer.set(at[i^1], unix.AF_INET)
		if err := connectUDP(fd, &peer); err != nil {
			b.Fatal(err)
		}
	}
	p, err := newPoller()
	if err != nil {
		b.Fatal(err)
	}
	defer p.close()
	done := make(chan struct{})
	b.ResetTimer()
	go func() { // its thread ends with it
		defer close(done)
		runtime.LockOSThread()
		goFirst()
		in := newInlet()
		defer in.pin.Unpin()
		packet := make([]byte, 12+Frame)
		from, begin := threadTime(), time.Now()
		for n := 0; n < b.N; n += burst {
			for i := range burst {
				_ = send(fds[(n+i)%streams], packet, nil)
			}
			for i := range burst {
				_, _, _ = in.read(fds[(n+i)%streams^1])
			}
			if wait := time.Duration(n/burst+1)*tick - time.Since(begin); paced && wait > 0 {
				p.sleep(int64(wait))
			}
		}
		b.ReportMetric((threadTime()-from).Seconds()*1e6/float64(b.N), "us-CPU/packet")
		b.ReportMetric(0, "ns/op")
	}()
	<-done
}
