package responder

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket that knows when each packet reached the machine. How long a
// packet was held counts from there: time that it waits until this process is scheduled is
// time that the generator sees too.
type socket struct {
	conn *net.UDPConn
	addr netip.AddrPort
}

const bufferSize = 4 << 20 // bytes that the kernel keeps for us; the kernel may allow less

func listen(at netip.AddrPort) (*socket, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	network := "udp4"
	if at.Addr().Is6() {
		network = "udp6"
	}
	conn, err := config.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", at, err)
	}
	s := &socket{conn: conn.(*net.UDPConn)}
	s.addr = s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	s.addr = netip.AddrPortFrom(s.addr.Addr().Unmap(), s.addr.Port())
	return s, nil
}

// read hands each datagram to take until the socket is closed. The bytes are take's until
// it returns.
func (s *socket) read(take func(b []byte, from netip.AddrPort, arrived time.Time)) {
	buf, control := make([]byte, 65535), make([]byte, 128)
	for {
		n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, control)
		now := time.Now()
		if err != nil {
			if s.closed() {
				return
			}
			continue // an ICMP error for something that was sent
		}
		take(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), now.Add(-waited(control[:oobn], now)))
	}
}

func (s *socket) closed() bool {
	return s.conn.SetReadDeadline(time.Time{}) != nil
}

// waited is how long the packet has been on this machine, by the kernel's time of arrival.
func waited(control []byte, now time.Time) time.Duration {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if header.Level == unix.SOL_SOCKET && header.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16 {
			arrived := time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
			// A step of the wall clock must not turn into a wait of hours.
			return min(max(0, now.Round(0).Sub(arrived)), 10*time.Second)
		}
		control = rest
	}
	return 0
}

func (s *socket) send(b []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (s *socket) close() { _ = s.conn.Close() }
