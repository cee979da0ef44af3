package media

import (
	"net/netip"
	"time"
)

// latch decides whose RTP a leg takes (symmetric RTP, RFC 4961; learning as RFC 7362
// s.4 describes it). It is a value without a clock or a socket.
//
// The rules, and what each defends against:
//
//  1. The address of the SDP is authenticated by the signalling: the first packet from
//     it locks, also when another source was locked before. So a stranger who sprays the
//     port range ("RTP bleed") holds a call only until the phone itself speaks.
//  2. The same host with another port locks at once: a NAT or a phone that sends from
//     another port than it hears on.
//  3. When the SDP names an address that a NAT may stand before (a phone behind it), or
//     none, the first valid packet locks: there is no other way to hear that phone.
//  4. When the SDP names any other address and another host speaks, it must show ten
//     packets of one SSRC in sequence while the named host is silent, and only within
//     the first ten seconds. That covers media servers that send from elsewhere.
//  5. After a re-INVITE with another address the peer before it may still be on its way:
//     for half a second its packets are heard but do not lock. Otherwise a late packet of
//     the old address would hold the lock, and the call would be one-way
//     (jambonz/sbc-outbound#123, #133).
//  6. Whoever is locked stays so; all others are refused.
type latch struct {
	remote netip.AddrPort // where the SDP says that the peer is; invalid: unknown
	peer   netip.AddrPort // who is locked; invalid: nobody
	former netip.AddrPort // who was locked before the last re-INVITE
	since  int64          // ns: when learning began

	suspect suspect
}

// suspect is a source under probation (rule 4).
type suspect struct {
	addr netip.AddrPort
	ssrc uint32
	seq  uint16
	run  int
}

// verdict is what becomes of a packet.
type verdict uint8

const (
	refuse verdict = iota
	hear           // take it, lock nothing
	lock           // take it, its source is the peer from now on
)

const (
	learnWithin  = 10 * time.Second       // rule 4
	formerWithin = 500 * time.Millisecond // rule 5
	proofRun     = 10                     // rule 4: packets
	proofGap     = 5                      // the largest step of the sequence in a proof
)

// expect takes over what the SDP says, and reports whether that ends a lock. An unknown
// address (a hold in the manner of RFC 2543, c=0.0.0.0) keeps the peer: nothing says that
// it moved.
func (t *latch) expect(remote netip.AddrPort, now int64) (unlocked bool) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if !usable(remote) || remote == t.remote {
		return false
	}
	unlocked = t.peer.IsValid()
	if unlocked {
		t.former = t.peer
	}
	t.remote, t.peer, t.since, t.suspect = remote, netip.AddrPort{}, now, suspect{}
	return unlocked
}

// judge decides on a valid packet from an address. It does not lock: whoever can carry
// the lock out calls settle.
func (t *latch) judge(from netip.AddrPort, h *header, now int64) verdict {
	if t.peer.IsValid() {
		switch from {
		case t.peer:
			return hear
		case t.remote:
			return lock // rule 1; peer differs from remote here
		}
		return refuse
	}
	named := usable(t.remote)
	switch {
	case named && from == t.remote:
		return lock
	case from == t.former && now-t.since < int64(formerWithin):
		return hear
	case !named || from.Addr() == t.remote.Addr() || translated(t.remote.Addr()):
		return lock
	case now-t.since > int64(learnWithin):
		return refuse
	}
	return t.prove(from, h)
}

func (t *latch) prove(from netip.AddrPort, h *header) verdict {
	s := &t.suspect
	step := h.seq - s.seq
	if s.addr != from || s.ssrc != h.ssrc || step == 0 || step > proofGap {
		*s = suspect{addr: from, ssrc: h.ssrc, seq: h.seq, run: 1}
		return refuse
	}
	s.seq = h.seq
	if s.run++; s.run < proofRun {
		return refuse
	}
	return lock
}

// settle locks.
func (t *latch) settle(peer netip.AddrPort) {
	t.peer, t.former, t.suspect = peer, netip.AddrPort{}, suspect{}
}

// target is where RTP goes: to the peer, or, while nobody is locked, where the SDP says.
func (t *latch) target() (netip.AddrPort, bool) {
	if t.peer.IsValid() {
		return t.peer, true
	}
	return t.remote, usable(t.remote)
}

func usable(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast()
}

// translated reports whether a NAT may stand before an address: it is private (RFC 1918,
// 4193), link-local, or shared by a carrier's NAT (RFC 6598). Before a loopback address
// stands none: who names one is on this machine, or is mistaken and has to show rule 4.
func translated(a netip.Addr) bool {
	carrier := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)
	return a.IsPrivate() || a.IsLinkLocalUnicast() || carrier.Contains(a)
}
