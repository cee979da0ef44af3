package media

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// measured is one run of one relay, as JSON. CPU is that of the relay's threads. For the
// kernel's path that leaves out what the kernel does when a packet arrives, which is
// charged to whoever runs then, on loopback to the sender: LoadMicros and MachineBusy have it.
type measured struct {
	Relay   string  `json:"relay"` // bare, portable, kernel, goroutines
	Calls   int     `json:"calls"`
	Flood   bool    `json:"flood"` // as fast as it goes, not 50 packets/s for each party
	Seconds float64 `json:"seconds"`
	Sent    int     `json:"sent"`
	Relayed int     `json:"relayed"`
	Lost    int     `json:"lost"`
	Rate    float64 `json:"packets_per_second"`

	UserMicros   float64 `json:"user_us_per_packet"`
	SystemMicros float64 `json:"system_us_per_packet"`
	CPUMicros    float64 `json:"cpu_us_per_packet"`    // of both, by the scheduler's clock
	LoadMicros   float64 `json:"load_us_per_packet"`   // of the thread that sends and receives
	CoreBusy     float64 `json:"core_busy_percent"`    // of the relay, 100 is one core
	MachineBusy  float64 `json:"machine_busy_percent"` // of the whole machine with all its neighbours, 100 is all cores

	P50  float64 `json:"one_way_p50_us"`
	P99  float64 `json:"one_way_p99_us"`
	P999 float64 `json:"one_way_p999_us"`
	Max  float64 `json:"one_way_max_us"`
}

// TestRelayLoad is a measured run: MEDIA_CALLS calls (two legs each, 50 packets/s both
// ways, spread evenly) for MEDIA_SECONDS, or as fast as it goes with MEDIA_FLOOD=1,
// MEDIA_ROUNDS times. It reports the CPU for each relayed packet and the one-way latency
// of each path, and beside them those of a bare epoll loop that receives and sends and
// looks at nothing, in turns on the same machine: its cost is the floor of any portable
// relay. MEDIA_RELAYS names the relays; MEDIA_JSON is a file for one JSON object a line.
// Without the variables a small run checks that packets come through.
func TestRelayLoad(t *testing.T) {
	calls, rounds, relays := number("MEDIA_CALLS", 5), 1, "portable,kernel"
	if os.Getenv("MEDIA_CALLS") != "" {
		rounds, relays = number("MEDIA_ROUNDS", 3), "bare,portable,kernel"
	}
	if named := os.Getenv("MEDIA_RELAYS"); named != "" {
		relays = named
	}
	runs := map[string][]measured{}
	for range rounds {
		for _, name := range strings.Split(relays, ",") {
			t.Run(name, func(t *testing.T) {
				m := measureRelay(t, name, calls)
				report(t, m)
				runs[name] = append(runs[name], m)
				if os.Getenv("MEDIA_CALLS") == "" && m.Relayed < m.Sent/2 { // a busy machine may hold the loop up
					t.Errorf("%d of %d packets came through", m.Relayed, m.Sent)
				}
			})
		}
	}
	for _, name := range strings.Split(relays, ",") {
		middle := func(of func(measured) float64) float64 { return median(runs[name], of) }
		t.Logf("%-10s median: %5.2f us CPU/packet (load %5.2f), busy %3.0f%%, one-way p50 %.0f p99 %.0f p99.9 %.0f us, lost %.0f", name,
			middle(func(m measured) float64 { return m.CPUMicros }), middle(func(m measured) float64 { return m.LoadMicros }),
			middle(func(m measured) float64 { return m.CoreBusy }), middle(func(m measured) float64 { return m.P50 }),
			middle(func(m measured) float64 { return m.P99 }), middle(func(m measured) float64 { return m.P999 }),
			middle(func(m measured) float64 { return float64(m.Lost) }))
	}
}

func median(runs []measured, of func(measured) float64) float64 {
	if len(runs) == 0 {
		return 0
	}
	var values []float64
	for _, m := range runs {
		values = append(values, of(m))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func report(t *testing.T, m measured) {
	t.Helper()
	line, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	if path := os.Getenv("MEDIA_JSON"); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
	}
}

func measureRelay(t *testing.T, name string, calls int) measured {
	flood := os.Getenv("MEDIA_FLOOD") != ""
	// Two parties, and three sockets for each leg: RTP, RTCP, strangers.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < uint64(8*calls+100) {
		t.Fatalf("%d calls need %d open files, allowed are %d (ulimit -n)", calls, 8*calls+100, files.Cur)
	}
	fds, remotes := ends(t, 2*calls)
	w := newLoad(t, fds)
	threads := []int{} // of the relay; none: all but that of the load
	switch name {
	case "bare":
		local, thread := bareRelay(t, remotes)
		w.aim(local)
		threads = append(threads, thread)
	case "goroutines":
		w.aim(naiveRelay(t, remotes))
	default:
		r := newRig(t, func(c *Config) { c.Path = Path(name); c.From, c.To = freeRange(t, calls*4+32) })
		var local []netip.AddrPort
		for i := range 2 * calls {
			local = append(local, r.loadLeg(i, remotes[i], pcmu))
		}
		w.aim(local)
		for _, l := range r.loops {
			threads = append(threads, r.threadOf(l))
		}
		if r.Path() == PathKernel {
			w.settled = func() bool { return r.Gauges().Entrusted == 2*calls }
		}
	}
	w.greet()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, began := usageNow(t, threads), time.Now()
	w.run(time.Duration(number("MEDIA_SECONDS", 1))*time.Second, flood)
	used, took := usageNow(t, threads).since(before), time.Since(began)
	if len(w.delays) == 0 {
		t.Fatalf("%s: nothing came through", name)
	}
	slices.Sort(w.delays)
	micros := func(d time.Duration) float64 { return float64(d) / 1e3 }
	each := func(d time.Duration) float64 { return micros(d) / float64(len(w.delays)) }
	q := func(p float64) float64 { return micros(w.delays[int(p*float64(len(w.delays)-1))]) }
	return measured{
		Relay: name, Calls: calls, Flood: flood, Seconds: took.Seconds(), Sent: w.sent, Relayed: len(w.delays), Lost: w.sent - len(w.delays),
		Rate: float64(len(w.delays)) / took.Seconds(), UserMicros: each(used.user), SystemMicros: each(used.system), CPUMicros: each(used.total),
		LoadMicros: each(used.load), CoreBusy: 100 * float64(used.total) / float64(took), MachineBusy: used.machine,
		P50: q(.5), P99: q(.99), P999: q(.999), Max: q(1),
	}
}

