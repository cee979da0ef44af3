package media

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// load is both ends of many calls, on one thread with raw sockets of its own.
type load struct {
	t      testing.TB
	fds    []int
	packet []byte
	delays []time.Duration
	sent   int
	poll   poller
	birth  time.Time

	round   uint16      // that follows
	settled func() bool // nil: nothing to wait for
}

func newLoad(t testing.TB, fds []int) *load {
	w := &load{t: t, fds: fds, packet: make([]byte, 172), birth: time.Now()}
	w.packet[0] = 0x80
	var err error
	if w.poll, err = newPoller(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.poll.close)
	return w
}

// aim connects each party to its leg.
func (w *load) aim(local []netip.AddrPort) {
	for i, fd := range w.fds {
		var sa sockaddr
		sa.set(local[i], unix.AF_INET)
		if err := connectUDP(fd, &sa); err != nil {
			w.t.Fatal(err)
		}
		if err := w.poll.add(fd, int32(i), 0); err != nil {
			w.t.Fatal(err)
		}
	}
}

// greet lets the parties talk until the relay has settled: a few words at least, so that
// all legs are locked.
func (w *load) greet() {
	for deadline := time.Now().Add(patience); w.round < 4 || (w.settled != nil && !w.settled()); w.round++ {
		if time.Now().After(deadline) {
			w.t.Fatalf("the relay has not settled within %v", patience)
		}
		for i := range w.fds {
			w.send(i, w.round)
			if i%16 == 15 {
				w.readAll(time.Millisecond / 4)
			}
		}
		w.readAll(20 * time.Millisecond)
	}
	w.delays = w.delays[:0]
}

// readAll reads until nothing has come for so long.
func (w *load) readAll(quiet time.Duration) {
	for last := time.Now(); time.Since(last) < quiet; {
		before := len(w.delays)
		w.readOnce()
		if len(w.delays) > before {
			last = time.Now()
		}
	}
}

func (w *load) readOnce() {
	var events [256]unix.EpollEvent
	// Raw, so that the runtime does not take this for a thread that sleeps a million times a second.
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.poll.set), uintptr(unsafe.Pointer(&events)), uintptr(len(events)), 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		w.t.Fatal(errno)
	}
	if errno == 0 {
		for _, e := range events[:n] {
			w.read(w.fds[e.Fd])
		}
	}
}

func (w *load) run(d time.Duration, flood bool) {
	gap := frame / time.Duration(len(w.fds)) // between two packets of the whole world
	begin := time.Now()
	for {
		since := time.Since(begin)
		if since > d+50*time.Millisecond {
			return
		}
		// A few at a time, so that one who fell behind still reads.
		for n := 0; n < 16 && since < d && (flood || time.Duration(w.sent)*gap <= since); n++ {
			w.send(w.sent%len(w.fds), w.round+uint16(w.sent/len(w.fds)))
			w.sent++
		}
		w.readOnce()
	}
}

func (w *load) send(i int, seq uint16) {
	binary.BigEndian.PutUint16(w.packet[2:], seq)
	binary.BigEndian.PutUint32(w.packet[4:], uint32(seq)*160)
	binary.BigEndian.PutUint32(w.packet[8:], uint32(i))
	binary.BigEndian.PutUint64(w.packet[12:], uint64(time.Since(w.birth)))
	_ = sendOnce(w.fds[i], w.packet, nil)
}

func (w *load) read(fd int) {
	var b [256]byte
	if n, errno := receive(fd, b[:]); errno == 0 && n == 172 {
		w.delays = append(w.delays, time.Since(w.birth)-time.Duration(binary.BigEndian.Uint64(b[12:])))
	}
}
