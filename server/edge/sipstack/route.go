package sipstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	maxDatagram = 1300            // bytes of a request over UDP, RFC 3261 s.18.1.1
	upgradeWait = time.Second     // for TCP in place of UDP: somebody's phone is about to ring
	directFor   = 5 * time.Minute // that a peer without TCP is not tried again
	maxDirect   = 4096
)

var (
	errNoSocket = errors.New("no listening socket for this transport and address family")
	errBusy     = errors.New("too many requests wait for DNS or a connection")
	errNotSent  = errors.New("the request that it belongs to was not sent")
	errFlows    = errors.New("the limit of connections is reached")
)

// out is where bytes leave: a connection, or a socket and an address.
type out struct {
	flow *flow
	sock *socket
	addr netip.AddrPort
}

func (o out) write(b []byte) error {
	if o.flow != nil {
		return o.flow.write(b)
	}
	return o.sock.write(b, o.addr)
}

func (o out) transport() core.Transport {
	if o.flow != nil {
		return core.TCP
	}
	return core.UDP
}

func (o out) via(branch string) string {
	if o.flow != nil {
		return writeVia(core.TCP, o.flow.contact, branch)
	}
	return writeVia(core.UDP, o.sock.contact, branch)
}

func (o out) flowID() core.FlowID {
	if o.flow != nil {
		return o.flow.id
	}
	b := make([]byte, 0, 64)
	b = append(append(append(b, "udp/"...), o.sock.name...), '/')
	return core.FlowID(o.addr.AppendTo(b))
}

// letter is a message on its way out.
type letter interface {
	build(b []byte, o out) []byte // appends its bytes, as they leave by o
	start(o out, wire []byte, err error)
}

// route finds the way to a target, builds the message for it and starts it. When that
// takes DNS or a dial, it goes on in a goroutine of its own, of which there are maxReaches
// at most.
func (s *Stack) route(t core.Target, l letter) {
	o, ok := s.ready(t)
	if ok && s.write(o, l) {
		return
	}
	select {
	case s.reaches <- struct{}{}:
	default:
		s.tally.shedReaches.Add(1)
		l.start(out{}, nil, errBusy)
		return
	}
	s.readers.Go(func() {
		defer func() { <-s.reaches }()
		if !ok {
			var err error
			if o, err = s.reach(t); err != nil {
				l.start(out{}, nil, err)
				return
			}
		}
		o = s.upgrade(o, l)
		l.start(o, l.build(nil, o), nil)
	})
}

// write starts a message, or reports that it is too long for a datagram.
func (s *Stack) write(o out, l letter) bool {
	scratch := s.scratch.Get().(*[]byte)
	defer s.scratch.Put(scratch)
	*scratch = l.build((*scratch)[:0], o)
	if o.flow == nil && len(*scratch) > maxDatagram && !s.direct.has(o.addr) {
		return false
	}
	l.start(o, *scratch, nil)
	return true
}

// ready finds ways that need neither DNS nor a dial.
func (s *Stack) ready(t core.Target) (out, bool) {
	if o, ok := s.byFlow(t.Flow); ok {
		return o, true
	}
	ip, err := netip.ParseAddr(strings.Trim(t.Host, "[]"))
	if err != nil {
		return out{}, false
	}
	addr := netip.AddrPortFrom(ip.Unmap(), portOr(t.Port))
	if t.Transport == core.TCP {
		f := s.flows.toward(addr)
		return out{flow: f, addr: addr}, f != nil
	}
	u := s.socketFor(addr)
	return out{sock: u, addr: addr}, u != nil
}

// byFlow understands the identifiers of flow.add and out.flowID. One of a socket is also
// good after a restart.
func (s *Stack) byFlow(id core.FlowID) (out, bool) {
	rest, ok := strings.CutPrefix(string(id), "udp/")
	if !ok {
		f := s.flows.get(id)
		if f == nil {
			return out{}, false
		}
		return out{flow: f, addr: f.remote}, true
	}
	name, peer, _ := strings.Cut(rest, "/")
	addr, err := netip.ParseAddrPort(peer)
	if err != nil {
		return out{}, false
	}
	for _, u := range s.udp {
		if u.name == name {
			return out{sock: u, addr: addr}, true
		}
	}
	return out{}, false
}

func (s *Stack) socketFor(addr netip.AddrPort) *socket {
	for _, u := range s.udp {
		if u.local.Addr().Is4() == addr.Addr().Is4() {
			return u
		}
	}
	return nil
}

func portOr(port uint16) uint16 {
	if port == 0 {
		return defaultPort
	}
	return port
}

// reach resolves a target and dials it if need be, within ConnectTimeout.
func (s *Stack) reach(t core.Target) (out, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.ConnectTimeout)
	defer cancel()
	addrs, err := s.resolve(ctx, t)
	if err != nil {
		return out{}, err
	}
	err = errNoSocket
	for _, addr := range addrs[:min(len(addrs), 4)] {
		if t.Transport != core.TCP {
			if u := s.socketFor(addr); u != nil {
				return out{sock: u, addr: addr}, nil
			}
			continue
		}
		var f *flow
		if f, err = s.dial(ctx, addr); err == nil {
			return out{flow: f, addr: addr}, nil
		}
	}
	return out{}, err
}

