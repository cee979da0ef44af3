package sipstack

import (
	"net/netip"
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
