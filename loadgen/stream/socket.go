package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets are plain descriptors, all non-blocking: RawSyscall, which does not tell the
// scheduler, never holds up a garbage collection, and saves its share of each packet.

const (
	// DSCP EF (RFC 3246), as RFC 8837 and every telephone mark voice.
	expedited = 0xb8
	// How many ports the kernel is asked for until one is even.
	bindTries   = 256
	packetSize  = 2048 // no network carries more without fragments; longer ones are cut and are no audio
	controlSize = 64   // of the ancillary data: one time stamp needs 32 bytes
)

// sockaddr is an address as the kernel reads it, with room for both families.
type sockaddr struct {
	raw    unix.RawSockaddrInet6
	length uint32
}

// set fills in the address for a socket of a family; false when the family cannot carry it.
func (s *sockaddr) set(a netip.AddrPort, family int) bool {
	addr := a.Addr()
	port := a.Port()<<8 | a.Port()>>8
	if family == unix.AF_INET {
		addr = addr.Unmap()
		if !addr.Is4() {
			return false
		}
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: addr.As4()}
		s.length = unix.SizeofSockaddrInet4
		return true
	}
	if !addr.Is6() || addr.Is4In6() {
		return false
	}
	s.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: addr.As16()}
	s.length = unix.SizeofSockaddrInet6
	return true
}

func familyOf(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// bindEven opens a socket on an even port of addr: RTP takes even ones (RFC 3550 s.11).
func bindEven(addr netip.Addr) (fd int, at netip.AddrPort, err error) {
	for range bindTries {
		fd, at, err = bindUDP(netip.AddrPortFrom(addr, 0))
		if err != nil || at.Port()%2 == 0 {
			return fd, at, err
		}
		below := netip.AddrPortFrom(addr, at.Port()-1)
		_ = unix.Close(fd)
		fd, at, err = bindUDP(below)
		if !errors.Is(err, unix.EADDRINUSE) {
			return fd, at, err
		}
	}
	return -1, at, fmt.Errorf("no even UDP port is free on %v: raise net.ipv4.ip_local_port_range or use more addresses: %w", addr, unix.EADDRINUSE)
}

// bindUDP opens a non-blocking UDP socket that stamps what arrives with the time of its
// arrival. Of port 0 the kernel makes a free one.
func bindUDP(at netip.AddrPort) (int, netip.AddrPort, error) {
	family := familyOf(at.Addr())
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, at, fmt.Errorf("open an RTP socket (raise LimitNOFILE, ulimit -n): %w", err)
	}
	var sa sockaddr
	sa.set(at, family)
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.length)); errno != 0 {
		_ = unix.Close(fd)
		return -1, at, fmt.Errorf("bind RTP to %v: %w", at, errno)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err == nil {
		at, err = localAddr(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, at, fmt.Errorf("prepare an RTP socket: %w", err)
	}
	// Failing to mark voice is no reason to do without it.
	if family == unix.AF_INET {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, expedited)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, expedited)
	}
	return fd, at, nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// connectUDP fixes the peer of a socket: the kernel then hands it that peer's packets
// only, and finds the route once instead of per packet.
func connectUDP(fd int, peer *sockaddr) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&peer.raw)), uintptr(peer.length))
	if errno != 0 {
		return errno
	}
	return nil
}

// dropped is how many packets the kernel has thrown away since nobody read them in time.
func dropped(fd int) uint64 {
	const skDrops = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || size <= skDrops*4 {
		return 0
	}
	return uint64(info[skDrops])
}

// send writes a packet to a connected socket, or to an address when to is not nil.
func send(fd int, b []byte, to *sockaddr) unix.Errno {
	errno := sendOnce(fd, b, to)
	if errno == unix.ECONNREFUSED {
		// The answer to an earlier packet (ICMP port unreachable): this one was not tried.
		errno = sendOnce(fd, b, to)
	}
	return errno
}

func sendOnce(fd int, b []byte, to *sockaddr) (errno unix.Errno) {
	if to == nil {
		_, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		return errno
	}
	_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(&to.raw)), uintptr(to.length))
	return errno
}

// inlet reads packets together with the time of their arrival. It belongs to one loop.
type inlet struct {
	message unix.Msghdr
	vector  unix.Iovec
	packet  [packetSize]byte
	control [controlSize]byte
	pin     runtime.Pinner
}

func newInlet() *inlet {
	in := &inlet{}
	in.pin.Pin(in) // the kernel's view of it holds pointers that the garbage collector does not follow
	in.vector.Base = &in.packet[0]
	in.vector.SetLen(packetSize)
	in.message.Iov = &in.vector
	in.message.Iovlen = 1
	in.message.Control = &in.control[0]
	return in
}

// read takes the next packet. Arrival is in Unix nanoseconds, 0 when the kernel gave none.
func (in *inlet) read(fd int) (b []byte, arrival int64, errno unix.Errno) {
	in.message.SetControllen(controlSize)
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.message)), 0)
	if errno != 0 {
		return nil, 0, errno
	}
	if in.message.Controllen >= unix.SizeofCmsghdr+16 {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&in.control[0]))
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS {
			arrival = int64(binary.NativeEndian.Uint64(in.control[unix.SizeofCmsghdr:]))*1e9 +
				int64(binary.NativeEndian.Uint64(in.control[unix.SizeofCmsghdr+8:]))
		}
	}
	return in.packet[:n], arrival, 0
}

// poller is what a loop waits on: an epoll set and an eventfd that wakes it.
type poller struct{ set, wake int }

func newPoller() (p poller, err error) {
	p = poller{set: -1, wake: -1}
	if p.set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	}
	if err == nil {
		err = p.add(p.wake, markWake, 0)
	}
	if err != nil {
		p.close()
		return p, fmt.Errorf("make an epoll loop (raise LimitNOFILE, ulimit -n): %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	for _, fd := range []int{p.set, p.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// add watches a descriptor for input; mark and generation come back with each event.
// Level-triggered: to ask again for a socket that is empty by now costs less than the
// read that finds it empty.
func (p *poller) add(fd int, mark, generation int32) error {
	return unix.EpollCtl(p.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: mark, Pad: generation})
}

func (p *poller) remove(fd int) { _ = unix.EpollCtl(p.set, unix.EPOLL_CTL_DEL, fd, nil) }

// ring wakes the loop out of its wait.
func (p *poller) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.wake), uintptr(unsafe.Pointer(&one[0])), uintptr(len(one)))
}

// quiet takes back what ring did.
func (p *poller) quiet() {
	var b [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(p.wake), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

// ready fills events with what has come by now, without waiting.
func (p *poller) ready(events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_WAIT, uintptr(p.set), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// sleep waits so many ns, or until somebody rings, or a signal comes. It keeps the Go
// scheduler's processor: see Engine.
func (p *poller) sleep(ns int64) {
	fds := unix.PollFd{Fd: int32(p.wake), Events: unix.POLLIN}
	limit := unix.NsecToTimespec(ns)
	_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
}

// wait blocks until something comes; the scheduler gives the processor to others.
func (p *poller) wait(events []unix.EpollEvent) { _, _ = unix.EpollWait(p.set, events, -1) }

func closeFD(fd int) { _ = unix.Close(fd) }
