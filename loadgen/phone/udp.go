package phone

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams is the UDP socket of an endpoint.
type datagrams struct {
	e     *Endpoint
	conn  *net.UDPConn
	local netip.AddrPort
}

const (
	socketBuffer = 4 << 20     // bytes; the kernel gives what it may
	mostLag      = time.Minute // a stamp that says more was made while the clock was set
)

func (e *Endpoint) openDatagrams(at netip.AddrPort) (*datagrams, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("open a SIP port: %w", err)
	}
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	if raw, err := conn.SyscallConn(); err == nil {
		// Without them the time of arrival is that of reading, and drops are not counted.
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
		})
	}
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return &datagrams{e: e, conn: conn, local: netip.AddrPortFrom(local.Addr().Unmap(), local.Port())}, nil
}

func (d *datagrams) write(wire []byte, to netip.AddrPort) error {
	_, err := d.conn.WriteToUDPAddrPort(wire, to)
	return err
}

func (d *datagrams) close() { _ = d.conn.Close() }

func (d *datagrams) read() {
	data, oob := make([]byte, maxMessage), make([]byte, 256)
	for {
		n, m, _, from, err := d.conn.ReadMsgUDPAddrPort(data, oob)
		if err != nil {
			select {
			case <-d.e.done:
				return
			default:
				continue // an ICMP error of an earlier datagram
			}
		}
		now := time.Now()
		lag, dropped := ancillary(oob[:m], now)
		if n <= 4 { // keep-alives, RFC 5626 s.3.5.1
			continue
		}
		d.e.observe(lag, dropped)
		d.e.receive(data[:n], now.Add(-lag), way{addr: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())})
	}
}

func (e *Endpoint) observe(lag time.Duration, dropped uint64) {
	e.mu.Lock()
	e.tally.Lag = max(e.tally.Lag, lag)
	e.tally.Dropped = max(e.tally.Dropped, dropped)
	e.mu.Unlock()
}

// ancillary reads how long a datagram has waited in the kernel, and how many the socket has
// lost so far (socket(7): SO_TIMESTAMPNS, SO_RXQ_OVFL).
func ancillary(oob []byte, now time.Time) (lag time.Duration, dropped uint64) {
	const head = unix.SizeofCmsghdr // length, level, type; then data, aligned to 8
	for len(oob) >= head {
		size := int(binary.NativeEndian.Uint64(oob))
		level, kind := binary.NativeEndian.Uint32(oob[8:]), binary.NativeEndian.Uint32(oob[12:])
		if size < head || size > len(oob) {
			break
		}
		data := oob[head:size]
		switch {
		case level == unix.SOL_SOCKET && kind == unix.SO_TIMESTAMPNS && len(data) >= 16:
			sec, nsec := int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:]))
			lag = min(max(0, time.Duration(now.UnixNano()-sec*1e9-nsec)), mostLag)
		case level == unix.SOL_SOCKET && kind == unix.SO_RXQ_OVFL && len(data) >= 4:
			dropped = uint64(binary.NativeEndian.Uint32(data))
		}
		oob = oob[min(len(oob), (size+7)&^7):]
	}
	if lag == mostLag {
		lag = 0
	}
	return lag, dropped
}
