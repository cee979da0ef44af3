package phone

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// sipp runs the independent generator; it ends with status 0 when every call went as its
// scenario says.
func sipp(t *testing.T, local uint16, args ...string) (wait func()) {
	t.Helper()
	path, err := exec.LookPath("sipp")
	if err != nil {
		t.Skip("sipp is not installed")
	}
	cmd := exec.Command(path, append([]string{"-i", "127.0.0.1", "-p", strconv.Itoa(int(local)), "-timeout", "30s", "-timeout_error", "-buff_size", "1000000", "-nr", "-nostdin", "-trace_err"}, args...)...)
	cmd.Dir = t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var once sync.Once
	t.Cleanup(func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
	})
	return func() {
		t.Helper()
		once.Do(func() {
			if err := <-ended; err != nil {
				t.Errorf("sipp: %v\n%s", err, out.String())
			}
		})
	}
}

// freePort is a port for sipp, below those that the kernel gives to whoever asks for any: nobody
// gets it before sipp has it.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 50 {
		at := netip.AddrPortFrom(loopback, uint16(11_000+rand.IntN(1_000)))
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			continue
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		_ = u.Close()
		if err == nil {
			_ = l.Close()
			return at
		}
	}
	t.Fatal("no port is free")
	return netip.AddrPort{}
}

// calm repeats nothing for a while, as sipp here (-nr): a machine that is held up makes both
// repeat themselves, and sipp takes some repetitions for errors. Loss has its own tests.
func calm(c *EndpointConfig) { c.T1 = 5 * time.Second }

const sippCalls = 40

// sipp's caller, scenario uac: INVITE, 200, ACK, BYE, 200.
func TestSippCalls(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"u1", "t1"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			e := listen(t, udpHole(t), calm, func(c *EndpointConfig) {
				if transport == "t1" {
					overTCP(c)
				}
			})
			bob := add(t, e, Config{User: "bob"})
			wait := sipp(t, freePort(t).Port(), "-sn", "uac", "-t", transport, "-s", "bob", "-m", strconv.Itoa(sippCalls), "-r", "50", "-d", "20", e.Addr().String())
			var all sync.WaitGroup
			for range sippCalls {
				in := incoming(t, bob)
				all.Go(func() {
					if err := in.Answer(within(t)); err != nil {
						t.Error(err)
					}
					ends(t, in, ByRemote)
				})
			}
			all.Wait()
			wait()
			if s := e.Stats(); s.Calls != 0 || s.Garbage != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// sipp's callee, scenario uas, and one that challenges the INVITE and verifies the answer.
func TestCallsSipp(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"uas": {"-sn", "uas"}, "challenge": {"-sf", "challenge.xml"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := freePort(t)
			if args[0] == "-sf" {
				args[1] = testdata(t, args[1])
			}
			wait := sipp(t, at.Port(), append(args, "-m", strconv.Itoa(sippCalls))...)
			e := listen(t, at, calm)
			trunk := add(t, e, Config{User: "trunk", Password: "secret"})
			var all sync.WaitGroup
			some := make(chan struct{}, 4) // at a time: sipp takes the loss of one ACK for the end of its call
			for range sippCalls {
				some <- struct{}{}
				all.Go(func() {
					defer func() { <-some }()
					c, err := trunk.Call(within(t), "sip:5000@"+at.String())
					if err != nil {
						t.Error(err)
						return
					}
					if err := c.HangUp(within(t)); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			wait()
		})
	}
}

func testdata(t *testing.T, name string) string {
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
