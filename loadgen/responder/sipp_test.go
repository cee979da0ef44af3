package responder_test

import (
	"context"
	"encoding/csv"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/responder"
)

// sipp reads its clock once per round of its loop, which adds 2 to 3 ms here on a calm
// machine, and gives whole milliseconds.
const sippClock = 15 * time.Millisecond

// Two generators that share nothing, against the same responder: both report of it what it
// says of itself, so they agree with each other.
func TestSippAndTheGeneratorAgree(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("sipp")
	if err != nil {
		t.Skip("sipp is not installed")
	}
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	const ms = time.Millisecond
	cfg := responder.Config{Seed: 3, InviteDelay: 120 * ms, RingDelay: 80 * ms, AnswerDelay: 160 * ms, Refuse: []responder.Refusal{{Status: 503, Share: 0.3}}}
	r := respond(t, cfg)
	p := generate(t, r)
	signalling(t, p, r.Truth())

	r = respond(t, cfg) // the same seed: the same calls are refused
	answerAll(t, r, 20)
	const calls = 16
	stalled := stalls(t)
	reported := sipp(t, path, r, calls)
	most := sippClock + stalled()
	truth := r.Truth()
	was := map[string][]time.Duration{}
	refused := 0
	for _, c := range truth.Calls {
		was["trying"] = append(was["trying"], span(c.Invited, c.Trying))
		if c.Status != 200 {
			refused++
			continue
		}
		was["ringing"] = append(was["ringing"], span(c.Invited, c.Ringing))
		was["answer"] = append(was["answer"], span(c.Invited, c.Answered))
	}
	if refused == 0 || int64(refused) != p.Counts.Refused || len(truth.Calls) != calls || len(reported["answer"]) != calls-refused {
		t.Errorf("%d calls of sipp, %d answered by its count; the responder refused %d of them and the generator reported %d", len(truth.Calls), len(reported["answer"]), refused, p.Counts.Refused)
	}
	for what, times := range was {
		if len(reported[what]) != len(times) {
			t.Errorf("%s: sipp saw %d, there were %d", what, len(reported[what]), len(times))
			continue
		}
		if off := median(reported[what]) - median(times); off > most || off < -most {
			t.Errorf("INVITE to %s: sipp's median is %v, the responder's %v, tolerance %v", what, median(reported[what]), median(times), most)
		} else {
			t.Logf("INVITE to %s: sipp's median is off by %v", what, off)
		}
	}
}

// stalls measures by how much the machine holds up a process that waits, until it is asked: the
// worst of it.
func stalls(t *testing.T) (worst func() time.Duration) {
	t.Helper()
	var most time.Duration
	var watching sync.WaitGroup
	done := make(chan struct{})
	stop := sync.OnceFunc(func() { close(done); watching.Wait() })
	t.Cleanup(stop)
	watching.Go(func() {
		const every = 5 * time.Millisecond
		tick := time.NewTimer(every)
		for {
			due := time.Now().Add(every)
			tick.Reset(every)
			select {
			case <-tick.C:
				most = max(most, time.Since(due))
			case <-done:
				return
			}
		}
	})
	return func() time.Duration { stop(); return most }
}

// answerAll registers agents who pick up as soon as it rings.
func answerAll(t *testing.T, r *responder.Responder, agents int) {
	t.Helper()
	e, err := phone.Listen(phone.EndpointConfig{Target: phone.Target{Addr: r.Addr()}, Addr: generatorHost})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		e.Close()
		running.Wait()
	})
	for i := range agents {
		a, err := e.Phone(phone.Config{User: "agent" + strconv.Itoa(i), Password: secret})
		if err == nil {
			err = a.Register(ctx, time.Minute)
		}
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			for {
				select {
				case c := <-a.Incoming():
					if err := c.Answer(ctx); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

// freePort is a port for sipp, below those that the kernel gives to whoever asks for any: nobody
// gets it before sipp has it.
func freePort(t *testing.T) int {
	t.Helper()
	for range 50 {
		port := 10_000 + rand.IntN(1_000)
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(generatorHost, uint16(port))))
		if err == nil {
			_ = c.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// sipp calls the responder and returns the response times that it has measured, by name.
func sipp(t *testing.T, path string, r *responder.Responder, calls int) map[string][]time.Duration {
	t.Helper()
	scenario, err := filepath.Abs("testdata/caller.xml")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	cmd := exec.CommandContext(t.Context(), path, "-sf", scenario, "-i", generatorHost.String(), "-mi", generatorHost.String(), "-p", strconv.Itoa(port), "-m", strconv.Itoa(calls), "-r", "8",
		"-trace_rtt", "-rtt_freq", "1", "-nostdin", "-timeout", "40s", r.Addr().String())
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	// 1: at least one call failed. A refused one goes by the scenario and did not.
	if err != nil {
		t.Fatalf("sipp: %v\n%s", err, out[max(0, len(out)-3000):])
	}
	files, err := filepath.Glob(filepath.Join(cmd.Dir, "*_rtt.csv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	times := map[string][]time.Duration{}
	rows := csv.NewReader(f)
	rows.Comma, rows.FieldsPerRecord = ';', -1
	for {
		row, err := rows.Read()
		switch {
		case errors.Is(err, io.EOF):
			return times
		case err != nil:
			t.Fatal(err)
		case len(row) < 3 || strings.HasPrefix(row[0], "Date"):
			continue
		}
		value, err := strconv.ParseFloat(row[1], 64)
		if err != nil {
			t.Fatalf("%q: %v", row, err)
		}
		name := strings.TrimSpace(row[2])
		times[name] = append(times[name], time.Duration(value*float64(time.Millisecond)))
		slices.Sort(times[name])
	}
}
