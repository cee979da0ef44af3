package peers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bind takes one port for UDP and TCP. With port 0 the kernel chooses it for UDP, and it may
// be in use for TCP: then another is tried.
func (p *Peers) bind() error {
	for try := 0; ; try++ {
		s, err := newSocket(p.cfg.Addr)
		if err != nil {
			return fmt.Errorf("peers: cannot receive datagrams on %v from other nodes; is another node running here? %w", p.cfg.Addr, err)
		}
		at := netip.AddrPortFrom(p.cfg.Addr.Addr(), s.port())
		if err = p.openGate(at); err == nil {
			p.socket, p.addr = s, at
			return nil
		}
		s.close()
		if p.cfg.Addr.Port() != 0 || !errors.Is(err, unix.EADDRINUSE) || try == 20 {
			return fmt.Errorf("peers: cannot listen on %v for other nodes; is another program using the port? %w", at, err)
		}
	}
}

// socket sends and receives heartbeats. It is not in the runtime's poller: a datagram that
// comes wakes nobody, it is read at the next beat.
type socket struct {
	fd int
	v4 bool

	msgs [batch]mmsghdr
	iovs [batch]unix.Iovec
	bufs [batch][pulseSize + 1]byte // one more, so that longer ones are seen to be longer
	ctls [batch][8]uint64           // room for one time stamp, aligned
}

const (
	batch      = 32      // datagrams of one system call
	socketRoom = 1 << 20 // bytes that may wait in the socket: the kernel gives what it may
	drainMost  = 8192    // datagrams of one beat: more than fit into socketRoom
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func newSocket(at netip.AddrPort) (*socket, error) {
	s := &socket{v4: at.Addr().Is4()}
	family := unix.AF_INET6
	if s.v4 {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s.fd = fd
	if !s.v4 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	// Root gets the room that it asks for, others what net.core.rmem_max allows.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketRoom) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketRoom)
	}
	// Without time stamps of the kernel a heartbeat counts from when it is read.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	if err := unix.Bind(fd, sockaddr(at, s.v4)); err != nil {
		s.close()
		return nil, err
	}
	for i := range s.msgs {
		s.iovs[i].Base = &s.bufs[i][0]
		s.iovs[i].SetLen(len(s.bufs[i]))
		s.msgs[i].hdr.Iov = &s.iovs[i]
		s.msgs[i].hdr.SetIovlen(1)
		s.msgs[i].hdr.Control = (*byte)(unsafe.Pointer(&s.ctls[i]))
	}
	return s, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// port returns which one it is bound to.
func (s *socket) port() uint16 {
	switch own, _ := unix.Getsockname(s.fd); own := own.(type) {
	case *unix.SockaddrInet4:
		return uint16(own.Port)
	case *unix.SockaddrInet6:
		return uint16(own.Port)
	}
	return 0
}

// sockaddr returns nil for an address that a socket of that family cannot send to.
func sockaddr(at netip.AddrPort, v4 bool) unix.Sockaddr {
	addr := at.Addr().Unmap()
	switch {
	case !addr.IsValid() || addr.Zone() != "":
		return nil
	case v4 && addr.Is4():
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: addr.As4()}
	case v4:
		return nil
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

// receive reads up to batch datagrams; arrived and datagram tell of each.
func (s *socket) receive() int {
	for i := range s.msgs {
		s.msgs[i].hdr.SetControllen(int(unsafe.Sizeof(s.ctls[i])))
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.msgs)), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func (s *socket) datagram(i int) []byte { return s.bufs[i][:min(int(s.msgs[i].n), len(s.bufs[i]))] }

// arrived returns how long ago a datagram came, by the wall clock, which may be set
// meanwhile: so at most atMost. 0 when the kernel does not say.
func (s *socket) arrived(i int, wall time.Time, atMost time.Duration) time.Duration {
	hdr := &s.msgs[i].hdr
	if int(hdr.Controllen) < unix.CmsgSpace(int(unsafe.Sizeof(unix.Timespec{}))) {
		return 0
	}
	c := (*unix.Cmsghdr)(unsafe.Pointer(hdr.Control))
	if c.Level != unix.SOL_SOCKET || c.Type != unix.SCM_TIMESTAMPNS {
		return 0
	}
	stamp := (*unix.Timespec)(unsafe.Add(unsafe.Pointer(hdr.Control), unix.CmsgLen(0)))
	return max(0, min(atMost, time.Duration(wall.UnixNano()-stamp.Nano())))
}

func (s *socket) sendTo(b []byte, to unix.Sockaddr) error {
	return unix.Sendto(s.fd, b, unix.MSG_DONTWAIT, to)
}

// only has the kernel drop what is no heartbeat with one of the tags (at most 2*maxPeers).
func (s *socket) only(tags []tag) error {
	const header = 8           // of UDP: the filter sees it
	prog := []unix.SockFilter{ // jumps count from the next instruction; after the tags: drop, accept
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(3 + len(tags)), K: header + uint32(pulseSize)},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: header},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(1 + len(tags)), K: binary.BigEndian.Uint32([]byte(pulseMagic))},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: header + uint32(len(pulseMagic))},
	}
	for i, t := range tags {
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(tags) - i), K: uint32(t)})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff})
	return unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// drops returns how many datagrams the kernel has dropped: by the filter, or for want of
// room in the socket.
func (s *socket) drops() uint64 {
	var info [9]uint32 // SK_MEMINFO_VARS of linux/sock_diag.h; the last is SK_MEMINFO_DROPS
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return uint64(info[8])
}

// clock ticks by the kernel's timer: without drift, and without the slack of the runtime's.
type clock struct {
	fd    int
	ended atomic.Bool
}

func newClock(every time.Duration) (*clock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("peers: no timer (raise LimitNOFILE if too many files are open): %w", err)
	}
	c := &clock{fd: fd}
	if err := c.set(every, every); err != nil {
		c.close()
		return nil, fmt.Errorf("peers: no timer: %w", err)
	}
	return c, nil
}

func (c *clock) set(first, every time.Duration) error {
	spec := unix.ItimerSpec{Interval: unix.NsecToTimespec(int64(every)), Value: unix.NsecToTimespec(int64(first))}
	return unix.TimerfdSettime(c.fd, 0, &spec, nil)
}

// wait returns at the next tick; false: the clock was ended.
func (c *clock) wait() bool {
	var ticks [8]byte
	for {
		_, err := unix.Read(c.fd, ticks[:])
		if err != unix.EINTR {
			return !c.ended.Load()
		}
	}
}

// end wakes who waits.
func (c *clock) end() {
	c.ended.Store(true)
	_ = c.set(1, 0)
}

func (c *clock) close() { _ = unix.Close(c.fd) }
