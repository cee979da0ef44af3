package media

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// BenchmarkRelay is the cost of a packet through the relay alone: receive, check, rewrite
// and send on loopback sockets, the poller left out; one packet for each of many calls in
// turn, as they come. "bare" is the system calls without a relay, the floor of every
// portable one. (The kernel's relay is BenchmarkProgram, in package kernel.)
func BenchmarkRelay(b *testing.B) {
	const calls = 256
	b.Run("bare", func(b *testing.B) {
		fds, at := ends(b, 4*calls) // of each call: speaker, leg, leg, hearer
		for i, fd := range fds {
			var sa sockaddr
			sa.set(at[i^1], unix.AF_INET)
			if err := connectUDP(fd, &sa); err != nil {
				b.Fatal(err)
			}
		}
		var buf [packetSize]byte
		inTurns(b, calls, func(i int) (speaker, hearer int) { return fds[4*i], fds[4*i+3] }, func(i int) {
			if n, errno := receive(fds[4*i+1], buf[:]); errno == 0 {
				_ = sendOnce(fds[4*i+2], buf[:n], nil)
			}
		})
	})
	for name, codec := range map[string]core.Codec{"same": pcmu, "transcoded": pcma} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.From, c.To = freeRange(b, 4*calls+16) })
			fds, at := ends(b, 2*calls)
			w := newLoad(b, fds) // raw sockets, for those of package net wake its poller at each packet
			var local []netip.AddrPort
			for i := range fds {
				local = append(local, r.loadLeg(i, at[i], []core.Codec{pcmu, codec}[i%2]))
			}
			w.aim(local)
			w.greet()
			for _, fd := range fds {
				_ = unix.EpollCtl(w.poll.set, unix.EPOLL_CTL_DEL, fd, nil) // nobody waits for these
			}
			l := stopLoop(r)
			l.late = false // a busy machine may have held it up
			relayed := l.count.Relayed
			b.ReportAllocs()
			inTurns(b, calls, func(i int) (speaker, hearer int) { return fds[2*i], fds[2*i+1] },
				func(i int) { l.readable(l.slots[2*i], rtpReadable) })
			if l.count.Relayed-relayed < uint64(b.N) {
				b.Fatalf("%d of %d relayed", l.count.Relayed-relayed, b.N)
			}
		})
	}
}

// inTurns measures relay, which takes one packet that the speaker of a call has sent; the
// sending and the hearing are left out. cpu-ns/op is the thread's CPU time, which a busy
// machine disturbs less than the clock's.
func inTurns(b *testing.B, calls int, call func(int) (speaker, hearer int), relay func(int)) {
	packet, err := (&rtp.Packet{Header: rtp.Header{Version: 2}, Payload: make([]byte, frameSamples)}).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	var heard [packetSize]byte
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	seq, used := uint16(2000), time.Duration(0)
	b.ResetTimer()
	for done := 0; done < b.N; done += calls {
		b.StopTimer()
		seq++
		binary.BigEndian.PutUint16(packet[2:], seq)
		for i := range calls {
			speaker, _ := call(i)
			if errno := sendOnce(speaker, packet, nil); errno != 0 {
				b.Fatal(errno)
			}
		}
		b.StartTimer()
		before := clock(b, unix.CLOCK_THREAD_CPUTIME_ID)
		for i := range calls {
			relay(i)
		}
		used += clock(b, unix.CLOCK_THREAD_CPUTIME_ID) - before
		b.StopTimer()
		for i := range calls {
			_, hearer := call(i)
			_, _ = receive(hearer, heard[:])
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(used)/float64((b.N+calls-1)/calls*calls), "cpu-ns/op")
}

// BenchmarkTend is what a leg costs five times a second while the kernel relays for it.
func BenchmarkTend(b *testing.B) {
	needKernel(b)
	r := newRigOn(b, PathKernel, nil)
	from, to := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	r.talk(from, to)
	l, g := stopLoop(r), r.legs[from.leg]
	b.ReportAllocs()
	for b.Loop() {
		l.tend(g)
	}
	if !g.entrusted {
		b.Fatal("the kernel has lost the leg")
	}
}

// BenchmarkParse is the reading of an RTP header.
func BenchmarkParse(b *testing.B) {
	packet, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: 7}, Payload: make([]byte, frameSamples)}).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	var h header
	for b.Loop() {
		if !h.parse(packet) {
			b.Fatal("refused")
		}
	}
}
