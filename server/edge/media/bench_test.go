package media

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// BenchmarkRelay is the cost of a packet through the relay alone: receive, check, rewrite
// and send on loopback sockets, the poller left out. "bare" is the system calls without a
// relay, the floor of every portable one. (The kernel's relay is BenchmarkProgram, in
// package kernel.)
func BenchmarkRelay(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		fds, at := ends(b, 4)
		for i, peer := range []int{1, 0, 3, 2} {
			var sa sockaddr
			sa.set(at[peer], unix.AF_INET)
			if err := connectUDP(fds[i], &sa); err != nil {
				b.Fatal(err)
			}
		}
		var buf [packetSize]byte
		inBatches(b, fds[0], fds[3], func() {
			if n, errno := receive(fds[1], buf[:]); errno == 0 {
				_ = sendOnce(fds[2], buf[:n], nil)
			}
		})
	})
	for name, codec := range map[string]core.Codec{"same": pcmu, "transcoded": pcma} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, nil)
			w := newLoad(b, nil) // raw sockets, for those of package net wake its poller at each packet
			fds, at := ends(b, 2)
			w.fds = fds
			w.aim([]netip.AddrPort{r.loadLeg(0, at[0], pcmu), r.loadLeg(1, at[1], codec)})
			w.greet()
			for _, fd := range fds {
				_ = unix.EpollCtl(w.poll.set, unix.EPOLL_CTL_DEL, fd, nil) // nobody waits for these
			}
			l := stopLoop(r)
			l.late = false // a busy machine may have held it up
			g := l.slots[0]
			b.ReportAllocs()
			inBatches(b, fds[0], fds[1], func() { l.readable(g, rtpReadable) })
			if l.count.Relayed < uint64(b.N) {
				b.Fatalf("%d of %d relayed", l.count.Relayed, b.N)
			}
		})
	}
}

// inBatches measures relay, which takes one packet that speaker has sent; the sending and
// the hearing are left out, for as many packets as a socket holds.
func inBatches(b *testing.B, speaker, hearer int, relay func()) {
	const batch = 32
	packet, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SSRC: 0x1000}, Payload: make([]byte, frameSamples)}).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	var heard [packetSize]byte
	seq := uint16(2000)
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		b.StopTimer()
		for range batch {
			seq++
			binary.BigEndian.PutUint16(packet[2:], seq)
			if errno := sendOnce(speaker, packet, nil); errno != 0 {
				b.Fatal(errno)
			}
		}
		b.StartTimer()
		for range batch {
			relay()
		}
		b.StopTimer()
		for errno := unix.Errno(0); errno == 0; {
			_, errno = receive(hearer, heard[:])
		}
		b.StartTimer()
	}
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
