package media

import (
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

// TestMemoryOfCalls bounds what a bridged call (two legs that talk) costs this process, and
// holds that it comes back after the calls: what is kept (room in tables) serves the next
// ones. The kernel's part, some 20 kB for six sockets, is not in it.
func TestMemoryOfCalls(t *testing.T) {
	calls := number("MEDIA_CALLS", 100)
	eachPath(t, func(t *testing.T, path Path) {
		r := newRigOn(t, path, func(c *Config) { c.From, c.To = freeRange(t, calls*4+64) })
		fds, remotes := ends(t, 2*calls)
		before := inUse()
		var left [3]int
		for round := range left {
			each := r.callsOnce(fds, remotes)
			left[round] = inUse() - before
			t.Logf("%d calls: %d bytes of heap for each, %d after them, resident %d kB in all", calls, (each-before)/calls, left[round]/calls, resident(t))
			if (each-before)/calls > 8<<10 {
				t.Errorf("a call costs %d bytes of heap, want 8 kB at most", (each-before)/calls)
			}
		}
		if grown := left[2] - left[0]; grown > 64<<10 {
			t.Errorf("after the third round %d bytes more are in use than after the first", grown)
		}
	})
}

// callsOnce has a call for each two parties, and returns the heap in use while they talk.
func (r *rig) callsOnce(fds []int, remotes []netip.AddrPort) (heap int) {
	w := newLoad(r.t, fds)
	files := openFiles(r.t)
	var local []netip.AddrPort
	for i := range fds {
		local = append(local, r.loadLeg(i, remotes[i], pcmu))
	}
	w.aim(local)
	w.greet()
	w.delays = nil
	heap = inUse()
	for i := range fds {
		r.Do(core.CloseMedia{Leg: loadLegID(i)})
		await(r.t, r.inbox, closedLeg, loadLegID(i))
	}
	until(r.t, "all closed", func() bool { return r.Gauges().Legs == 0 })
	if n := openFiles(r.t); n != files {
		r.t.Errorf("%d files open after the calls, %d before", n, files)
	}
	return heap
}

// inUse is the heap after a collection, in bytes.
func inUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// resident is VmRSS (proc_pid_status(5)), in kB.
func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(line)[0])
	return n
}