// resolve follows RFC 3263 s.4.2: an address is taken as it is, a name with a port has
// only address records, a name without one may have SRV records. NAPTR is not asked for,
// since the core has chosen the transport.
func (s *Stack) resolve(ctx context.Context, t core.Target) ([]netip.AddrPort, error) {
	host := strings.Trim(t.Host, "[]")
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), portOr(t.Port))}, nil
	}
	var addrs []netip.AddrPort
	if t.Port == 0 {
		transport := string(core.UDP)
		if t.Transport == core.TCP {
			transport = string(core.TCP)
		}
		if _, records, err := s.cfg.Resolver.LookupSRV(ctx, "sip", transport, host); err == nil {
			for _, r := range records[:min(len(records), 3)] {
				addrs = s.lookup(ctx, addrs, r.Target, r.Port)
			}
		}
	}
	if len(addrs) == 0 {
		addrs = s.lookup(ctx, nil, host, portOr(t.Port))
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("host name has no address")
	}
	return addrs, nil
}

func (s *Stack) lookup(ctx context.Context, addrs []netip.AddrPort, host string, port uint16) []netip.AddrPort {
	ips, err := s.cfg.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return addrs
	}
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), port))
	}
	return addrs
}

// dial is one attempt that several requests may wait for.
type dial struct {
	done chan struct{}
	flow *flow
	err  error
}

// dial returns an open connection to addr, making one if there is none. Requests for the
// same address share one attempt.
func (s *Stack) dial(ctx context.Context, addr netip.AddrPort) (*flow, error) {
	t := &s.flows
	t.mu.Lock()
	if f := t.dialled[addr]; f != nil {
		t.mu.Unlock()
		return f, nil
	}
	d, running := t.dialling[addr]
	if !running {
		d = &dial{done: make(chan struct{})}
		t.dialling[addr] = d
	}
	t.mu.Unlock()
	if !running {
		d.flow, d.err = s.connect(ctx, addr)
		t.mu.Lock()
		delete(t.dialling, addr)
		t.mu.Unlock()
		close(d.done)
	}
	select {
	case <-d.done:
		return d.flow, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Stack) connect(ctx context.Context, addr netip.AddrPort) (*flow, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive(), LocalAddr: s.sourceFor(addr.Addr()), Control: portLater}
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	f := &flow{stack: s, conn: conn.(*net.TCPConn), remote: addr, dialled: true, opened: time.Now()}
	f.contact = localOf(conn.LocalAddr())
	for _, l := range s.tcp { // so that the peer can come back when the connection breaks
		if l.local.Addr().Is4() == addr.Addr().Is4() {
			f.contact = l.contact
			break
		}
	}
	if full, _ := s.flows.add(f, s.cfg.MaxFlows, 0); full {
		s.tally.shedFlows.Add(1)
		conn.Close()
		return nil, errFlows
	}
	s.readers.Go(f.read)
	return f, nil
}

// sourceFor is the address that a connection to peer comes from: the one we listen on, by
// which members of a cluster know each other and trunks their customers. On a machine with
// several addresses the kernel would choose another. nil: the kernel's choice.
func (s *Stack) sourceFor(peer netip.Addr) net.Addr {
	for _, l := range s.tcp {
		own := l.local.Addr()
		if own.Is4() == peer.Is4() && !own.IsUnspecified() && (!own.IsLoopback() || peer.IsLoopback()) {
			return &net.TCPAddr{IP: own.AsSlice(), Zone: own.Zone()}
		}
	}
	return nil
}

// portLater lets the kernel choose the port when it knows the peer (ip(7)), so that each peer
// has all ports and not all peers together.
func portLater(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}

func (t *flowTable) toward(addr netip.AddrPort) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dialled[addr]
}

// upgrade tries TCP for a request that is too long for a datagram. When nobody answers
// there the datagram goes out all the same: fragments mostly arrive.
func (s *Stack) upgrade(o out, l letter) out {
	if o.flow != nil || len(l.build(nil, o)) <= maxDatagram || s.direct.has(o.addr) {
		return o
	}
	ctx, cancel := context.WithTimeout(s.ctx, min(upgradeWait, s.cfg.ConnectTimeout))
	defer cancel()
	f, err := s.dial(ctx, o.addr)
	if err != nil {
		s.direct.add(o.addr)
		return o
	}
	return out{flow: f, addr: o.addr}
}

// directory remembers which peers did not answer on TCP, so that only the first long
// request to a phone without it is late.
type directory struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func (d *directory) init() { d.until = map[netip.AddrPort]time.Time{} }

func (d *directory) has(addr netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.until[addr])
}

func (d *directory) add(addr netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.until) >= maxDirect { // it only costs a second to learn again
		clear(d.until)
	}
	d.until[addr] = time.Now().Add(directFor)
}
