package peers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// gate takes the connections that peers open. It is one thread, and what it opens is in a
// table of files of its own (close_range(2), CLOSE_RANGE_UNSHARE).
//
// The peers are to see the end of this process at once. A kernel that ends a process frees
// its memory first and closes its files afterwards: with 256 MB in use that is ten
// milliseconds later and more. But a table of files is closed when the last thread that uses
// it is gone, and any one thread is gone at once, unless it happens to be the last of all. So
// the kernel closes the gate's sockets long before it is done with the process.
//
// On this thread nothing may be done with other files of the process (a log's, say): they
// have other numbers here, or none.
type gate struct {
	peers    *Peers
	bell     int // an eventfd, in both tables
	set      int // epoll
	listener int
	conns    map[int32]*inbound
	shaking  []*inbound // in the order of their deadlines; those that are through or have ended stay until then
	events   [64]unix.EpollEvent
}

// openGate begins to listen; it returns when that is done, or failed.
func (p *Peers) openGate(at netip.AddrPort) error {
	bell, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	g := &gate{peers: p, bell: bell, set: -1, listener: -1, conns: map[int32]*inbound{}}
	opened := make(chan error)
	p.work.Go(func() {
		onThread(func() {
			defer g.close()
			err := g.open(at)
			opened <- err
			if err == nil {
				g.run()
			}
		})
	})
	if err := <-opened; err != nil {
		_ = unix.Close(bell)
		return err
	}
	p.bell = bell
	return nil
}

// onThread runs f on a thread of its own, which ends with the calling goroutine. It is never
// the first thread, whose files /proc shows as those of the process: where the
// goroutine is on that one, it is held, and f gets another.
func onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
}

// ring wakes the gate: it is to look who this process is now, and whether it ends.
func (p *Peers) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.bell, one[:])
}

