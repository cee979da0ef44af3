package report

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// JSON writes the result document.
func JSON(w io.Writer, r *measure.Result) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// WriteFile writes a whole report (JSON, HTML or JUnit) to a path. The file is there
// completely or not at all, and on disk when WriteFile returns.
func WriteFile(path string, r *measure.Result, report func(io.Writer, *measure.Result) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return inWords(path, 0, err)
	}
	defer os.Remove(f.Name()) // does nothing once it is renamed
	buffer := bufio.NewWriterSize(f, 1<<16)
	err = report(buffer, r)
	err = errors.Join(err, buffer.Flush(), f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return inWords(path, 0, err)
	}
	return nil
}

// inWords says what to do about a file that cannot be written.
func inWords(path string, lines int64, err error) error {
	done := ""
	if lines > 0 {
		done = fmt.Sprintf(" after %d lines", lines)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: the disk is full%s; free some space or choose a path on another disk: %w", path, done, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s: there is no such directory; create it first: %w", path, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: it may not be written; choose another path: %w", path, err)
	default:
		return fmt.Errorf("%s: cannot be written%s: %w", path, done, err)
	}
}

// Calls writes the calls file: a line of JSON for each call, as they end. It is safe for
// concurrent use. The first error stays; what was written before it is a valid file.
type Calls struct {
	mu      sync.Mutex
	path    string
	file    *os.File
	buffer  *bufio.Writer
	digest  hash.Hash
	packets bool // wanted
	without bool // some line lacks them
	lines   int64
	bytes   int64
	err     error
}

// CreateCalls starts a calls file. With packets, each line carries the latency of every
// packet, about 2 kB more, and all metrics can be computed again from the file.
func CreateCalls(path string, packets bool) (*Calls, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, inWords(path, 0, err)
	}
	return &Calls{path: path, file: f, buffer: bufio.NewWriterSize(f, 1<<18), digest: sha256.New(), packets: packets}, nil
}

// Add writes a line.
func (c *Calls) Add(call *measure.Call) error {
	line := *call
	if !c.packets {
		line.CallerEar, line.AgentEar = withoutPackets(line.CallerEar), withoutPackets(line.AgentEar)
	}
	text, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("%s: call %d cannot be written down: %w", c.path, call.Index, err)
	}
	text = append(text, '\n')
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if _, err := c.buffer.Write(text); err != nil {
		c.err = inWords(c.path, c.lines, err)
		return c.err
	}
	c.without = c.without || lacks(line.CallerEar) || lacks(line.AgentEar)
	c.digest.Write(text)
	c.lines++
	c.bytes += int64(len(text))
	return nil
}

// lacks says whether latencies were measured that are not listed.
func lacks(a *measure.Audio) bool { return a != nil && a.LatencyN > 0 && len(a.Packets) == 0 }

func withoutPackets(a *measure.Audio) *measure.Audio {
	if a == nil || a.Packets == nil {
		return a
	}
	short := *a
	short.Packets = nil
	return &short
}

// Close writes out what is buffered, brings it to disk and says what the file holds.
func (c *Calls) Close() (measure.CallsFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.err
	if err == nil {
		if err = errors.Join(c.buffer.Flush(), c.sync()); err != nil {
			err = inWords(c.path, c.lines, err)
		}
	}
	err = errors.Join(err, c.file.Close())
	return measure.CallsFile{Name: filepath.Base(c.path), Lines: c.lines, Bytes: c.bytes, SHA256: hex.EncodeToString(c.digest.Sum(nil)), Packets: !c.without}, err
}

// sync brings the file to disk; a pipe or a terminal has none.
func (c *Calls) sync() error {
	if err := c.file.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
