package records

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dialtone-cc/dialtone/server/core"
)

const childEnv = "DIALTONE_TEST_RECORDS_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func openSQLite(t testing.TB, path string) *SQLite {
	t.Helper()
	s, err := OpenSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSQLite(t *testing.T) {
	testStore(t, func(t *testing.T) func() Store {
		path := filepath.Join(t.TempDir(), "a b%20c?d#e", "records.db") // what a URI would take apart
		return func() Store { return openSQLite(t, path) }
	})
}

func TestDamagedFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	for name, content := range map[string][]byte{
		"not a database": []byte(strings.Repeat("this is no database\n", 500)),
		"cut off":        nil,
		"scribbled over": nil,
	} {
		os.Remove(path)
		if content == nil {
			s := openSQLite(t, path)
			for n := range 200 {
				must(t, s.Put(t.Context(), []core.CDR{sample("demo", n)}))
			}
			must(t, s.Close())
			content, _ = os.ReadFile(path)
			if name == "cut off" {
				content = content[:len(content)/2]
			} else {
				copy(content[4096:], bytes.Repeat([]byte("scribble"), len(content)/16))
			}
		}
		must(t, os.WriteFile(path, content, 0o600))
		s, err := OpenSQLite(path)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	s := openSQLite(t, path)
	_, err := s.write.Exec(`INSERT INTO schema_version (version_id, is_applied) VALUES (99, 1)`)
	must(t, err)
	must(t, s.Close())
	if _, err := OpenSQLite(path); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "99") {
		t.Errorf("%v", err)
	}
}

// A record that is broken in the file is an error that names it, not a wrong record.
func TestBrokenRecordIsNamed(t *testing.T) {
	s := openSQLite(t, filepath.Join(t.TempDir(), "records.db"))
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1), sample("demo", 2)}))
	_, err := s.write.Exec(`UPDATE cdr SET record = '{"id":' WHERE id = ?`, string(id(1)))
	must(t, err)
	if _, _, err := s.Get(t.Context(), "demo", id(1)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), string(id(1))) {
		t.Errorf("%v", err)
	}
	if _, ok, err := s.Get(t.Context(), "demo", id(2)); !ok || err != nil {
		t.Errorf("the other one: %v %v", ok, err)
	}
}

func TestListsUseAnIndex(t *testing.T) {
	s := openSQLite(t, filepath.Join(t.TempDir(), "records.db"))
	defer s.Close()
	for _, c := range []struct {
		filter Filter
		want   string
	}{
		{Filter{After: "a"}, "(tenant=? AND id<?)"},
		{Filter{After: "a", Queue: "q"}, "cdr_queue (tenant=? AND queue=? AND id<?)"},
		{Filter{Agent: "a", From: 5}, "cdr_agent (tenant=? AND agent=? AND id<?)"},
		{Filter{From: 5, To: 9}, "cdr_ended (tenant=? AND ended_at>? AND ended_at<?)"},
	} {
		query, args := c.filter.query("demo", 5)
		rows, err := s.read.Query("EXPLAIN QUERY PLAN "+query, args...)
		must(t, err)
		plan := ""
		for rows.Next() {
			var a, b, c int
			var step string
			must(t, rows.Scan(&a, &b, &c, &step))
			plan += step + "; "
		}
		rows.Close()
		if !strings.Contains(plan, c.want) {
			t.Errorf("%+v: %s", c.filter, plan)
		}
	}
}