func (g *gate) open(at netip.AddrPort) (err error) {
	g.part()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10) // to be gone first, where that is permitted
	family, v4 := unix.AF_INET6, at.Addr().Is4()
	if v4 {
		family = unix.AF_INET
	}
	if g.set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if g.listener, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(g.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if !v4 {
		_ = unix.SetsockoptInt(g.listener, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err := unix.Bind(g.listener, sockaddr(at, v4)); err != nil {
		return err
	}
	if err := unix.Listen(g.listener, maxShaking); err != nil {
		return err
	}
	return errors.Join(g.watch(g.listener), g.watch(g.bell))
}

// part gives this thread a table of files of its own. Nothing may stay open in it for this
// thread's sake when the process closes it: kept are 0 to 2, where the runtime writes when it
// fails, and all of epoll and eventfd, of which the runtime's poller consists: any thread may
// use that at any time (a garbage collection that begins here looks into it), and would stop
// the process if it were not there. Where that cannot be made sure, and with a kernel without
// close_range (before 5.9), the gate stays in the table of all. There it works as well, but
// for what it is for.
func (g *gate) part() {
	kept, err := pollers()
	if err != nil {
		return
	}
	kept = append(kept, 2, g.bell)
	slices.Sort(kept)
	kept = slices.Compact(kept)
	flags := uint(unix.CLOSE_RANGE_UNSHARE)
	for i, fd := range kept {
		first, last := uint(fd)+1, uint(1<<32-1)
		if i+1 < len(kept) {
			last = uint(kept[i+1]) - 1
		}
		if first > last {
			continue
		}
		if unix.CloseRange(first, last, flags) != nil {
			return
		}
		flags = 0
	}
}

// pollers returns all files of the process that are of epoll or eventfd, the runtime's among
// them.
func pollers() (all []int, err error) {
	r, w, err := os.Pipe() // the runtime makes its poller when it is needed first
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	const open = "/proc/self/fd"
	entries, err := os.ReadDir(open)
	if err != nil {
		return nil, err
	}
	polls := 0
	for _, entry := range entries {
		what, err := os.Readlink(open + "/" + entry.Name())
		fd, bad := strconv.Atoi(entry.Name())
		if err != nil || bad != nil || fd <= 2 || what != eventPoll && what != eventFD {
			continue
		}
		all = append(all, fd)
		if what == eventPoll {
			polls++
		}
	}
	if polls == 0 || len(all) == polls {
		return nil, errors.New("the runtime's poller is not to be seen")
	}
	return all, nil
}

// How /proc names them.
const (
	eventPoll = "anon_inode:[eventpoll]"
	eventFD   = "anon_inode:[eventfd]"
)

func (g *gate) watch(fd int) error {
	return unix.EpollCtl(g.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// close frees all but the bell; the listener first, so that who loses a connection then
// finds nobody.
func (g *gate) close() {
	if g.listener >= 0 {
		_ = unix.Close(g.listener)
	}
	for _, in := range g.conns {
		g.end(in)
	}
	if g.set >= 0 {
		_ = unix.Close(g.set)
	}
}

// run answers connections until Close.
func (g *gate) run() {
	for {
		n, _ := unix.EpollWait(g.set, g.events[:], g.patience())
		for _, e := range g.events[:max(0, n)] {
			switch in := g.conns[e.Fd]; {
			case int(e.Fd) == g.listener:
				g.accept()
			case int(e.Fd) == g.bell:
				var b [8]byte
				_, _ = unix.Read(g.bell, b[:])
				if !g.look() {
					return
				}
			case in != nil: // nil: it ended in this very turn
				if !g.read(in) {
					g.end(in)
				}
			}
		}
		g.expire()
	}
}

// look ends what was opened to who this process is no more; false: it is nobody now.
func (g *gate) look() bool {
	g.peers.mu.Lock()
	me, over := g.peers.self, g.peers.ctx.Err() != nil
	g.peers.mu.Unlock()
	for _, in := range g.conns {
		if in.stage != fresh && in.as != me {
			g.end(in)
		}
	}
	return !over
}

// patience returns how long to wait for events, in milliseconds: until the next handshake
// has taken too long.
func (g *gate) patience() int {
	if len(g.shaking) == 0 {
		return -1
	}
	return max(0, int((g.shaking[0].until-g.peers.now())/time.Millisecond)) + 1
}

// expire ends handshakes that take too long.
func (g *gate) expire() {
	now, n := g.peers.now(), 0
	for n < len(g.shaking) && g.shaking[n].until <= now {
		if in := g.shaking[n]; in.stage != settled {
			g.end(in)
		}
		n++
	}
	g.shaking = append(g.shaking[:0], g.shaking[n:]...)
}

// accept takes one connection. It closes at once what is too many.
func (g *gate) accept() {
	fd, _, err := unix.Accept4(g.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		time.Sleep(5 * time.Millisecond) // the connection waits in the kernel
		return
	case err != nil:
		return
	}
	in := &inbound{fd: int32(fd), until: g.peers.now() + handshakeTime}
	if len(g.shaking) >= maxShaking || g.watch(fd) != nil {
		_ = unix.Close(fd)
		g.refuse()
		return
	}
	hasten(fd)
	g.conns[in.fd] = in
	g.shaking = append(g.shaking, in)
}

// hasten makes a connection one of which the end is found out soon: see keepAlive, userTimeout.
func hasten(fd int) {
	for _, o := range [...][3]int{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds())},
	} {
		_ = unix.SetsockoptInt(fd, o[0], o[1], o[2]) // without, the kernel finds out later
	}
}

// read takes what has come, and what it completes; false: the connection is to end.
func (g *gate) read(in *inbound) bool {
	n, err := unix.Read(int(in.fd), in.buf[in.have:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return true
	}
	if err != nil || n <= 0 {
		return false
	}
	in.have += n
	for in.have >= 2 {
		length := int(binary.BigEndian.Uint16(in.buf[:]))
		if length <= maxFrame && in.have < 2+length {
			return true
		}
		if length > maxFrame || !g.take(in, in.buf[2:2+length]) {
			in.stage = broken
			return false
		}
		in.have = copy(in.buf[:], in.buf[2+length:in.have])
	}
	return true
}

// say writes a message at once or not at all.
func (g *gate) say(in *inbound, b []byte) error {
	b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	n, err := unix.SendmsgN(int(in.fd), b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err == nil && n < len(b) {
		err = fmt.Errorf("%d of %d bytes", n, len(b))
	}
	return err
}

// end closes a connection.
func (g *gate) end(in *inbound) {
	if g.conns[in.fd] != in {
		return
	}
	delete(g.conns, in.fd)
	_ = unix.Close(int(in.fd))
	g.peers.dismiss(in)
	if in.stage != settled {
		g.refuse()
	}
}

// refuse counts a connection that came to nothing.
func (g *gate) refuse() {
	g.peers.mu.Lock()
	defer g.peers.mu.Unlock()
	g.peers.tally.hellos++
}
