package stream

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Real-time priorities: the threads of an engine go before the rest of their process.
const (
	priorityOfProcess = 1
	priorityOfEngine  = 2
)

// RealTime puts all threads of this process, and those it starts from now on, before all
// ordinary ones of the machine. It is for a generator that shares a machine with what it
// measures or with busy neighbours: there a thread that is due is otherwise kept waiting for
// some milliseconds, and the Go scheduler, which moves an engine's thread aside for a moment
// every 10 ms, needs another thread of the process to run before it comes back. It needs
// CAP_SYS_NICE; what it takes away from others it takes where the load would be wrong
// otherwise. Call it before New.
func RealTime() error {
	attr := realTime(priorityOfProcess)
	attr.Flags = 0 // threads to come inherit it
	for range 3 {  // a thread that is just starting may be missed by one look
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("real-time priority: %w", err)
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				continue
			}
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("real-time priority (give CAP_SYS_NICE, or do without): %w", err)
			}
		}
	}
	return nil
}

func realTime(priority uint32) unix.SchedAttr {
	return unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: priority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
}

// goFirst puts the calling thread before all others, as far as it is permitted. A nice
// value counts only among the processes of one login session where the kernel groups them
// (sched_autogroup), or of one container: it is for want of anything better.
func goFirst() {
	attr := realTime(priorityOfEngine)
	if unix.SchedSetAttr(0, &attr, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // the default wakes 50 us late
}
