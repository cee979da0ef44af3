package app

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The thread that rests is the oldest but the main one: the runtime starts its monitor
// before anything else. (Threads that it starts itself inherit its slack.)
func TestMonitorRests(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another thread's slack is set with CAP_SYS_NICE only")
	}
	if err := relaxMonitor(); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	oldest, born := "", ^uint64(0)
	for _, task := range tasks {
		id := task.Name()
		b, err := os.ReadFile("/proc/self/task/" + id + "/stat")
		if err != nil || id == fmt.Sprint(os.Getpid()) {
			continue
		}
		var started uint64 // proc(5): field 22
		_, rest, _ := strings.Cut(string(b), ") ")
		if _, err := fmt.Sscan(strings.Fields(rest)[19], &started); err != nil {
			t.Fatal(err)
		}
		if started < born {
			oldest, born = id, started
		}
	}
	slack, err := os.ReadFile("/proc/" + oldest + "/timerslack_ns")
	if err != nil || strings.TrimSpace(string(slack)) != monitorSlack {
		t.Errorf("thread %s, the oldest of %d, has a slack of %s ns (%v), want %s", oldest, len(tasks), slack, err, monitorSlack)
	}
}
