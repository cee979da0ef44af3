package peers

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The listening socket is in the table of files of its gate's thread and in no other; of the
// rest of the process nothing is kept open there.
func TestGateIsApart(t *testing.T) {
	rest, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	a, b := newNode(t, "a", 3), newNode(t, "b", 4)
	introduce(t, a, b)
	first := fmt.Sprint(os.Getpid())
	gates := map[string]bool{}
	for _, n := range []*node{a, b} {
		held := holders(t, n.Addr())
		if len(held) != 1 || held[first] {
			t.Fatalf("the gate's socket is held by %v, of which %s is the first", held, first)
		}
		for thread := range held {
			gates[thread] = true
		}
	}
	others := holders(t, rest.Addr().(*net.TCPAddr).AddrPort())
	for thread := range gates {
		if others[thread] {
			t.Errorf("thread %s holds what is not the gate's", thread)
		}
	}
	if len(gates) != 2 || !others[first] {
		t.Errorf("gates %v, others %v", gates, others)
	}
}

// holders returns the threads in whose tables of files a listening socket is.
func holders(t *testing.T, at netip.AddrPort) map[string]bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip(err)
	}
	socket := ""
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // number, local, remote, state, queues, timer, retransmits, uid, timeout, inode
		if len(fields) > 9 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", at.Port())) && fields[3] == "0A" {
			socket = "socket:[" + fields[9] + "]"
		}
	}
	if socket == "" {
		t.Fatalf("nobody listens on %v", at)
	}
	threads := map[string]bool{}
	files, _ := filepath.Glob("/proc/self/task/*/fd/*")
	for _, file := range files {
		if what, err := os.Readlink(file); err == nil && what == socket {
			threads[strings.Split(file, "/")[4]] = true
		}
	}
	return threads
}
