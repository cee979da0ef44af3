package app

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// How many connections there may be at once. They share the file descriptors with the calls,
// which must not be short of them: where the process may have few files, SIP gets half of
// them and the API a quarter.
const (
	maxConns = 4096  // of the API; one address gets half
	maxFlows = 10000 // of SIP; one address gets a quarter
)

// shareOf returns the share of the process's files, at most so many.
func shareOf(part, most int) int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return most
	}
	return int(min(uint64(most), limit.Cur/uint64(part)))
}

func listenHTTP(at netip.AddrPort) (*bounded, error) {
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("HTTP: cannot listen on %s: %w; choose another port with --http", at, err)
	}
	most := shareOf(4, maxConns)
	return &bounded{Listener: listener, max: most, perSource: most / 2, bySource: map[netip.Addr]int{}}, nil
}

// bounded is a listener that closes what comes beyond its bounds. It does not leave it
// waiting: a probe must get an answer, or none, at once.
type bounded struct {
	net.Listener
	max, perSource int

	mu       sync.Mutex
	open     int
	bySource map[netip.Addr]int
	shed     uint64
}

// Accept returns the next connection within the bounds.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if b.admit(source) {
			return &counted{Conn: conn, gone: func() { b.leave(source) }}, nil
		}
		_ = conn.(*net.TCPConn).SetLinger(0) // no TIME_WAIT for those who come too often
		_ = conn.Close()
	}
}

func (b *bounded) admit(source netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.max || b.bySource[source] >= b.perSource {
		b.shed++
		return false
	}
	b.open++
	b.bySource[source]++
	return true
}

func (b *bounded) leave(source netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.bySource[source]--; b.bySource[source] == 0 {
		delete(b.bySource, source)
	}
}

// figures returns how many connections are open, and how many were closed at a bound.
func (b *bounded) figures() (open int, shed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open, b.shed
}

// counted is a connection that is counted until it is closed, which may be said twice.
type counted struct {
	net.Conn
	once sync.Once
	gone func()
}

// Close closes the connection.
func (c *counted) Close() error {
	defer c.once.Do(c.gone)
	return c.Conn.Close()
}
