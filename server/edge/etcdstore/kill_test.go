package etcdstore

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// childEnv holds the data directory of the child process that is killed.
const childEnv = "DIALTONE_TEST_ETCDSTORE_CHILD"

// child opens the store and writes for ever: token n puts k{n%50} and one more key in one
// Store. It prints what was restored and each token that is Stored.
func child() {
	dir := os.Getenv(childEnv)
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	if os.Getenv(fatalEnv) != "" {
		fail(fatalChild(dir))
		return
	}
	e, err := Embed(context.Background(), EmbedConfig{Dir: dir, MinFree: 1 << 20})
	fail(err)
	stored := make(chan core.Event, 1000)
	s, restored, err := Open(context.Background(), Config{Client: e.Client(), Node: "n1", LeaseTTL: time.Hour, Emit: func(ev core.Event) bool {
		select {
		case stored <- ev:
			return true
		default:
			return false
		}
	}})
	fail(err)
	next := 1
	for _, entry := range restored.Entries {
		fmt.Printf("restored %s %s\n", entry.Key, entry.Value)
		var n int
		if fmt.Sscan(string(entry.Value), &n); n >= next {
			next = n + 1
		}
	}
	fmt.Println("open", next)
	go func() {
		for n := next; ; n++ {
			value := fmt.Sprint(n)
			s.Do(put(core.Token(n), "demo", fmt.Sprint("k", n%50), value, fmt.Sprint("twin", n%50), value))
			for s.Gauges().QueuedOps > 200 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	for ev := range stored {
		if _, ok := ev.(core.Watched); ok {
			continue
		}
		token, said := outcome(ev)
		fmt.Println(said, token)
	}
}

// kill -9 at random instants, the start included: after a restart all that was Stored is
// there, a Store is there whole or not at all, and the claim does not wait for the lease
// (an hour here) of the process that is gone.
func TestKilledProcessLosesNothingStored(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	last := 0 // highest token that was said to be Stored
	for round := range 8 {
		after := chance.IntN(300)
		if round == 3 {
			after = -1 // within the start
		}
		last = killed(t, dir, last, after, time.Duration(chance.IntN(3000))*time.Microsecond)
	}
	if last == 0 {
		t.Errorf("seed %d: nothing was ever stored", seed)
	}
	killed(t, dir, last, 0, 0)
}

// killed runs one child until it has stored so many and a little longer, and checks what
// it restored. It returns the highest token that was Stored so far.
func killed(t *testing.T, dir string, last, after int, longer time.Duration) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { cmd.Process.Signal(syscall.SIGKILL) }
	defer cmd.Wait()
	defer kill()
	if after < 0 {
		time.AfterFunc(200*time.Millisecond+longer, kill)
	}
	restored := map[string]string{}
	stored, highest := 0, last
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var word, key, value string
		n, _ := fmt.Sscan(lines.Text(), &word, &key, &value)
		switch {
		case word == "restored" && n == 3:
			restored[key] = value
		case word == "open" && n == 2:
			checkRestored(t, restored, last)
			if after == 0 {
				time.AfterFunc(longer, kill)
			}
		case word == "stored" && n == 2:
			var token int
			if fmt.Sscan(key, &token); token > highest {
				highest = token
			}
			if stored++; stored == after {
				time.AfterFunc(longer, kill)
			}
		case word == "unknown":
		case strings.HasPrefix(lines.Text(), "error"):
			t.Fatalf("child: %s", lines.Text())
		}
	}
	return highest
}

func checkRestored(t *testing.T, restored map[string]string, last int) {
	t.Helper()
	highest := 0
	for k := range 50 {
		value := restored[fmt.Sprint("k", k)]
		if twin := restored[fmt.Sprint("twin", k)]; twin != value {
			t.Errorf("k%d is %q and its twin %q: a Store was written in part", k, value, twin)
		}
		n := 0
		fmt.Sscan(value, &n)
		highest = max(highest, n)
	}
	if highest < last {
		t.Errorf("%d was stored, the highest there is %d", last, highest)
	}
	// Commit order: with n the highest, each key holds its last token up to n.
	for n := max(1, highest-49); n <= highest; n++ {
		if got := restored[fmt.Sprint("k", n%50)]; got != fmt.Sprint(n) {
			t.Errorf("highest is %d, but k%d is %q and not %d", highest, n%50, got, n)
		}
	}
}
