package app

import (
	"fmt"
	"os"
	"strconv"
)

// monitorSlack is how late the kernel may wake the Go runtime's monitor thread.
const monitorSlack = "500000" // ns

// relaxMonitor gives the runtime's monitor thread timer slack (prctl(2), PR_SET_TIMERSLACK).
//
// The thread sleeps 20 us at a time for as long as processors block in system calls, which
// the embedded store's fsyncs do all the time: two thirds of all context switches of a node
// at 100 calls/s, and a third of its CPU. What it is for (take the processor from a thread
// that blocks, preempt after 10 ms) bears half a millisecond: others steal the work of a
// blocked processor long before.
//
// The thread is the first that a Go program starts, so it has the smallest number above the
// process's own. Should the numbers have wrapped around just then, another thread's sleeps
// become coarser, as do those of the few threads that the monitor starts: a timer may come
// half a millisecond later. The sockets and the media's clock know no slack. Another thread's
// slack may be set only with CAP_SYS_NICE; without it all stays as it was, and the error says so.
func relaxMonitor() (err error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	pid, monitor := os.Getpid(), 0
	for _, task := range tasks {
		if id, err := strconv.Atoi(task.Name()); err == nil && id > pid && (monitor == 0 || id < monitor) {
			monitor = id
		}
	}
	if monitor == 0 {
		return fmt.Errorf("no thread above %d", pid)
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", monitor), []byte(monitorSlack), 0)
}
