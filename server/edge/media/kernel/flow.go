package kernel

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Who may use a slot, as relay.c says.
const (
	ownerFree  = 0
	ownerBusy  = 1
	ownerTaken = 2
	ownerWatch = 3
	ownerSeen  = 4
)

// Flow is what the peer of one leg sends, while the kernel may relay it. It belongs to one
// goroutine.
type Flow struct{ shared *relayFlow }

// Plan says which packets are relayed, where to, and what becomes of their header.
type Plan struct {
	From, At  netip.AddrPort // the speaker, and our address at which it arrives; IPv4
	By, To    netip.AddrPort // our address from which it goes out, and the hearer; IPv4
	Interface uint32         // to the hearer; 0: it is on this machine

	InSSRC, OutSSRC       uint32
	InPayload, OutPayload uint8
	ShiftSequence         uint16 // added to the sequence number
	ShiftTime             uint32 // added to the timestamp

	Clock uint32 // Hz
	Birth int64  // ns of CLOCK_MONOTONIC: the zero of all times
	First int64  // packets before this extended number are not of this flow
}

// Count is what is known of a flow, in the terms of RFC 3550 A.1 and A.8.
type Count struct {
	Highest    int64  // extended sequence number of the newest packet, one cycle up
	NewestTime uint32 // its RTP timestamp

	Packets, Octets uint64 // relayed since Give; octets of payload
	LastAt          int64  // ns since Plan.Birth; 0: no packet yet
	LongestGap      int64  // ns

	Transit    uint32
	HasTransit bool
	Jitter     float64 // in RTP clock ticks
}

// Watch begins to look for packets of a speaker to one of our addresses, which are relayed
// by nobody but the process. It must not be called between Give and Take.
func (f *Flow) Watch(from, at netip.AddrPort) {
	s := f.shared
	atomic.StoreUint32(&s.Owner, ownerTaken)
	s.InSource, s.InSourcePort = wire(from)
	s.InDestination, _ = wire(at)
	atomic.StoreUint32(&s.Owner, ownerWatch)
}

// Seen reports whether one has come since Watch. If none does, packets reach the process
// some other way: over an interface without the program, or readdressed by a NAT, whose
// other half the kernel's relay would miss.
func (f *Flow) Seen() bool { return atomic.LoadUint32(&f.shared.Owner) == ownerSeen }

// Give lets the kernel relay from now on.
func (f *Flow) Give(p *Plan, c *Count) {
	s := f.shared
	s.InSource, s.InSourcePort = wire(p.From)
	s.InDestination, _ = wire(p.At)
	s.OutSource, s.OutSourcePort = wire(p.By)
	s.OutDestination, s.OutDestinationPort = wire(p.To)
	s.Interface = p.Interface
	s.InSsrc, s.OutSsrc, s.InPayload, s.OutPayload = p.InSSRC, p.OutSSRC, p.InPayload, p.OutPayload
	s.ShiftSequence, s.ShiftTime = p.ShiftSequence, p.ShiftTime
	s.Clock, s.Birth, s.First = p.Clock, uint64(p.Birth), uint64(p.First)

	s.Highest, s.NewestTime = uint64(c.Highest), c.NewestTime
	s.Packets, s.Octets = 0, 0
	s.LastAt, s.LongestGap = uint64(max(c.LastAt, 0)), uint64(c.LongestGap)
	s.Transit, s.HasTransit, s.Jitter = c.Transit, 0, uint32(c.Jitter*16+0.5)
	if c.HasTransit {
		s.HasTransit = 1
	}
	atomic.StoreUint32(&s.Owner, ownerFree)
}

// Take ends what Give began: when it returns, no packet is taken up any more, and those that
// were are in the count; the last of them may still be on its way to the hearer, if another
// processor was stopped right after it had let go of the flow. alone says that the kernel
// had not ended it before, because of a packet of the peer that is out of the ordinary and
// lies in the leg's socket, or will at once.
func (f *Flow) Take() (c Count, alone bool) {
	s := f.shared
	for tries := 0; ; tries++ {
		if alone = atomic.CompareAndSwapUint32(&s.Owner, ownerFree, ownerTaken); alone {
			break
		}
		if now := atomic.LoadUint32(&s.Owner); now != ownerFree && now != ownerBusy {
			break
		}
		// A packet is being relayed on another processor, which takes less than a
		// microsecond, unless a hypervisor stopped that processor meanwhile.
		if tries > 1000 {
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	return Count{
		Highest: int64(s.Highest), NewestTime: s.NewestTime, Packets: s.Packets, Octets: s.Octets,
		LastAt: int64(s.LastAt), LongestGap: int64(s.LongestGap),
		Transit: s.Transit, HasTransit: s.HasTransit != 0, Jitter: float64(s.Jitter) / 16,
	}, alone
}

// wire returns an IPv4 address and a port in the byte order of the network.
func wire(a netip.AddrPort) (addr uint32, port uint16) {
	b := a.Addr().Unmap().As4()
	return binary.NativeEndian.Uint32(b[:]), a.Port()<<8 | a.Port()>>8
}
