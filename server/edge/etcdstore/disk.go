package etcdstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// syncTimes writes a page and has it synced to the disk, a number of times, and returns
// the median and the slowest: etcd does so once per commit.
func syncTimes(dir string, rounds int) (median, slowest time.Duration, err error) {
	f, err := os.CreateTemp(dir, "sync-*.tmp")
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
	}()
	page := make([]byte, 4096)
	took := make([]time.Duration, rounds)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[rounds/2], took[rounds-1], nil
}

// freeBytes returns how much a process may still write below dir.
func freeBytes(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}

// occupy takes the directory for this process; etcd itself would wait for ever for one
// that is in use.
func occupy(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "in-use"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another process: end it or choose another directory", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}
