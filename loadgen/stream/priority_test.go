package stream

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// In a process of its own, since there is no way back.
func TestRealTimeIsForAllThreads(t *testing.T) {
	const inside = "DIALTONE_TEST_REAL_TIME"
	if os.Getenv(inside) == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestRealTimeIsForAllThreads$", "-test.v")
		child.Env = append(os.Environ(), inside+"=1")
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := RealTime(); errors.Is(err, unix.EPERM) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	e := engine(t, Config{Threads: 2})
	open(t, e, Options{Voice: 1})
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	count := map[uint32]int{}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		attr, err := unix.SchedGetAttr(tid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil || attr.Policy != unix.SCHED_RR {
			t.Errorf("thread %d: %+v, %v", tid, attr, err)
			continue
		}
		count[attr.Priority]++
	}
	if count[priorityOfEngine] < 1 || count[priorityOfProcess] < 1 {
		t.Errorf("threads by priority: %v", count)
	}
}
