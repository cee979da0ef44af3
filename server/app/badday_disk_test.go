package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk is a file system of its own; only root can make one.
type smallDisk struct{ dir string }

func newSmallDisk(t *testing.T, mib int) *smallDisk {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("a disk that can be filled needs a tmpfs, which cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return &smallDisk{dir}
}

func (d *smallDisk) free(t *testing.T) int64 {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &fs); err != nil {
		t.Fatal(err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}

// fill leaves so many bytes free.
func (d *smallDisk) fill(t *testing.T, leave int64) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(d.dir, fmt.Sprintf("ballast-%d", leave)), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	chunk := make([]byte, 1<<20)
	for left := d.free(t) - leave; left > 0; {
		n, err := file.Write(chunk[:min(left, int64(len(chunk)))])
		left -= int64(n)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

func (d *smallDisk) empty(t *testing.T) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(d.dir, "ballast-*"))
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// The disk under the store and the records fills up, to the last byte, while calls are up:
// they go on, who hangs up is let go, new ones are refused, the log says which disk it is;
// with space again everything that happened meanwhile is written, once.
func TestBadDayFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a disk of its own")
	}
	t.Parallel()
	disk := newSmallDisk(t, 480)
	data := filepath.Join(disk.dir, "data")
	c := startChild(t, data)
	demo := c.demo()
	one, two := demo.agent(t, "1001"), demo.agent(t, "1002")
	stays := demo.talk(t, "stays", "127.0.0.1", one)
	leaves := demo.talk(t, "leaves", "127.0.0.1", two)
	waits := &pair{caller: "waits", from: demo.phone(t, "waits", "127.0.0.1")}
	var err error
	if waits.out, err = demo.dial(t, waits.from, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	stays.forget()
	began := time.Now()
	disk.fill(t, 100<<20) // as disks do: not from one write to the next
	await(t, "the log says that there is no space", func() bool {
		for line := range strings.Lines(c.said()) {
			if strings.Contains(line, `"level":"ERROR"`) && strings.Contains(line, "space on the disk") && strings.Contains(line, data) {
				return true
			}
		}
		return false
	})
	disk.fill(t, 0)
	if free := disk.free(t); free > 0 {
		t.Fatalf("%d bytes are free", free)
	}
	if bye := leaves.hangUp(t); bye > 1500*time.Millisecond {
		t.Errorf("the other side heard of a hang-up after %s", bye)
	}
	hungUp := time.Now()
	took := demo.newCallsAreRefused(t, time.Now())
	t.Logf("new calls are refused with 503 after %s", took.Round(time.Millisecond))
	await(t, "/readyz says 503", func() bool { return c.ready() == 503 })
	stays.alive(t)
	stays.heard(t, time.Since(began), 0.9, 2*time.Second)
	c.metrics(t)

	disk.empty(t)
	freed := time.Now()
	await(t, "/readyz says 200", func() bool { return c.ready() == 200 })
	t.Logf("/readyz says 200 %s after there is space again", time.Since(freed).Round(time.Millisecond))
	demo.isWholeAgain(t, stays, leaves, waits, hungUp)
	if !strings.Contains(c.said(), "there is space on the disk again") {
		t.Error("the log does not say that there is space again")
	}
}

// The disk is full from one moment to the next, before the node has seen it coming: what was
// promised is there after space is made and the node is started again.
func TestBadDayDiskFullAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a disk of its own")
	}
	t.Parallel()
	disk := newSmallDisk(t, 480)
	c := startChild(t, filepath.Join(disk.dir, "data"))
	demo := c.demo()
	stays := demo.talk(t, "stays", "127.0.0.1", demo.agent(t, "1001"))
	leaves := demo.talk(t, "leaves", "127.0.0.1", demo.agent(t, "1002"))
	disk.fill(t, 0)
	leaves.hangUp(t)
	stays.alive(t)
	stays.forget()
	<-time.After(2 * time.Second)
	stays.heard(t, 2*time.Second, 0.9, 2*time.Second)
	disk.empty(t)
	for end := time.Now().Add(8 * time.Second); c.ready() != 200 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("/readyz without a restart: %d", c.ready())
	if c.ready() != 200 {
		c.kill()
		c.start(t)
		await(t, "/readyz says 200 after a restart", func() bool { return c.ready() == 200 })
	}
	stays.forget()
	await(t, "both hear each other", stays.hears)
	stays.hangUp(t)
	for _, caller := range []string{"stays", "leaves"} {
		c.oneCDR(t, "", caller)
	}
}
