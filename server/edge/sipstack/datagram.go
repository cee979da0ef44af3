package sipstack

import (
	"net/netip"
	"strconv"
	"syscall"
)

// shot sends one datagram without ever waiting: the one who sends is mostly the goroutine
// that every call of the node depends on. It is kept for the next one, so that sending
// takes no memory.
type shot struct {
	v4   syscall.SockaddrInet4
	v6   syscall.SockaddrInet6
	to   syscall.Sockaddr
	data []byte
	err  error
	fire func(fd uintptr) bool
}

func newShot() *shot {
	s := &shot{}
	s.fire = func(fd uintptr) bool {
		for {
			if s.err = syscall.Sendto(int(fd), s.data, syscall.MSG_DONTWAIT, s.to); s.err != syscall.EINTR {
				return true // done, also without success: the poller is not to wait
			}
		}
	}
	return s
}

// write sends a datagram. When the kernel has no room the datagram is lost, as it may be
// anywhere on its way: SIP over UDP repeats what matters.
func (u *socket) write(b []byte, to netip.AddrPort) error {
	if to.Addr().Zone() != "" { // a link-local peer: only the net package knows its interface
		_, err := u.conn.WriteToUDPAddrPort(b, to)
		return err
	}
	s := u.shots.Get().(*shot)
	defer u.shots.Put(s)
	s.data = b
	if addr := to.Addr(); u.local.Addr().Is4() {
		if !addr.Is4() && !addr.Is4In6() {
			return syscall.EAFNOSUPPORT
		}
		s.v4.Addr, s.v4.Port, s.to = addr.As4(), int(to.Port()), &s.v4
	} else {
		s.v6.Addr, s.v6.Port, s.to = addr.As16(), int(to.Port()), &s.v6
	}
	err := u.raw.Write(s.fire)
	if err == nil {
		err = s.err
	}
	s.data = nil
	if err == syscall.EAGAIN || err == syscall.ENOBUFS {
		u.dropped.Add(1)
		return nil
	}
	return err
}

// helpAfter is how many datagrams are read in a row before what they ask for is begun.
const helpAfter = 8

// receiver reads datagrams. Before it goes to sleep, and now and then when it never does,
// it has the work done that the datagrams are: to wake another goroutine for it would cost
// more than most of that work.
type receiver struct {
	sock  *socket
	help  func()
	buf   []byte
	owed  int // datagrams read since help
	size  int
	from  syscall.Sockaddr
	err   error
	fetch func(fd uintptr) bool
}

func newReceiver(u *socket, help func()) *receiver {
	r := &receiver{sock: u, help: help, buf: make([]byte, 1<<16)}
	r.fetch = func(fd uintptr) bool {
		for {
			r.size, r.from, r.err = syscall.Recvfrom(int(fd), r.buf, syscall.MSG_DONTWAIT)
			switch {
			case r.err == syscall.EINTR:
			case r.err == syscall.EAGAIN && r.owed > 0:
				r.settle()
			default:
				return r.err != syscall.EAGAIN // false: wait until there is something
			}
		}
	}
	return r
}

func (r *receiver) settle() {
	r.owed = 0
	r.help()
}

// next returns the next datagram; it is valid until the call after that.
func (r *receiver) next() ([]byte, netip.AddrPort, error) {
	if r.owed >= helpAfter {
		r.settle()
	}
	if err := r.sock.raw.Read(r.fetch); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if r.err != nil {
		return nil, netip.AddrPort{}, r.err
	}
	r.owed++
	var from netip.AddrPort
	switch a := r.from.(type) {
	case *syscall.SockaddrInet4:
		from = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr).Unmap()
		if a.ZoneId != 0 {
			addr = addr.WithZone(strconv.Itoa(int(a.ZoneId))) // the net package knows numbers too
		}
		from = netip.AddrPortFrom(addr, uint16(a.Port))
	}
	return r.buf[:r.size], from, nil
}
