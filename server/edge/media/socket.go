package media

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets are plain descriptors: the runtime's poller costs 1.4 times the CPU and five
// times the tail of an epoll loop of our own. All are non-blocking, so RawSyscall, which
// does not tell the scheduler, never holds up a garbage collection.

const (
	// What one socket may hold, in bytes as the kernel counts (it doubles the number; a
	// G.711 packet counts 768): about 40 packets. A loop that was held up finds less than
	// a second of old audio, most of which it then drops (see loop.late).
	socketBuffer = 16 << 10
	// DSCP EF (RFC 3246), as RFC 8837 and every telephone mark voice.
	expedited = 0xb8
)

// sockaddr is an address as the kernel reads and writes it, with room for both families.
type sockaddr struct {
	raw    unix.RawSockaddrInet6
	length uint32
}

// set fills in the address for a socket of a family; ok is false when the family cannot
// carry it (an IPv6 peer on an IPv4 socket).
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
	if !addr.IsValid() {
		return false
	}
	s.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: addr.As16()}
	s.length = unix.SizeofSockaddrInet6
	return true
}

// get returns the address that the kernel has written; IPv4 peers of an IPv6 socket
// come out as IPv4.
func (s *sockaddr) get() netip.AddrPort {
	if s.raw.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), v4.Port<<8|v4.Port>>8)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(s.raw.Addr).Unmap(), s.raw.Port<<8|s.raw.Port>>8)
}

func familyOf(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// bindUDP opens a non-blocking UDP socket. Without shared it takes the port for itself:
// a bind succeeds only if nobody, whatever options they set, has it.
func bindUDP(at netip.AddrPort, shared bool) (int, error) {
	family := familyOf(at.Addr())
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var sa sockaddr
	sa.set(at, family)
	if shared {
		share(fd, 1)
	}
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.length)); errno != 0 {
		unix.Close(fd)
		return -1, errno
	}
	// Failing to get a smaller buffer or a mark is no reason to refuse a call.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	if family == unix.AF_INET {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, expedited)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, expedited)
	}
	return fd, nil
}

func closeFD(fd int) { _ = unix.Close(fd) }

// share says whether a second socket may bind the port of fd.
func share(fd, on int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, on) }

// connectUDP fixes the peer of a socket: the kernel then hands it that peer's packets
// only, and finds the route once instead of per packet.
func connectUDP(fd int, peer *sockaddr) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&peer.raw)), uintptr(peer.length))
	if errno != 0 {
		return errno
	}
	return nil
}

// disconnectUDP undoes connectUDP; the socket keeps its port, for it was bound to it.
func disconnectUDP(fd int) {
	raw := unix.RawSockaddrInet6{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unix.SizeofSockaddrInet4)
}

// localOf returns the address of a connected socket, invalid when it cannot be told.
func localOf(fd int) netip.AddrPort {
	sa := sockaddr{length: unix.SizeofSockaddrInet6}
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(unsafe.Pointer(&sa.length)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return sa.get()
}

// waiting reports whether a packet lies in a socket.
func waiting(fd int) bool {
	var b [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), 0, unix.MSG_PEEK, 0, 0)
	return errno == 0
}

// receive reads a packet of a connected socket. recv and send cost 6% less than read and
// write, which pass through the layer of files.
func receive(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	return int(n), errno
}

// receiveFrom reads a packet and its source.
func receiveFrom(fd int, b []byte, from *sockaddr) (int, unix.Errno) {
	from.length = unix.SizeofSockaddrInet6
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.length)))
	return int(n), errno
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
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
		return errno
	}
	_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(&to.raw)), uintptr(to.length))
	return errno
}

// poller is what a loop waits on: an epoll set, an eventfd that wakes it and a timerfd
// that ticks.
type poller struct {
	set, wake, timer int
}

func newPoller() (p poller, err error) {
	p = poller{set: -1, wake: -1, timer: -1}
	if p.set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err == nil {
			p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
		}
	}
	if err == nil {
		if err = p.add(p.wake, markWake, 0); err == nil {
			err = p.add(p.timer, markTimer, 0)
		}
	}
	if err != nil {
		p.close()
		return p, fmt.Errorf("media: cannot make an epoll loop (raise LimitNOFILE if too many files are open): %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	for _, fd := range []int{p.set, p.wake, p.timer} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// add watches a descriptor for input; mark and generation come back with each event.
func (p *poller) add(fd int, mark, generation int32) error {
	return unix.EpollCtl(p.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: mark, Pad: generation})
}

// tickEvery arms the timer: once after first ns, then every so many ns, counted by the
// kernel without drift. Zeroes disarm it.
func (p *poller) tickEvery(first, every int64) {
	spec := unix.ItimerSpec{Interval: unix.NsecToTimespec(every), Value: unix.NsecToTimespec(first)}
	_ = unix.TimerfdSettime(p.timer, 0, &spec, nil)
}

// clear reads the eight bytes of an eventfd or timerfd.
func (p *poller) clear(fd int) {
	var b [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), 8)
}

// ring wakes the loop out of its wait.
func (p *poller) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.wake), uintptr(unsafe.Pointer(&one)), 8)
}

// wait fills events and returns their number. It blocks at once: to ask first without
// blocking costs a system call more per packet at every load but the highest.
func (p *poller) wait(events []unix.EpollEvent) int {
	n, err := unix.EpollWait(p.set, events, -1)
	if err != nil {
		return 0 // EINTR: a signal of the runtime
	}
	return n
}
