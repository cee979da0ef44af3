package cluster

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// handshake bounds the time in which a peer must show who it is.
const handshake = 10 * time.Second

// Seat is a worker's place in the load.
type Seat struct {
	Job  Job
	down chan Down
	send func(Up) error
	end  func()
}

// Down gives what the coordinator tells; it is closed when the coordinator is gone.
func (s *Seat) Down() <-chan Down { return s.down }

// Send tells the coordinator.
func (s *Seat) Send(up Up) error { return s.send(up) }

// Close leaves.
func (s *Seat) Close() { s.end() }

// Join connects to a coordinator on another machine and waits for its job.
func Join(ctx context.Context, addr, token string) (*Seat, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", addr, err)
	}
	// Jobs are given out when all have come, which may take long; but who interrupts does not wait.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	seat, err := sit(newLine(conn, conn, conn), token)
	stop()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("join %s: %w", addr, err)
	}
	return seat, nil
}

// Attach is Join for a worker that the coordinator has started itself.
func Attach(in io.ReadCloser, out io.Writer, token string) (*Seat, error) {
	return sit(newLine(in, out, in), token)
}

func sit(l *line, token string) (*Seat, error) {
	var first Down
	if err := l.receive(&first, mostHello); err != nil || first.Challenge == nil {
		return nil, errors.Join(errors.New("no coordinator there"), err)
	}
	if p := first.Challenge.Protocol; p != Protocol {
		return nil, fmt.Errorf("the coordinator speaks %.40q, this version %q: use the same version", p, Protocol)
	}
	hello := Hello{Protocol: Protocol, Nonce: nonce(), Generator: measure.ThisGenerator(), Machine: measure.ThisMachine()}
	hello.Proof = proof(token, "join", first.Challenge.Nonce, hello.Nonce)
	if err := l.send(Up{Hello: &hello}); err != nil {
		return nil, err
	}
	var job *Job
	for job == nil {
		var down Down
		switch err := l.receive(&down, mostMessage); {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return nil, errors.New("the coordinator hung up: is the join token the same, and the version? It says why itself")
		case err != nil:
			return nil, err
		}
		if down.Clock {
			now := time.Now()
			if err := l.send(Up{Clock: &now}); err != nil {
				return nil, err
			}
		}
		job = down.Job
	}
	if !hmac.Equal([]byte(job.Proof), []byte(proof(token, "coordinate", first.Challenge.Nonce, hello.Nonce))) {
		return nil, errors.New("the coordinator does not know the join token")
	}
	s := &Seat{Job: *job, down: make(chan Down, 64), send: func(up Up) error { return l.send(up) }}
	done := make(chan struct{})
	var once sync.Once
	s.end = func() { once.Do(func() { close(done); _ = l.end.Close() }) }
	go func() {
		defer close(s.down)
		for {
			var down Down
			if l.receive(&down, mostMessage) != nil {
				return
			}
			select {
			case s.down <- down:
			case <-done:
				return
			}
		}
	}()
	return s, nil
}

func nonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// proof shows that one knows the token, in this role and for this connection alone.
func proof(token, role, theirs, ours string) string {
	mac := hmac.New(sha256.New, []byte(token))
	fmt.Fprintf(mac, "%s|%s|%d:%s|%s", Protocol, role, len(theirs), theirs, ours)
	return hex.EncodeToString(mac.Sum(nil))
}
