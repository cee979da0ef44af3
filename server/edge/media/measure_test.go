package media

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// TestRelayLoad is a measured run: MEDIA_CALLS calls (two legs each, 50 packets/s both
// ways, spread evenly) for MEDIA_SECONDS, or as fast as it goes with MEDIA_FLOOD=1. It
// reports CPU per relayed packet and the one-way latency, and beside it those of the
// simplest relay in Go (a goroutine per socket, nothing parsed), in the same run on the
// same machine. Without the variables a small run checks that packets come through.
func TestRelayLoad(t *testing.T) {
	calls, seconds := number("MEDIA_CALLS", 5), number("MEDIA_SECONDS", 1)
	measured := os.Getenv("MEDIA_CALLS") != ""
	measure := func(name string, local []netip.AddrPort, fds []int, cpu func() time.Duration) {
		w := newLoad(t, local, fds)
		used, began := cpu(), time.Now()
		w.run(time.Duration(seconds)*time.Second, os.Getenv("MEDIA_FLOOD") != "")
		used = cpu() - used
		if len(w.delays) == 0 {
			t.Fatalf("%s: nothing came through", name)
		}
		slices.Sort(w.delays)
		q := func(p float64) time.Duration {
			return w.delays[int(p*float64(len(w.delays)-1))].Round(time.Microsecond)
		}
		t.Logf("%s: %d calls, sent %d, relayed %d; %.2f us CPU/packet, busy %.0f%%; one-way p50 %v p99 %v p99.9 %v max %v", name, calls, w.sent,
			len(w.delays), float64(used)/float64(len(w.delays))/1e3, 100*float64(used)/float64(time.Since(began)), q(.5), q(.99), q(.999), q(1))
		if !measured && len(w.delays) < w.sent/2 { // a busy machine may hold the loop up
			t.Errorf("%d of %d packets came through", len(w.delays), w.sent)
		}
	}
	// In turns, so that both see the same neighbours.
	r := newRig(t, func(c *Config) { c.From, c.To = freeRange(t, calls*4+32) })
	fds, remotes := ends(t, 2*calls)
	var local []netip.AddrPort
	for i := range 2 * calls {
		local = append(local, r.loadLeg(i, remotes[i]))
	}
	thread := r.loopThread()
	relay := func() time.Duration { return threadCPU(t, thread) }
	measure("relay", local, fds, relay)
	if measured {
		fds, remotes = ends(t, 2*calls)
		naive := naiveRelay(t, remotes)
		measure("goroutine per socket", naive, fds, othersCPU(t))
		fds, remotes = ends(t, 2*calls)
		for i := range 2 * calls {
			r.loadLeg(i, remotes[i])
		}
		measure("relay again", local, fds, relay)
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// ends opens the sockets of the parties.
func ends(t *testing.T, n int) (fds []int, at []netip.AddrPort) {
	t.Helper()
	for range n {
		fd, err := bindUDP(netip.MustParseAddrPort("127.0.0.1:0"), false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeFD(fd) })
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port)))
	}
	return fds, at
}

// loadLeg opens leg i (unless it is open) for a party and bridges it to its neighbour.
func (r *rig) loadLeg(i int, remote netip.AddrPort) netip.AddrPort {
	id := func(n int) core.LegID { return core.LegID("int_" + strconv.Itoa(i/2) + "/" + strconv.Itoa(n)) }
	mine := id(i % 2)
	r.Do(core.OpenMedia{Leg: mine})
	local := await(r.t, r.inbox, openedLeg, mine).Local
	r.Do(core.SetMedia{Leg: mine, Spec: core.MediaSpec{Remote: remote, Codec: pcmu, Send: true, Receive: true,
		Hear: core.Source{Kind: core.Bridge, Peer: id(1 - i%2)}}})
	r.settled(mine)
	return local
}

// naiveRelay joins neighbours with two goroutines of the net package.
func naiveRelay(t *testing.T, remotes []netip.AddrPort) (local []netip.AddrPort) {
	conns := make([]*net.UDPConn, len(remotes))
	for i := range conns {
		conns[i] = listen(t, "127.0.0.1")
		local = append(local, addrOf(conns[i]))
	}
	for i, c := range conns {
		to, at := conns[i^1], remotes[i^1]
		go func() {
			b := make([]byte, 2048)
			for {
				n, _, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				_, _ = to.WriteToUDPAddrPort(b[:n], at)
			}
		}()
	}
	return local
}

// loopThread finds the loop's thread by asking on it.
func (r *rig) loopThread() int {
	tid := make(chan int, 1)
	emit := r.cfg.Emit
	r.cfg.Emit = func(ev core.Event) bool {
		if _, ok := ev.(stopHere); ok {
			tid <- unix.Gettid()
			return true
		}
		return emit(ev)
	}
	r.loops[0].post(order{do: orderEmit, event: stopHere{}})
	return <-tid
}

// threadCPU is user and system time of one thread.
func threadCPU(t *testing.T, tid int) time.Duration {
	t.Helper()
	// The clock id of a thread's CPU time (Linux, include/linux/posix-timers.h).
	return clock(t, int32(^tid<<3|6))
}

// othersCPU is that of the whole process but the calling thread, on which the load runs.
func othersCPU(t *testing.T) func() time.Duration {
	return func() time.Duration {
		runtime.LockOSThread() // newLoad.run locks as well; the thread stays the same
		return clock(t, unix.CLOCK_PROCESS_CPUTIME_ID) - clock(t, unix.CLOCK_THREAD_CPUTIME_ID)
	}
}

func clock(t *testing.T, id int32) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// load is both ends of many calls, on one thread with raw sockets of its own.
type load struct {
	t      *testing.T
	fds    []int
	packet []byte
	delays []time.Duration
	sent   int
	poll   poller
	birth  time.Time
}

func newLoad(t *testing.T, local []netip.AddrPort, fds []int) *load {
	w := &load{t: t, fds: fds, packet: make([]byte, 172), birth: time.Now()}
	w.packet[0] = 0x80
	var err error
	if w.poll, err = newPoller(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.poll.close)
	for i, fd := range fds {
		var sa sockaddr
		sa.set(local[i], unix.AF_INET)
		if err := connectUDP(fd, &sa); err != nil {
			t.Fatal(err)
		}
		if err := w.poll.add(fd, int32(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *load) run(d time.Duration, flood bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, 256)
	gap := frame / time.Duration(len(w.fds)) // between two packets of the whole world
	begin := time.Now()
	for {
		since := time.Since(begin)
		if since > d+50*time.Millisecond {
			return
		}
		// A few at a time, so that one who fell behind still reads.
		for n := 0; n < 16 && since < d && (flood || time.Duration(w.sent)*gap <= since); n++ {
			w.send(w.sent%len(w.fds), uint16(w.sent/len(w.fds)))
			w.sent++
		}
		n, err := unix.EpollWait(w.poll.set, events, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			w.t.Fatal(err)
		}
		for _, e := range events[:max(n, 0)] {
			w.read(w.fds[e.Fd])
		}
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
