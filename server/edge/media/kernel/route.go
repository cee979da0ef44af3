package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Routes asks the kernel for routes, and hears when they change. It belongs to one
// goroutine. Only the way to the neighbour's interface is asked for; gateway and
// neighbour are the kernel's business at each packet.
type Routes struct {
	ask, changes int
	sequence     uint32
}

// OpenRoutes opens the two netlink sockets (rtnetlink(7)); no capability is needed.
func OpenRoutes() (*Routes, error) {
	r := &Routes{ask: -1, changes: -1}
	var err error
	if r.ask, err = netlink(0, 0); err == nil {
		r.changes, err = netlink(unix.RTMGRP_LINK|unix.RTMGRP_IPV4_IFADDR|unix.RTMGRP_IPV4_ROUTE|unix.RTMGRP_IPV4_RULE, unix.SOCK_NONBLOCK)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return r, nil
}

func netlink(groups uint32, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	// The kernel answers within the call of send; the bound is for what nobody foresees.
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	return fd, nil
}

// Close closes the sockets.
func (r *Routes) Close() {
	for _, fd := range []int{r.ask, r.changes} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Changes is a descriptor that is readable when a route, an address or an interface has changed.
func (r *Routes) Changes() int { return r.changes }

// Clear reads what Changes announced.
func (r *Routes) Clear() {
	var b [4096]byte
	for {
		n, _, err := unix.Recvfrom(r.changes, b[:], 0)
		if n <= 0 && err != unix.ENOBUFS && err != unix.EINTR { // ENOBUFS: some were lost, which is a change as well
			return
		}
	}
}

// Find returns the interface that leads from one of our addresses to a peer, 0 when the
// peer is on this machine; ok is false when there is no way that the program could take.
func (r *Routes) Find(from, to netip.Addr) (via uint32, ok bool) {
	r.sequence++
	if err := unix.Sendto(r.ask, question(from, to, r.sequence), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false
	}
	for {
		var b [4096]byte
		n, _, err := unix.Recvfrom(r.ask, b[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, false
		}
		messages, err := syscall.ParseNetlinkMessage(b[:n])
		if err != nil {
			return 0, false
		}
		for _, m := range messages {
			if m.Header.Seq == r.sequence {
				return answer(&m)
			}
		}
	}
}

// question is RTM_GETROUTE for a destination and a source.
func question(from, to netip.Addr, sequence uint32) []byte {
	b := make([]byte, 0, unix.SizeofNlMsghdr+unix.SizeofRtMsg+2*(unix.SizeofRtAttr+4))
	b = binary.NativeEndian.AppendUint32(b, uint32(cap(b)))
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_GETROUTE)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, unix.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return appendAddr(appendAddr(b, unix.RTA_DST, to), unix.RTA_SRC, from)
}

func appendAddr(b []byte, kind uint16, addr netip.Addr) []byte {
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, kind)
	raw := addr.Unmap().As4()
	return append(b, raw[:]...)
}

func answer(m *syscall.NetlinkMessage) (via uint32, ok bool) {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return 0, false
	}
	switch (*unix.RtMsg)(unsafe.Pointer(&m.Data[0])).Type {
	case unix.RTN_LOCAL:
		return 0, true
	case unix.RTN_UNICAST:
	default:
		return 0, false // broadcast, blackhole, unreachable
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return 0, false
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4 {
			via = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return via, via != 0
}
