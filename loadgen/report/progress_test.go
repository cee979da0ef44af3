package report

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// terminal is a pseudo-terminal of 120 columns, and what was written to it so far.
func terminal(t *testing.T) (tty *os.File, screen func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this system has no pseudo-terminals: ", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 120}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var text strings.Builder
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			mu.Lock()
			text.Write(buffer[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return tty, func() string {
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
}

// The line stays when the run takes longer than planned, and goes when it is over.
func TestProgressOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	tty, screen := terminal(t)
	shows := func(words string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(screen(), words); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%q is not on the screen: %q", words, screen())
			}
		}
	}
	p := NewProgress(tty, 2*time.Second)
	defer p.Close()
	for _, m := range []Moment{{Elapsed: time.Second, Live: 7}, {Elapsed: 2 * time.Second, Live: 6}, {Elapsed: 9 * time.Second, Live: 5, Dropped: 3}} {
		m.SetupP99, m.OneWayP99 = 7_319, measure.Never
		p.Update(m)
		shows(m.String())
	}
	p.Close()
	if !Colourful(tty) {
		t.Error("no colours on a terminal")
	}
	t.Setenv("NO_COLOR", "1")
	if Colourful(tty) {
		t.Error("colours in spite of NO_COLOR")
	}
}
