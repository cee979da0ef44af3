package app

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The supervisor hears of a node while its core answers, and nothing once it is stalled.
func TestWatchdogFallsSilentWithTheCore(t *testing.T) {
	at := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", at)
	t.Setenv("WATCHDOG_USEC", "600000")
	m, _ := startNode(t, devConfig(t, t.TempDir()))
	hear := func(within time.Duration) string {
		b := make([]byte, 100)
		_ = socket.SetReadDeadline(time.Now().Add(within))
		n, err := socket.Read(b)
		if err != nil && !os.IsTimeout(err) {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if s := hear(10 * time.Second); s != "READY=1" {
		t.Fatalf("first the supervisor hears %q", s)
	}
	for range 3 {
		if s := hear(10 * time.Second); s != "WATCHDOG=1" {
			t.Fatalf("then the supervisor hears %q", s)
		}
	}
	stall := make(chan struct{})
	stalled := make(chan struct{})
	go func() {
		_ = m.loop.Load().Ask(t.Context(), func() { close(stalled); <-stall })
	}()
	<-stalled
	for hear(glanceAge+300*time.Millisecond) != "" { // what was on its way, and one look from before
	}
	if s := hear(2 * time.Second); s != "" {
		t.Errorf("with a stalled core the supervisor hears %q", s)
	}
	close(stall)
	if s := hear(10 * time.Second); s != "WATCHDOG=1" {
		t.Errorf("when the core goes on the supervisor hears %q", s)
	}
}
