package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen"
)

// process runs `dialtone dev` inside the test and returns what it printed at start, and
// where its exit code will come.
func process(t *testing.T, args ...string) (printed map[string]string, code <-chan int, stderr *locked) {
	t.Helper()
	reader, writer := io.Pipe()
	stderr = &locked{}
	done := make(chan int, 1)
	args = append([]string{"dev", "--data", t.TempDir(), "--sip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--rtp", "4200-4299", "--json"}, args...)
	go func() {
		done <- run(args, nil, writer, stderr)
		writer.Close()
	}()
	line, err := bufio.NewReader(reader).ReadBytes('\n')
	if err != nil {
		t.Fatalf("it ended before it was up: %v\n%s", err, stderr)
	}
	if err := json.Unmarshal(line, &printed); err != nil {
		t.Fatal(err)
	}
	return printed, done, stderr
}

type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func send(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), signal); err != nil {
		t.Fatal(err)
	}
}

func exitCode(t *testing.T, code <-chan int, within time.Duration, stderr *locked) int {
	t.Helper()
	select {
	case c := <-code:
		return c
	case <-time.After(within):
		t.Fatalf("it did not end within %s\n%s", within, stderr)
		return -1
	}
}

func TestSIGTERMDrainsAndExitsWithZero(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		printed, code, stderr := process(t)
		answer, err := http.Get(printed["http"] + "/readyz")
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("readyz: %v %v", answer, err)
		} else {
			answer.Body.Close()
		}
		send(t, signal)
		if c := exitCode(t, code, 10*time.Second, stderr); c != passed {
			t.Errorf("exit code %d after %s\n%s", c, signal, stderr)
		}
		if !strings.Contains(stderr.String(), `"msg":"drained"`) {
			t.Errorf("no drain after %s:\n%s", signal, stderr)
		}
	}
}

// A live call holds a drain for up to an hour; a second signal does not wait for it.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	printed, code, stderr := process(t, "--drain-timeout", "1h")
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	called := make(chan int, 1)
	progress := &locked{}
	go func() {
		called <- loadgen.Call(ctx, []string{"--server", printed["sip"], "--agent-password", printed["agent_password"], "--talk", "60s"}, io.Discard, progress)
	}()
	wait(t, progress, "they talk")
	send(t, syscall.SIGTERM)
	wait(t, stderr, `"msg":"draining`)
	select {
	case c := <-code:
		t.Fatalf("exit code %d while a call was up\n%s", c, stderr)
	case <-time.After(300 * time.Millisecond):
	}
	send(t, syscall.SIGTERM)
	if c := exitCode(t, code, 10*time.Second, stderr); c != passed {
		t.Errorf("exit code %d\n%s", c, stderr)
	}
	hangUp()
	<-called
}

func wait(t *testing.T, in *locked, text string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(in.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q within 20 s:\n%s", text, in)
		}
	}
}
