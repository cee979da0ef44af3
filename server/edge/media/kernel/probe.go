package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Probe finds out whether this kernel relays for this process, by letting it: a packet
// goes through a program of its own on loopback and must come out readdressed. The error
// says what is missing.
func Probe() error {
	var sockets [4]int // speaker, leg, leg, hearer
	var at [4]netip.AddrPort
	for i := range sockets {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sockets[i] = fd
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		if err != nil {
			return fmt.Errorf("bind 127.0.0.1: %w", err)
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		at[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	}
	// The range of one port that the kernel chose; it need not be even.
	low := at[1].Port()
	relay, err := open(at[1].Addr(), low, 1)
	if err != nil {
		return err
	}
	defer relay.Close()
	flow := relay.Flow(low)
	flow.Give(&Plan{
		From: at[0], At: at[1], By: at[2], To: at[3],
		InSSRC: 1, OutSSRC: 2, OutPayload: 8, ShiftSequence: 7, ShiftTime: 160, Clock: 8000,
	}, &Count{Highest: 1 << 16})
	packet := []byte("\x80\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00\x01probe")
	want := []byte("\x80\x08\x00\x08\x00\x00\x00\xa5\x00\x00\x00\x02probe")
	if err := unix.Sendto(sockets[0], packet, 0, &unix.SockaddrInet4{Addr: at[1].Addr().As4(), Port: int(low)}); err != nil {
		return err
	}
	got := make([]byte, 64)
	deadline := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(sockets[3], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &deadline); err != nil {
		return err
	}
	n, _, err := unix.Recvfrom(sockets[3], got, 0)
	if err != nil {
		return fmt.Errorf("the program is attached to loopback, but relays nothing: %w", err)
	}
	if !bytes.Equal(got[:n], want) {
		return fmt.Errorf("the program relayed % x, not % x", got[:n], want)
	}
	if count, _ := flow.Take(); count.Packets != 1 || count.Octets != 5 || count.Highest != 1<<16+1 {
		return errors.New("the program relays and does not count")
	}
	return nil
}
