package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of times in /proc: USER_HZ, which Linux fixes at 100 for programs.
const tick = 10 * time.Millisecond

// process is a program under measurement: itself and all that it has started.
type process struct {
	name string
	log  string // its output
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a program with its output in dir.
func start(dir, name string, env []string, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // programs that fork are stopped as one
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// wait returns when the program has ended by itself.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with exit code %d:\n%s", p.name, code, p.tail())
	}
	return nil
}

// ended says whether the program runs no more.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the program and its group: first by SIGTERM, after ten seconds by SIGKILL.
func (p *process) stop() {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if p.ended() {
			return
		}
		_ = syscall.Kill(-p.cmd.Process.Pid, signal)
		select {
		case <-p.done:
			return
		case <-time.After(10 * time.Second):
		}
	}
}

// tail is the end of the program's output, for an error.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	text = bytes.TrimSpace(text)
	if len(text) > 1500 {
		text = text[len(text)-1500:]
	}
	return string(text)
}

// cpu is the user and system time of the program, its live children and those it has
// waited for.
func (p *process) cpu() (time.Duration, error) {
	total := time.Duration(0)
	err := p.family(func(_ int, f []string) {
		for _, field := range f[11:15] { // utime, stime, cutime, cstime: proc_pid_stat(5), fields 14 to 17
			n, _ := strconv.ParseInt(field, 10, 64)
			total += time.Duration(n) * tick
		}
	})
	return total, err
}

// memory is the resident memory in bytes. Pages that forked children share count once (Pss).
func (p *process) memory() (int64, error) {
	total := int64(0)
	err := p.family(func(pid int, _ []string) {
		text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
		_, rest, _ := bytes.Cut(text, []byte("\nPss:"))
		if fields := strings.Fields(string(rest)); len(fields) > 0 {
			n, _ := strconv.ParseInt(fields[0], 10, 64)
			total += n * 1024
		}
	})
	if err == nil && total == 0 {
		err = errors.New("the memory of " + p.name + " can't be read (smaps_rollup)")
	}
	return total, err
}

// family calls f for the program and each of its descendants with what follows the
// program's name in /proc/PID/stat: element i is field i+3.
func (p *process) family(f func(pid int, fields []string)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	parent, stat := map[int]int{}, map[int][]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has just ended
		}
		_, rest, ok := strings.Cut(string(text[bytes.LastIndexByte(text, ')'):]), " ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 22 {
			continue
		}
		parent[pid], _ = strconv.Atoi(fields[1])
		stat[pid] = fields
	}
	root := p.cmd.Process.Pid
	if _, ok := stat[root]; !ok {
		return errors.New(p.name + " has ended:\n" + p.tail())
	}
	for pid, fields := range stat {
		for up := pid; up > 1; up = parent[up] {
			if up == root {
				f(pid, fields)
				break
			}
		}
	}
	return nil
}

// machineCPU is the CPU time that the whole machine has spent, interrupts included: work that
// the kernel does for a packet is charged to whoever happens to run.
func machineCPU() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 {
		return 0, errors.New("/proc/stat: unexpected form")
	}
	total := int64(0)
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq; not idle, iowait, steal
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		total += n
	}
	return time.Duration(total) * tick, nil
}