// child writes CDRs for ever and prints the id of each that was delivered. Every CDR
// comes three times.
func child(path string) {
	s, err := OpenSQLite(path)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	out := make(chan core.Event, 10000)
	w := NewWriter(s, func(ev core.Event) bool {
		select {
		case out <- ev:
			return true
		default:
			return false
		}
	}, nil)
	go func() {
		for n := 0; ; n++ {
			for k := range 3 {
				c := sample("demo", max(0, n-k))
				w.Do(core.Deliver{CDR: &c})
			}
			for w.Gauges().Queued > 100 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for ev := range out {
		fmt.Printf("%v\n", ev)
	}
}

// The process is killed at random instants: what was delivered is there, once; what was
// not may come again; afterwards each is there once.
func TestKilledProcessLosesNothingDelivered(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "records.db")
	delivered := map[core.InteractionID]bool{}
	for range 6 {
		kill(t, path, delivered, 1+chance.IntN(400), time.Duration(chance.IntN(5000))*time.Microsecond)
		s := openSQLite(t, path)
		for id := range delivered {
			if _, ok, err := s.Get(t.Context(), "demo", id); !ok || err != nil {
				t.Fatalf("seed %d: %s was delivered and is gone: %v", seed, id, err)
			}
		}
		must(t, s.Close())
	}
	s := openSQLite(t, path)
	defer s.Close()
	const n = 2000
	for k := 0; k < n; k += 100 { // all that the outbox may still hold
		var again []core.CDR
		for i := range 100 {
			again = append(again, sample("demo", k+i))
		}
		must(t, s.Put(t.Context(), again))
	}
	var rows, ids int
	must(t, s.read.QueryRow(`SELECT count(*), count(DISTINCT id) FROM cdr WHERE id < ?`, string(id(n))).Scan(&rows, &ids))
	if rows != n || ids != n {
		t.Errorf("seed %d: %d rows, %d ids of %d", seed, rows, ids, n)
	}
}

// kill starts a child, waits for so many deliveries and a little longer, and kills it.
func kill(t *testing.T, path string, delivered map[core.InteractionID]bool, after int, longer time.Duration) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGKILL)
	lines, begun := bufio.NewScanner(out), false
	for n := 0; lines.Scan(); n++ {
		line := lines.Text()
		if !strings.HasSuffix(line, "}") {
			break // cut off by the kill
		}
		if !strings.HasPrefix(line, "{int_") {
			t.Fatalf("child: %s", line)
		}
		delivered[core.InteractionID(strings.Trim(line, "{}"))] = true
		if n >= after && !begun {
			begun = true
			time.AfterFunc(longer, func() { cmd.Process.Signal(syscall.SIGKILL) })
		}
	}
}

// smallDisk mounts a file system of some MB, or skips.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small file system can't be mounted (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func TestFullDiskLosesNothing(t *testing.T) {
	dir := smallDisk(t, "8m")
	s := openSQLite(t, filepath.Join(dir, "records.db"))
	t.Cleanup(func() { s.Close() })
	var log bytes.Buffer
	in := newInbox()
	w := NewWriter(s, in.emit, slog.New(slog.NewTextHandler(&log, nil)))
	must(t, os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 7<<20), 0o600))
	n := 0
	for failed := false; !failed; n += 100 {
		if n > 100_000 {
			t.Fatal("the disk never was full")
		}
		for i := range 100 {
			c := sample("demo", n+i)
			w.Do(core.Deliver{CDR: &c})
		}
		in.await(t, n+100)
		_, failed = in.count()
	}
	for id, cause := range in.failures() {
		if !strings.Contains(cause, "disk is full") {
			t.Fatalf("%s: %s", id, cause)
		}
	}
	for id := range in.failures() { // nothing that failed is there in part, nothing delivered is gone
		if _, ok, err := s.Get(t.Context(), "demo", id); ok || err != nil {
			t.Fatalf("%s failed and is there: %v %v", id, ok, err)
		}
	}
	must(t, os.Remove(filepath.Join(dir, "ballast")))
	again := in.failures()
	in.reset()
	for i := range n {
		if c := sample("demo", i); again[c.ID] != "" {
			w.Do(core.Deliver{CDR: &c})
		}
	}
	in.await(t, len(again))
	if delivered, failed := in.count(); failed || delivered != len(again) {
		t.Fatalf("%d of %d after space was freed: %v", delivered, len(again), in.failures())
	}
	must(t, w.Close(t.Context()))
	var rows int
	must(t, s.read.QueryRow(`SELECT count(*) FROM cdr`).Scan(&rows))
	if rows != n {
		t.Errorf("%d rows of %d", rows, n)
	}
	if text := log.String(); !strings.Contains(text, "can't be written") || !strings.Contains(text, "written again") {
		t.Errorf("log: %s", text)
	}
}
