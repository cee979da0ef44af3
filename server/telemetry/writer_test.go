package telemetry

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// stuck blocks as a pipe does that nobody reads.
type stuck struct {
	release chan struct{}
	got     bytes.Buffer
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.release
	return s.got.Write(b)
}

func TestAStuckTerminalStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{release: make(chan struct{})}
		w := NewWriter(to)
		for i := range 2 * waitingLines {
			fmt.Fprintf(w, "line %d\n", i)
		}
		if d := w.Dropped(); d < waitingLines-1 || d > waitingLines {
			t.Errorf("dropped %d of %d", d, 2*waitingLines)
		}
		close(to.release)
		w.Close()
		text := to.got.String()
		if !strings.HasPrefix(text, "line 0\nline 1\n") {
			t.Errorf("%.200s", text)
		}
	})
}

func TestLinesAfterCloseAreWritten(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	fmt.Fprint(w, "one\n")
	w.Close()
	w.Close()
	fmt.Fprint(w, "two\n")
	if b.String() != "one\ntwo\n" {
		t.Errorf("%q", b.String())
	}
}