// usage is CPU time: of the relay, and of the calling thread, which makes the load.
type usage struct {
	user, system, total, load time.Duration
	machine                   float64 // percent
	busy, all                 float64 // of the machine, in ticks
}

func usageNow(t *testing.T, threads []int) usage {
	t.Helper()
	u := usage{load: clock(t, unix.CLOCK_THREAD_CPUTIME_ID)}
	for _, tid := range threads {
		// The clock id of a thread's CPU time (Linux, include/linux/posix-timers.h).
		u.total += clock(t, int32(^tid<<3|6))
		user, system := splitOf(t, tid)
		u.user, u.system = u.user+user, u.system+system
	}
	if len(threads) == 0 {
		u.total = clock(t, unix.CLOCK_PROCESS_CPUTIME_ID) - u.load
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(line)[1:9] { // user nice system idle iowait irq softirq steal
		ticks, _ := strconv.ParseFloat(field, 64)
		u.all += ticks
		if i != 3 && i != 4 {
			u.busy += ticks
		}
	}
	return u
}

// splitOf reads the user and system time of a thread (proc_pid_stat(5), fields 14 and 15).
func splitOf(t *testing.T, tid int) (user, system time.Duration) {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(tid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := func(field string) time.Duration {
		n, _ := strconv.ParseInt(field, 10, 64)
		return time.Duration(n) * (time.Second / 100) // USER_HZ is 100 on every architecture of Go
	}
	return ticks(fields[11]), ticks(fields[12])
}

func (u usage) since(before usage) usage {
	return usage{
		user: u.user - before.user, system: u.system - before.system, total: u.total - before.total, load: u.load - before.load,
		machine: 100 * (u.busy - before.busy) / max(u.all-before.all, 1),
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// ends opens the sockets of the parties.
func ends(t testing.TB, n int) (fds []int, at []netip.AddrPort) {
	t.Helper()
	for range n {
		fd, err := bindUDP(netip.MustParseAddrPort("127.0.0.1:0"), false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeFD(fd) })
		fds, at = append(fds, fd), append(at, localAddr(t, fd))
	}
	return fds, at
}

func localAddr(t testing.TB, fd int) netip.AddrPort {
	t.Helper()
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
}

func loadLegID(i int) core.LegID {
	return core.LegID("int_" + strconv.Itoa(i/2) + "/" + strconv.Itoa(i%2))
}

// loadLeg opens leg i for a party and bridges it to its neighbour.
func (r *rig) loadLeg(i int, remote netip.AddrPort, codec core.Codec) netip.AddrPort {
	mine := loadLegID(i)
	r.Do(core.OpenMedia{Leg: mine})
	local := await(r.t, r.inbox, openedLeg, mine).Local
	r.Do(core.SetMedia{Leg: mine, Spec: core.MediaSpec{Remote: remote, Codec: codec, Send: true, Receive: true,
		Hear: core.Source{Kind: core.Bridge, Peer: loadLegID(i ^ 1)}}})
	r.settled(mine)
	return local
}

// bareRelay joins neighbours with nothing but the system calls: connected sockets on one
// epoll set and one thread.
func bareRelay(t *testing.T, remotes []netip.AddrPort) (local []netip.AddrPort, thread int) {
	poll, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	fds, local := ends(t, len(remotes))
	for i, fd := range fds {
		var sa sockaddr
		sa.set(remotes[i], unix.AF_INET)
		if err := connectUDP(fd, &sa); err != nil {
			t.Fatal(err)
		}
		if err := poll.add(fd, int32(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	ended, tid := make(chan struct{}), make(chan int)
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10) // as the loop does
		var events [128]unix.EpollEvent
		var b [packetSize]byte
		for {
			for _, e := range events[:poll.wait(events[:])] {
				if e.Fd < 0 {
					return
				}
				if n, errno := receive(fds[e.Fd], b[:]); errno == 0 {
					_ = sendOnce(fds[e.Fd^1], b[:n], nil)
				}
			}
		}
	}()
	t.Cleanup(func() {
		poll.ring()
		<-ended
		poll.close()
	})
	return local, <-tid
}

// threadOf finds a loop's thread by asking on it.
func (r *rig) threadOf(l *loop) int {
	tid := make(chan int, 1)
	l.post(order{do: orderEmit, event: onLoop{do: func() { tid <- unix.Gettid() }}})
	return <-tid
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

func clock(t testing.TB, id int32) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
