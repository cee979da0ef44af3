package clusterctl

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is one process of the cluster.
type process struct {
	name  string
	log   string // its output, appended to
	cmd   *exec.Cmd
	began time.Time
	done  chan struct{} // closed when it has ended
}

// spawner starts processes from one thread that lives as long as it does. The kernel ends
// them when that thread does (prctl(2), PR_SET_PDEATHSIG), so that whoever kills this process
// leaves none of them behind; from an ordinary goroutine they would end with whatever thread
// happened to start them.
type spawner struct{ work chan func() }

func newSpawner() *spawner {
	s := &spawner{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.work {
			f()
		}
	}()
	return s
}

// close ends the thread; what still runs is killed.
func (s *spawner) close() { close(s.work) }

// start runs a program with its output at the end of a file. ended is told when it has ended.
func (s *spawner) start(name, log string, env []string, ended func(*process), argv ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{name: name, log: log, cmd: exec.Command(argv[0], argv[1:]...), began: time.Now(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = out, out, env
	// A group of its own: Ctrl-C on the terminal is for this process, which ends them in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	s.work <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
		ended(p)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// how says how an ended process ended.
func (p *process) how() string { return p.cmd.ProcessState.String() }

// stop ends the processes: by SIGTERM at once, and by SIGKILL when the time is over.
func stop(all []*process, within time.Duration) {
	for _, p := range all {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	over := time.NewTimer(within)
	defer over.Stop()
	for _, p := range all {
		select {
		case <-p.done:
		case <-over.C:
			over.Reset(0)
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
}

// tail is the end of a log, for an error.
func tail(log string) string {
	const most = 1500
	file, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		_, _ = file.Seek(-most, 2)
	}
	text := make([]byte, most)
	n, _ := file.Read(text)
	return string(bytes.TrimSpace(text[:n]))
}
