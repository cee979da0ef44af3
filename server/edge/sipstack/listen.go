package sipstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// socket is a bound datagram socket.
type socket struct {
	conn    *net.UDPConn
	local   netip.AddrPort
	contact netip.AddrPort // our sent-by
	name    string         // of local, for flow identifiers
	raw     syscall.RawConn
	shots   sync.Pool
	dropped atomic.Uint64 // datagrams for which the kernel had no room
}

// listener accepts TCP connections.
type listener struct {
	*net.TCPListener
	local   netip.AddrPort
	contact netip.AddrPort
}

// Dead hosts are found by the kernel: 30 s of silence, then three probes 10 s apart.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
}

func (s *Stack) bind() error {
	for _, l := range s.cfg.Listen {
		if err := s.bindOne(l); err != nil {
			for _, u := range s.udp {
				u.conn.Close()
			}
			for _, t := range s.tcp {
				t.Close()
			}
			return err
		}
	}
	if len(s.udp)+len(s.tcp) == 0 {
		return errors.New("SIP: no address to listen on: give at least one")
	}
	return nil
}

func (s *Stack) bindOne(l Listen) error {
	if !l.Addr.IsValid() {
		return fmt.Errorf("SIP: listening address is not valid: give HOST:PORT")
	}
	if l.Addr.Addr().IsUnspecified() && !l.Contact.IsValid() {
		return fmt.Errorf("SIP: listening on every address (%s) needs the one that peers use: set the contact address", l.Addr)
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive()}
	network := string(l.Transport) + family(l.Addr.Addr())
	switch l.Transport {
	case core.UDP:
		conn, err := config.ListenPacket(context.Background(), network, l.Addr.String())
		if err != nil {
			return bindError(l, err)
		}
		u := &socket{conn: conn.(*net.UDPConn), local: localOf(conn.LocalAddr())}
		u.conn.SetReadBuffer(4 << 20) // bursts; the kernel caps it at net.core.rmem_max
		u.conn.SetWriteBuffer(4 << 20)
		if u.raw, err = u.conn.SyscallConn(); err != nil {
			return bindError(l, err)
		}
		u.shots.New = func() any { return newShot() }
		u.name, u.contact = u.local.String(), contactOr(l.Contact, u.local)
		s.udp = append(s.udp, u)
	case core.TCP:
		ln, err := config.Listen(context.Background(), network, l.Addr.String())
		if err != nil {
			return bindError(l, err)
		}
		t := &listener{TCPListener: ln.(*net.TCPListener), local: localOf(ln.Addr())}
		t.contact = contactOr(l.Contact, t.local)
		s.tcp = append(s.tcp, t)
	default:
		return fmt.Errorf("SIP: transport %q: only udp and tcp are known", l.Transport)
	}
	return nil
}

func family(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "4"
	}
	return "6"
}

func localOf(a net.Addr) netip.AddrPort {
	p, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func contactOr(contact, local netip.AddrPort) netip.AddrPort {
	switch {
	case !contact.IsValid():
		return local
	case contact.Port() == 0:
		return netip.AddrPortFrom(contact.Addr(), local.Port())
	}
	return contact
}

func bindError(l Listen, err error) error {
	what := fmt.Sprintf("SIP: cannot listen on %s %s", strings.ToUpper(string(l.Transport)), l.Addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		flag := map[core.Transport]string{core.UDP: "-lunp", core.TCP: "-ltnp"}[l.Transport]
		return fmt.Errorf("%s: the port is taken by another process (ss %s 'sport = :%d' shows it): stop that or choose another port: %w",
			what, flag, l.Addr.Port(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this machine does not have the address: choose one that `ip addr` lists: %w", what, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: not permitted: choose a port above 1023 or grant CAP_NET_BIND_SERVICE: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (s *Stack) serve() {
	for _, u := range s.udp {
		s.readers.Go(func() { s.readDatagrams(u) })
	}
	for _, l := range s.tcp {
		s.readers.Go(func() { s.accept(l) })
	}
}

// readDatagrams is the only reader of its socket: messages are handled in the order in
// which they arrive.
func (s *Stack) readDatagrams(u *socket) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.closed.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("SIP: reading datagrams failed, going on", "address", u.name, "error", err)
			s.pause(10 * time.Millisecond)
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		data := trimLines(buf[:n])
		if len(data) == 0 { // CRLF keep-alive: NAT wants it, we don't (RFC 5626 s.3.5.1 is for streams)
			s.tally.keepAlives.Add(1)
			continue
		}
		s.receive(data, core.Peer{Transport: core.UDP, Addr: from}, out{sock: u, addr: from})
	}
}

func trimLines(b []byte) []byte {
	for len(b) > 0 && (b[0] == '\r' || b[0] == '\n' || b[0] == 0) {
		b = b[1:]
	}
	return b
}

func (s *Stack) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.done:
	}
}

func (s *Stack) accept(l *listener) {
	for {
		conn, err := l.AcceptTCP()
		switch {
		case err == nil:
			s.admit(conn, l)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, mostly: others may become free
			s.log.Warn("SIP: accepting a connection failed, going on", "address", l.local, "error", err)
			s.pause(100 * time.Millisecond)
		}
	}
}

// receive handles the bytes of one whole message. The result says whether the peer spoke
// SIP, which a connection must to stay open. A fault of ours that a message finds costs that
// message, not every call of the node; locks on this way are released when it unwinds.
func (s *Stack) receive(data []byte, peer core.Peer, back out) (spoke bool) {
	defer func() {
		if fault := recover(); fault != nil {
			spoke = true
			s.panicked(fault, peer)
		}
	}()
	m, err := read(s.parser, data, peer.Addr)
	if err != nil {
		return s.reject(err, back)
	}
	if m.response != nil {
		peer.Flow = back.flowID()
		s.tally.gotResponse(m.response.Status)
		if !s.passesBack(&m, data, peer, back) {
			s.gotResponse(m, peer)
		}
		return true
	}
	s.tally.gotRequest(m.request.Method)
	if back.sock != nil {
		peer.Flow = back.flowID()
		back.addr = m.via.answerPort(peer.Addr)
	} else {
		peer.Flow = back.flow.id
	}
	if s.passes(&m, data, peer, back) {
		return true
	}
	if m.request.Method == core.REGISTER && back.flow != nil {
		peer.Token = back.flow.token
	}
	s.gotRequest(m, peer, back)
	return true
}

// panicked counts a message that was lost to a panic. The log has the 1st, 2nd, 4th, 8th and so
// on: whoever found such a message can send it as often as the line carries it.
func (s *Stack) panicked(fault any, peer core.Peer) {
	if n := s.tally.panics.Add(1); n&(n-1) == 0 {
		s.log.Error("SIP: a message made this program fail and was dropped: please report it with this stack",
			"fault", fault, "count", n, "peer", peer.Addr, "transport", peer.Transport, "stack", string(debug.Stack()))
	}
}

func (s *Stack) reject(err error, back out) bool {
	f, ok := err.(*fault)
	if !ok {
		s.tally.garbage.Add(1)
		return false
	}
	s.tally.malformed.Add(1)
	if f.status == 0 || !s.tally.mayRefuse() {
		return true
	}
	if back.sock != nil {
		back.addr = f.reply.top.answerPort(back.addr)
	}
	if back.write(f.answer(s.cfg.Software)) == nil {
		s.tally.sentResponse(f.status)
	}
	return true
}
