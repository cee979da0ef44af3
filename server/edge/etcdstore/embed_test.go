package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/dialtone-cc/dialtone/server/core"
)

func TestEmbeddedNeedsNoSocketAndKeepsItsData(t *testing.T) {
	dir := t.TempDir()
	log := &syncBuffer{}
	for round := range 2 {
		e, err := Embed(t.Context(), EmbedConfig{Dir: dir, Log: logTo(log), MinFree: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if e.Addr() != "" {
			t.Errorf("listens on %s", e.Addr())
		}
		h := newHeard()
		s, restored, err := Open(t.Context(), Config{Client: e.Client(), Node: "n1", Emit: h.emit})
		if err != nil {
			t.Fatal(err)
		}
		if entries := restored.Entries; len(entries) != 1+round { // the node itself
			t.Errorf("round %d: restored %v", round, entries)
		}
		s.Do(put(1, "demo", "a", "1"))
		h.awaitFinal(t, 1, "stored")
		if _, err := Embed(t.Context(), EmbedConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("a second process on the same data: %v", err)
		}
		if _, err := e.Client().MemberList(t.Context()); err == nil {
			t.Error("a call that is not connected succeeded")
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		e.Close()
	}
	if text := log.String(); strings.Contains(text, "WARN") && !strings.Contains(text, "slow") || !strings.Contains(text, "sync_median_ms") || strings.Count(text, "\n") > 4 {
		t.Errorf("a start should be quiet and say how fast the disk is:\n%s", text)
	}
}

func TestFullDirectoryIsRefused(t *testing.T) {
	_, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), MinFree: 1 << 60})
	if err == nil || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("%v", err)
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

// The disk fills up from outside: nothing is stored, nothing is lost, and when there is
// space again all goes on. etcd itself never sees the full disk.
func TestDiskFillsUpAndIsFreed(t *testing.T) {
	dir := smallDisk(t, "32m")
	log := &syncBuffer{}
	e, err := Embed(t.Context(), EmbedConfig{Dir: filepath.Join(dir, "data"), Log: logTo(log), MinFree: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	h := newHeard()
	s, _, err := Open(t.Context(), Config{Client: e.Client(), Node: "n1", Emit: h.emit, Log: logTo(log), pace: quick()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
	fill(t, filepath.Join(dir, "ballast"), 1<<20)
	until(t, "the alarm", func() bool { return e.line.scarce.Load() })
	if err := e.Writable(); err == nil || !strings.Contains(err.Error(), "space") {
		t.Errorf("writable: %v", err)
	}
	for i := range core.Token(100) {
		s.Do(put(100+i, "demo", fmt.Sprint("k", i), strings.Repeat("x", 1000)))
	}
	h.awaitUnknown(t, 199)
	if reply, err := e.Client().Get(t.Context(), "t/demo/a"); err != nil || len(reply.Kvs) != 1 {
		t.Errorf("reading with a full disk: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	for i := range core.Token(100) {
		h.awaitFinal(t, 100+i, "stored")
	}
	h.final(t)
	for _, want := range []string{"too little space on the disk", "there is space on the disk again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

// fill writes until so many bytes are left.
func fill(t *testing.T, path string, leave int64) {
	t.Helper()
	free, err := freeBytes(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, free-leave), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A fatal error within etcd (here a disk that is really full) must not end the process,
// in which calls live: the writes stay Unknown, the log says what to do. In a process of
// its own, for such a member can't be closed.
func TestFatalErrorOfEtcdEndsNoCall(t *testing.T) {
	dir := smallDisk(t, "32m")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, fatalEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "alive") || !strings.Contains(string(out), "the embedded etcd has stopped") {
		t.Errorf("%v\n%s", err, out)
	}
}

// fatalEnv makes the child go through fatalChild.
const fatalEnv = "DIALTONE_TEST_ETCDSTORE_FATAL"

func fatalChild(dir string) error {
	log := &syncBuffer{}
	e, err := Embed(context.Background(), EmbedConfig{Dir: filepath.Join(dir, "data"), Log: logTo(log), MinFree: 1})
	if err != nil {
		return err
	}
	h := newHeard()
	s, _, err := Open(context.Background(), Config{Client: e.Client(), Node: "n1", Emit: h.emit, Log: logTo(log), pace: quick()})
	if err != nil {
		return err
	}
	free, err := freeBytes(dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, free-(64<<10)), 0o600); err != nil {
		return err
	}
	for i := range core.Token(100) {
		s.Do(put(1+i, "demo", fmt.Sprint("k", i), strings.Repeat("x", 500<<10)))
	}
	unknown := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.warned[100]
	}
	for end := time.Now().Add(20 * time.Second); !unknown() || !strings.Contains(log.String(), "has stopped"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("no fatal error, or no Unknown: %s", log)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("Close: %v", err)
	}
	began := time.Now()
	e.Close()
	if took := time.Since(began); took > 5*time.Second {
		return fmt.Errorf("closing took %v", took)
	}
	fmt.Println("alive", log)
	return nil
}

// The quota is reached for want of compaction: history is dropped and the alarm ended.
func TestQuotaIsRelieved(t *testing.T) {
	log := &syncBuffer{}
	e, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), Log: logTo(log), MinFree: 1 << 20, Quota: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	h := newHeard()
	s, _, err := Open(t.Context(), Config{Client: e.Client(), Node: "n1", Emit: h.emit, Log: logTo(log)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	value := strings.Repeat("x", 100<<10)
	for i := range core.Token(600) { // 60 MB of history, 1 MB of values
		s.Do(put(1+i, "demo", fmt.Sprint("k", i%10), value))
		if i%20 == 19 {
			h.awaitFinal(t, 1+i, "stored")
		}
	}
	h.final(t)
	if !strings.Contains(log.String(), "dropped early") {
		t.Errorf("log:\n%s", log)
	}
	status, err := e.Client().Status(t.Context(), "")
	if err != nil || len(status.Errors) != 0 {
		t.Errorf("%v %v", status, err)
	}
}

func TestZapLogger(t *testing.T) {
	log, ready := &syncBuffer{}, new(atomic.Bool)
	var fatal string
	z := zapLogger(slog.New(slog.NewTextHandler(log, nil)), ready, func(text string) { fatal = text }).With(zap.String("member", "m1"))
	z.Warn("a lecture at the start")
	ready.Store(true)
	z.Debug("never")
	z.Info("not at this level")
	z.Warn("long", zap.String("request", strings.Repeat("k", 1000)))
	z.Warn("slow", zap.Duration("took", time.Second), zap.Int("n", 3))
	z.Error("broken", zap.Error(errors.New("cause")))
	z.Error("too early", zap.Error(errors.New("cannot detect storage schema version: missing term information")))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		z.Fatal("over", zap.Error(errors.New("disk full")))
		t.Error("went on after a fatal error")
	}()
	<-ended
	go func() { z.Panic("worse") }()
	want := []string{`level=INFO msg=slow component=etcd member=m1 took=1s n=3`, `level=ERROR msg=broken component=etcd member=m1 error=cause`, `level=ERROR msg=over`, strings.Repeat("k", 200) + "..."}
	for _, line := range want {
		if !strings.Contains(log.String(), line) {
			t.Errorf("log lacks %q:\n%s", line, log)
		}
	}
	if fatal != "over: disk full" || strings.Contains(log.String(), "lecture") || strings.Contains(log.String(), "not at this") || strings.Contains(log.String(), "too early") {
		t.Errorf("fatal %q, log:\n%s", fatal, log)
	}
}

// BenchmarkSingle is the latency of one Store alone, from Do to Stored.
func BenchmarkSingle(b *testing.B) {
	benchmark(b, 1)
}

// BenchmarkBatch64 is the throughput of one batch after the other, 63 Stores each.
func BenchmarkBatch64(b *testing.B) {
	benchmark(b, batchOps)
}

func benchmark(b *testing.B, stores int) {
	e, err := Embed(b.Context(), EmbedConfig{Dir: b.TempDir(), MinFree: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	done := make(chan core.Event, 10*stores)
	s, _, err := Open(b.Context(), Config{Client: e.Client(), Node: "n1", Emit: func(ev core.Event) bool {
		if _, ok := ev.(core.Stored); ok {
			done <- ev
		}
		return true
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(b.Context())
	value := make([]byte, 300)
	var took []time.Duration
	n := 0
	for b.Loop() {
		began := time.Now()
		for i := range stores {
			n++
			s.Do(core.Store{Token: core.Token(n), Tenant: "demo", Ops: []core.Op{{Key: fmt.Sprint("call/", i), Value: value}}})
		}
		for left := stores; left > 0; {
			<-done
			left--
		}
		took = append(took, time.Since(began))
	}
	report(b, took, n)
}

func report(b *testing.B, took []time.Duration, n int) {
	slices.Sort(took)
	b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
	b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "stores/s")
}
