package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "a token of more than sixteen"

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// joined is one worker over TCP, both ends of it.
func joined(t *testing.T) (*Member, *Seat) {
	t.Helper()
	l := listen(t)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	var seat *Seat
	var err error
	var joining sync.WaitGroup
	joining.Go(func() { seat, err = Join(ctx, l.Addr().String(), token) })
	members, gathered := Gather(ctx, l, 1, token, func(string) {})
	if gathered != nil {
		t.Fatal(gathered)
	}
	p := profile.Default()
	p.Seed, p.Agents.Password = 9, "geheim"
	if sent := members[0].Send(Down{Job: &Job{Profile: p, Worker: 0, Of: 1, Origin: time.Now()}}); sent != nil {
		t.Fatal(sent)
	}
	if joining.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { seat.Close(); members[0].Close(); drain(members[0].Up()) })
	return members[0], seat
}

func drain(up <-chan Up) {
	for range up {
	}
}

func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			t.Fatal("the connection ended")
		}
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came in 20 s")
	}
	panic("unreachable")
}

func TestMessagesGoBothWays(t *testing.T) {
	m, seat := joined(t)
	if seat.Job.Profile.Seed != 9 || seat.Job.Of != 1 {
		t.Errorf("the job came as %+v", seat.Job)
	}
	up := Up{Moves: []Move{{At: 5, What: Dialled, Index: 3}}, Halves: []measure.Call{{Index: 3, Caller: "93", Due: 1, Offered: measure.Never}}, Answered: []int64{7}}
	if err := seat.Send(up); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(up, next(t, m.Up())); diff != "" {
		t.Error(diff)
	}
	if err := m.Send(Down{Answered: []int64{1, 2}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Down{Answered: []int64{1, 2}}, next(t, seat.Down())); diff != "" {
		t.Error(diff)
	}
}

// Both clocks are one here, so what is measured as their difference is no more than what is
// admitted as uncertain.
func TestTheOtherClockIsReadWithinItsUncertainty(t *testing.T) {
	m, _ := joined(t)
	// Wall clocks are read in whole nanoseconds; a step of the machine's clock may come between.
	if m.Offset.Abs() > m.Uncertain+time.Millisecond {
		t.Errorf("offset %v, uncertain by %v", m.Offset, m.Uncertain)
	}
}

func TestNoSecretIsSent(t *testing.T) {
	var sent bytes.Buffer
	p := profile.Default()
	p.Agents.Password, p.API.Key = "geheim", "dt_geheim"
	l := newLine(strings.NewReader(""), &sent, io.NopCloser(nil))
	m := &Member{line: l, token: token, theirs: "a", ours: "b"}
	if err := m.Send(Down{Job: &Job{Profile: p}}); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"geheim", token} {
		if strings.Contains(sent.String(), secret) {
			t.Errorf("%q is in the job: %s", secret, sent.String())
		}
	}
}

// A stranger is refused, and does not take the place of one who belongs here.
func TestStrangersAreRefused(t *testing.T) {
	l := listen(t)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var refusals []string
	var members []*Member
	var gathering sync.WaitGroup
	gathering.Go(func() {
		members, _ = Gather(ctx, l, 1, token, func(text string) { refusals = append(refusals, text) })
	})
	if _, err := Join(ctx, l.Addr().String(), "another token, long enough"); err == nil {
		t.Error("joined with a wrong token")
	}
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "{}\n", `{"hello":{"proof":""}}` + "\n", strings.Repeat("x", 2*mostHello)} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, net.ErrClosed) && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%.20q: the connection stays open", text)
		}
		_ = conn.Close()
	}
	var joining sync.WaitGroup
	var seat *Seat
	joining.Go(func() { seat, _ = Join(ctx, l.Addr().String(), token) })
	gathering.Wait()
	if len(members) != 1 {
		t.Fatalf("%d members", len(members))
	}
	if len(refusals) < 5 {
		t.Errorf("refused: %q", refusals)
	}
	if err := members[0].Send(Down{Job: &Job{Of: 1}}); err != nil {
		t.Fatal(err)
	}
	joining.Wait()
	members[0].Close()
	if seat == nil {
		t.Fatal("not joined")
	}
	for range seat.Down() {
	}
	seat.Close()
	drain(members[0].Up())
}

// A worker gives its job only to a coordinator that knows the token: else a stranger at that
// address could make it call anybody.
func TestAStrangeCoordinatorIsRefused(t *testing.T) {
	l := listen(t)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		line := newLine(conn, conn, conn)
		_ = line.send(Down{Challenge: &Challenge{Protocol: Protocol, Nonce: "n"}})
		var hello Up
		_ = line.receive(&hello, mostHello)
		_ = line.send(Down{Job: &Job{Proof: hello.Hello.Proof}}) // its own proof, sent back
		_ = line.receive(&hello, mostHello)
	}()
	if _, err := Join(t.Context(), l.Addr().String(), token); err == nil || !strings.Contains(err.Error(), "does not know the join token") {
		t.Errorf("%v", err)
	}
}

func TestAnotherVersionIsRefused(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		line := newLine(b, b, b)
		var challenge Down
		_ = line.receive(&challenge, mostHello)
		hello := Hello{Protocol: Protocol, Nonce: "n", Proof: proof(token, "join", challenge.Challenge.Nonce, "n"), Generator: measure.Generator{Version: "v0.0.1"}}
		_ = line.send(Up{Hello: &hello})
	}()
	if _, err := admit(newLine(a, a, a), token); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
	_ = a.Close()
	_ = b.Close()
}

func TestWhoIsGoneIsNoticed(t *testing.T) {
	m, seat := joined(t)
	seat.Close()
	drain(m.Up())
	if m.Cause() == nil {
		t.Error("no cause")
	}
	m, seat = joined(t)
	m.Close()
	for range seat.Down() {
	}
}

// A load in one process goes the same way; whoever has left is not waited for.
func TestHere(t *testing.T) {
	m, seat := Here(Job{Worker: 0, Of: 1})
	if err := m.Send(Down{Stop: true}); err != nil || !next(t, seat.Down()).Stop {
		t.Errorf("%v", err)
	}
	go func() { _ = seat.Send(Up{Called: true}) }()
	if !next(t, m.Up()).Called {
		t.Error("not called")
	}
	seat.Close()
	seat.Close()
	drain(m.Up())
	if m.Send(Down{Stop: true}) == nil {
		t.Error("sent to nobody")
	}
}

func FuzzReceive(f *testing.F) {
	good, _ := json.Marshal(Up{Halves: []measure.Call{{Index: 1}}, Second: &Second{At: 1}})
	f.Add(append(good, '\n'))
	f.Add([]byte("{\"moves\":[{}]}\n{"))
	f.Add(bytes.Repeat([]byte("["), 100_000))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := newLine(bytes.NewReader(text), io.Discard, io.NopCloser(nil))
		for range 10 {
			var up Up
			if err := l.receive(&up, 1<<16); err != nil {
				return
			}
		}
	})
}
