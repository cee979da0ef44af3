package phone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialTime  = 5 * time.Second
	writeTime = 10 * time.Second
	maxUnsent = 4 << 20 // bytes of a connection that the other side does not read
	maxFlows  = 4096    // that others opened, per endpoint
)

var (
	errFlowClosed = errors.New("the TCP connection is closed")
	errFraming    = errors.New("Content-Length missing or broken")
)

// connections are the TCP connections of an endpoint: one to each address it sends to (as a
// rule the target alone), and those that servers open to its Contact.
type connections struct {
	e        *Endpoint
	listener net.Listener
	local    netip.AddrPort
	byAddr   map[netip.AddrPort]*flow // under the endpoint's lock
	all      map[*flow]struct{}
}

// openConnections listens; connections to others leave by the same port, so that a server
// that knows a phone by the source of its connection finds it in its Contact.
func (e *Endpoint) openConnections(at netip.AddrPort) (*connections, error) {
	l, err := (&net.ListenConfig{Control: reusePort}).Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("open a SIP port: %w", err)
	}
	local := l.Addr().(*net.TCPAddr).AddrPort()
	return &connections{e: e, listener: l, local: netip.AddrPortFrom(local.Addr().Unmap(), local.Port()),
		byAddr: map[netip.AddrPort]*flow{}, all: map[*flow]struct{}{}}, nil
}

func reusePort(_, _ string, raw syscall.RawConn) error {
	var err error
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(failed, err)
}

func (t *connections) accept() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			select {
			case <-t.e.done:
				return
			case <-time.After(10 * time.Millisecond): // out of file descriptors
				continue
			}
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		f := &flow{e: t.e, addr: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), ready: make(chan struct{}, 1)}
		t.e.mu.Lock()
		if t.e.closed || len(t.all) >= maxFlows {
			t.e.mu.Unlock()
			_ = conn.Close()
			continue
		}
		f.conn = conn
		t.all[f] = struct{}{}
		t.e.running.Go(f.send)
		t.e.running.Go(f.read)
		t.e.mu.Unlock()
	}
}

// to returns the connection to an address, opening one. The lock is held.
func (t *connections) to(addr netip.AddrPort) *flow {
	if f := t.byAddr[addr]; f != nil {
		return f
	}
	f := &flow{e: t.e, addr: addr, ready: make(chan struct{}, 1)}
	if t.e.closed {
		f.closed = true
		return f
	}
	t.byAddr[addr] = f
	t.all[f] = struct{}{}
	t.e.running.Go(f.dial)
	return f
}

func (t *connections) close() {
	_ = t.listener.Close()
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	for f := range t.all {
		f.end()
	}
}

// flow is one TCP connection. What is written waits in it, also while it is being opened.
type flow struct {
	e     *Endpoint
	addr  netip.AddrPort
	ready chan struct{} // there is something to send, or the flow is closed

	// Under the endpoint's lock.
	conn   net.Conn
	unsent [][]byte
	size   int
	closed bool
}

func (f *flow) dial() {
	ctx, stop := context.WithTimeout(context.Background(), dialTime)
	defer stop()
	go func() { // ends with stop
		select {
		case <-f.e.done:
			stop()
		case <-ctx.Done():
		}
	}()
	from := net.TCPAddrFromAddrPort(f.e.local)
	conn, err := (&net.Dialer{LocalAddr: from, Control: reusePort}).DialContext(ctx, "tcp", f.addr.String())
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE) { // the last one is in TIME_WAIT
		from.Port = 0
		conn, err = (&net.Dialer{LocalAddr: from}).DialContext(ctx, "tcp", f.addr.String())
	}
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if err != nil {
		f.fail(fmt.Errorf("connect to %s: %w", f.addr, err))
		return
	}
	if f.closed {
		_ = conn.Close()
		return
	}
	f.conn = conn
	f.e.running.Go(f.send)
	f.e.running.Go(f.read)
}

// write queues one message. The lock is held.
func (f *flow) write(wire []byte) error {
	switch {
	case f.closed:
		return errFlowClosed
	case f.size+len(wire) > maxUnsent:
		f.fail(errors.New("the other side does not read"))
		return errFlowClosed
	}
	f.unsent = append(f.unsent, wire)
	f.size += len(wire)
	f.poke()
	return nil
}

func (f *flow) poke() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

func (f *flow) send() {
	for range f.ready {
		f.e.mu.Lock()
		if f.closed {
			f.e.mu.Unlock()
			return
		}
		bufs, size := net.Buffers(f.unsent), f.size
		f.unsent = nil
		f.e.mu.Unlock()
		_ = f.conn.SetWriteDeadline(time.Now().Add(writeTime))
		_, err := bufs.WriteTo(f.conn)
		f.e.mu.Lock()
		f.size -= size
		if err != nil {
			f.fail(err)
		}
		f.e.mu.Unlock()
	}
}

func (f *flow) read() {
	var in framer
	for {
		n, err := f.conn.Read(in.room())
		at := time.Now()
		if err == nil {
			in.grew(n)
			err = in.each(func(data []byte) { f.e.receive(data, at, way{addr: f.addr, flow: f}) })
		}
		if err != nil {
			f.e.mu.Lock()
			f.fail(err)
			f.e.mu.Unlock()
			return
		}
	}
}

// fail closes the flow; the requests that wait for an answer on it fail (RFC 3261
// s.17.1.4). The lock is held.
func (f *flow) fail(err error) {
	if f.closed {
		return
	}
	f.end()
	for _, t := range f.e.clients {
		if t.to.flow == f {
			t.fail(fmt.Errorf("%w: %w", errFlowClosed, err))
		}
	}
}

func (f *flow) end() {
	f.closed = true
	f.unsent = nil
	if f.conn != nil {
		_ = f.conn.Close()
	}
	f.poke()
	t := f.e.tcp
	delete(t.all, f)
	if t.byAddr[f.addr] == f {
		delete(t.byAddr, f.addr)
	}
}

// framer finds whole messages in a stream (RFC 3261 s.18.3).
type framer struct {
	buf []byte
}

// room returns space to read into; grew says how much of it was filled.
func (f *framer) room() []byte {
	if cap(f.buf)-len(f.buf) < 2048 {
		f.buf = append(make([]byte, 0, max(8192, 2*cap(f.buf))), f.buf...)
	}
	return f.buf[len(f.buf):cap(f.buf)]
}

func (f *framer) grew(n int) { f.buf = f.buf[:len(f.buf)+n] }

// each hands out the messages that are whole. After an error nobody knows where the next
// one begins.
func (f *framer) each(take func([]byte)) error {
	rest := f.buf
	for {
		rest = bytes.TrimLeft(rest, "\r\n") // s.7.5, and keep-alives of RFC 5626
		end := bytes.Index(rest, []byte("\r\n\r\n"))
		if end < 0 {
			break
		}
		body, err := bodyLength(rest[:end])
		if err != nil {
			return err
		}
		total := end + 4 + body
		if total > maxMessage {
			return errFraming
		}
		if len(rest) < total {
			break
		}
		take(rest[:total])
		rest = rest[total:]
	}
	if len(rest) > maxMessage {
		return errFraming
	}
	f.buf = f.buf[:copy(f.buf, rest)]
	return nil
}

func bodyLength(head []byte) (int, error) {
	for line := range bytes.Lines(head) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || kindOf(strings.TrimSpace(string(name))) != lengthField {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 31)
		if err != nil || n > maxMessage {
			return 0, errFraming
		}
		return int(n), nil
	}
	return 0, errFraming
}
