package cluster

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Member is a worker, as the coordinator sees it.
type Member struct {
	Name      string
	Machine   measure.Machine
	Offset    time.Duration // its clock less ours
	Uncertain time.Duration // by so much Offset may be wrong

	line   *line
	theirs string // nonces, for our proof
	ours   string
	token  string
	up     chan Up
	local  func(Down) error // instead of line, in the same process

	mu    sync.Mutex
	cause error
}

// Up gives what the worker tells; it is closed when the worker is gone. Cause says why.
func (m *Member) Up() <-chan Up { return m.up }

// Cause is why the worker is gone.
func (m *Member) Cause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cause
}

func (m *Member) gone(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cause == nil {
		m.cause = err
	}
}

// Send tells the worker. Times in Job and Start are by the coordinator's clock.
func (m *Member) Send(down Down) error {
	if down.Job != nil {
		job := *down.Job
		job.Origin = job.Origin.Add(m.Offset)
		job.Proof = proof(m.token, "coordinate", m.ours, m.theirs)
		down.Job = &job
	}
	if down.Start != nil {
		start := down.Start.Add(m.Offset)
		down.Start = &start
	}
	if m.local != nil {
		return m.local(down)
	}
	return m.line.send(down)
}

// Close ends the connection.
func (m *Member) Close() {
	if m.line != nil {
		_ = m.line.end.Close()
	}
}

// Here is a worker in the same process. The seat has its job already.
func Here(job Job) (*Member, *Seat) {
	m := &Member{Name: "this process", Machine: measure.ThisMachine(), up: make(chan Up, 64)}
	s := &Seat{Job: job, down: make(chan Down, 64)}
	var mu sync.Mutex
	closed := false
	m.local = func(down Down) error {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			return net.ErrClosed
		}
		s.down <- down // the worker takes them until it closes its seat
		return nil
	}
	s.send = func(up Up) error { m.up <- up; return nil }
	s.end = func() {
		mu.Lock()
		defer mu.Unlock()
		if !closed {
			closed = true
			close(s.down)
			close(m.up)
		}
	}
	return m, s
}

// Start starts a worker as a process of its own: the command speaks over its standard input
// and output.
func Start(name string, cmd *exec.Cmd, token string) (*Member, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// A worker that does not say who it is must not hold up the run.
	timer := time.AfterFunc(handshake, func() { _ = cmd.Process.Kill() })
	m, err := admit(newLine(out, in, in), token)
	timer.Stop()
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("%s: %w", name, errors.Join(err, cmd.Wait()))
	}
	m.Name = name
	m.listen(func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("it ended with %w", err)
		}
		return errors.New("it ended")
	})
	return m, nil
}

// Gather waits for so many workers from other machines. A stranger is refused and reported.
func Gather(ctx context.Context, listener net.Listener, n int, token string, report func(string)) ([]*Member, error) {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var members []*Member
	type admission struct {
		m   *Member
		err error
		who string
	}
	admitted := make(chan admission)
	done := make(chan struct{})
	defer close(done)
	go func() {
		// At a time so many may be showing who they are; others wait in the kernel's queue.
		slots := make(chan struct{}, 16)
		for {
			slots <- struct{}{}
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { <-slots }()
				_ = conn.SetDeadline(time.Now().Add(handshake))
				m, err := admit(newLine(conn, conn, conn), token)
				_ = conn.SetDeadline(time.Time{})
				if err != nil {
					_ = conn.Close()
				}
				select {
				case admitted <- admission{m, err, conn.RemoteAddr().String()}:
				case <-done:
					_ = conn.Close()
				}
			}()
		}
	}()
	for len(members) < n {
		select {
		case a := <-admitted:
			if a.err != nil {
				report(fmt.Sprintf("%s is refused: %v", a.who, a.err))
				continue
			}
			a.m.Name = fmt.Sprintf("worker on %.60s (%s)", a.m.Machine.Host, a.who)
			a.m.listen(func() error { return errors.New("its connection ended") })
			members = append(members, a.m)
			report(fmt.Sprintf("%s has joined, %d of %d", a.m.Name, len(members), n))
		case <-ctx.Done():
			for _, m := range members {
				m.Close()
			}
			return nil, ctx.Err()
		}
	}
	_ = listener.Close()
	return members, nil
}

// admit asks a worker who it is and reads its clock.
func admit(l *line, token string) (*Member, error) {
	c := Challenge{Protocol: Protocol, Nonce: nonce()}
	if err := l.send(Down{Challenge: &c}); err != nil {
		return nil, err
	}
	var first Up
	if err := l.receive(&first, mostHello); err != nil {
		return nil, err
	}
	h := first.Hello
	if h == nil {
		return nil, errors.New("it did not say who it is")
	}
	if !hmac.Equal([]byte(h.Proof), []byte(proof(token, "join", c.Nonce, h.Nonce))) {
		return nil, errors.New("it does not know the join token")
	}
	if g := measure.ThisGenerator(); h.Protocol != Protocol || h.Generator != g {
		return nil, fmt.Errorf("it is another version: %.40s %.40s, this is %s %s", h.Generator.Version, h.Generator.Revision, g.Version, g.Revision)
	}
	m := &Member{Machine: h.Machine, line: l, theirs: h.Nonce, ours: c.Nonce, token: token, up: make(chan Up, 64)}
	return m, m.readClock()
}

// readClock asks for the time and takes the answer that came quickest: the clock was read
// somewhere between question and answer, so it is off by at most half of that time.
func (m *Member) readClock() error {
	for i := range 8 {
		asked := time.Now()
		if err := m.line.send(Down{Clock: true}); err != nil {
			return err
		}
		var up Up
		if err := m.line.receive(&up, mostHello); err != nil {
			return err
		}
		if up.Clock == nil {
			return errors.New("it did not say what time it is")
		}
		took := time.Since(asked)
		if half := took / 2; i == 0 || half < m.Uncertain {
			m.Uncertain = half
			// Round strips the monotonic reading: these are two machines' wall clocks.
			m.Offset = up.Clock.Sub(asked.Round(0).Add(half))
		}
	}
	return nil
}

// listen passes on what the worker tells, until it is gone.
func (m *Member) listen(why func() error) {
	go func() {
		defer close(m.up)
		for {
			var up Up
			if err := m.line.receive(&up, mostMessage); err != nil {
				if !errors.Is(err, io.EOF) {
					_ = m.line.end.Close()
					m.gone(err)
				}
				m.gone(why())
				return
			}
			m.up <- up
		}
	}()
}
