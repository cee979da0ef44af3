package responder

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Things are done in the order of their times, those of one time in the order in which
// they were put down, none before its time.
func TestAgendaOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, done := newAgenda(), make(chan struct{})
		var running sync.WaitGroup
		now := time.Now()
		type entry struct{ at, n int }
		var want, got []entry
		late := make(chan entry, 1000)
		n := rapid.IntRange(1, 50).Draw(t, "n")
		for i := range n {
			e := entry{rapid.IntRange(-3, 3).Draw(t, "ms"), i}
			want = append(want, e)
			due := now.Add(time.Duration(e.at) * msec)
			a.at(due, func() {
				if time.Now().Before(due) {
					e.n = -1
				}
				late <- e
			})
		}
		running.Go(func() { a.run(done) })
		for range n {
			got = append(got, <-late)
		}
		close(done)
		running.Wait()
		slices.SortStableFunc(want, func(a, b entry) int { return a.at - b.at })
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

func TestAgendaIsBounded(t *testing.T) {
	a := newAgenda()
	for i := range mostHeld {
		if !a.at(time.Now(), func() {}) {
			t.Fatalf("full at %d", i)
		}
	}
	if a.at(time.Now(), func() {}) || a.length() != mostHeld {
		t.Fatalf("holds %d", a.length())
	}
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]Config{
		"address is missing": {Listen: netip.AddrPort{}},
		"must be 0 to 10s":   {Listen: loopback, Delay: 11 * time.Second},
		"ring-delay -1ns":    {Listen: loopback, RingDelay: -1},
		"exceed the delay":   {Listen: loopback, Delay: 5 * msec, Jitter: 6 * msec},
		"share of 0 to 1":    {Listen: loopback, Loss: 1.1},
		"300 to 699":         {Listen: loopback, Refuse: []Refusal{{200, 0.1}}},
		"more than all":      {Listen: loopback, Refuse: []Refusal{{503, 0.6}, {486, 0.6}}},
	} {
		if r, err := Start(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %q", cfg, r, err, want)
		}
	}
}

func TestCommandRefusesBadUsage(t *testing.T) {
	for want, args := range map[string]string{
		"udp:ADDRESS:PORT": "--listen 127.0.0.1:5070",
		"0% to 100%":       "--loss 101%",
		"STATUS:SHARE":     "--refuse 503",
		"exceed the delay": "--jitter 5ms",
		"no arguments":     "now",
		"not defined":      "--los 1%",
	} {
		var out bytes.Buffer
		if code := Command(t.Context(), strings.Fields(args), io.Discard, &out); code != exitUsage || !strings.Contains(out.String(), want) {
			t.Errorf("%s: exit code %d, %q", args, code, out.String())
		}
	}
	var out bytes.Buffer
	if code := Command(t.Context(), []string{"--help"}, io.Discard, &out); code != exitPassed || !strings.Contains(out.String(), "--refuse 503:10%") {
		t.Errorf("--help: exit code %d, %q", code, out.String())
	}
}

func TestCommandSaysWhatItDid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "truth.json")
	ctx, stop := context.WithCancel(t.Context())
	read, write := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Command(ctx, strings.Fields("--listen udp:127.0.0.1:0 --refuse 503:100% --json "+file), write, io.Discard)
		_ = write.Close()
	}()
	line := make([]byte, 200)
	n, _ := read.Read(line)
	addr, err := netip.ParseAddrPort(strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "listening on udp:")))
	if err != nil {
		t.Fatalf("%q: %v", line[:n], err)
	}
	caller := newTelephone(t, &Responder{&exchange{sip: &socket{addr: addr}}}, "caller")
	caller.dial("c")
	caller.expect("SIP/2.0 503")
	stop()
	rest, _ := io.ReadAll(read)
	if got := <-code; got != exitPassed || !strings.Contains(string(rest), "1 calls: 0 answered, 1 refused") {
		t.Errorf("exit code %d, %q", got, rest)
	}
	text, err := os.ReadFile(file)
	var truth Truth
	if err == nil {
		err = json.Unmarshal(text, &truth)
	}
	if err != nil || len(truth.Calls) != 1 || truth.Calls[0].Status != 503 {
		t.Errorf("%v: %s", err, text)
	}
}

func TestDescriptions(t *testing.T) {
	for name, c := range map[string]struct {
		sdp  string
		want description
		bad  bool
	}{
		"of the stream": {"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/AVP 8 0 101\r\nc=IN IP4 10.0.0.2\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n",
			description{netip.MustParseAddrPort("10.0.0.2:4000"), []int{8, 0}, 101, "sendonly"}, false},
		"of the session":   {"v=0\nc=IN IP6 ::1\na=inactive\nm=audio 4000 RTP/AVP 0\n", description{netip.MustParseAddrPort("[::1]:4000"), []int{0}, 0, "inactive"}, false},
		"the second audio": {"c=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/AVP 0\r\nm=audio 5000 RTP/AVP 8\r\nc=IN IP4 10.0.0.9\r\na=sendonly\r\n", description{netip.MustParseAddrPort("10.0.0.1:4000"), []int{0}, 0, "sendrecv"}, false},
		"no port":          {"c=IN IP4 10.0.0.1\r\nm=audio 0 RTP/AVP 0\r\n", description{}, true},
		"no address":       {"m=audio 4000 RTP/AVP 0\r\n", description{}, true},
		"a name":           {"c=IN IP4 host.example\r\nm=audio 4000 RTP/AVP 0\r\n", description{}, true},
		"another codec":    {"c=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/AVP 9\r\n", description{}, true},
		"SRTP":             {"c=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/SAVP 0\r\n", description{}, true},
	} {
		got, err := describe([]byte(c.sdp))
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
		if !c.bad && (got.addr != c.want.addr || !slices.Equal(got.laws, c.want.laws) || got.events != c.want.events || got.direction != c.want.direction) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What is written can be read.
func FuzzDescribe(f *testing.F) {
	f.Add([]byte("v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n"))
	f.Add([]byte("m=audio 70000 RTP/AVP 0\nc=IN IP6 fe80::1%eth0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := describe(b)
		if err != nil {
			return
		}
		again, err := describe(d.write(d.addr, 1))
		if err != nil || again.addr != d.addr || !slices.Equal(again.laws, d.laws) || again.direction != d.direction || again.events != d.events {
			t.Fatalf("%+v, written and read %+v, %v", d, again, err)
		}
	})
}

// Whatever comes to the SIP port and whatever the audio is, a call that is up stays up and
// nothing panics.
func FuzzWhatPhonesSend(f *testing.F) {
	seeds := []string{
		"INVITE sip:5000@test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@test>;tag=1\r\nTo: <sip:5000@test>\r\nCall-ID: new\r\nCSeq: 1 INVITE\r\nContact: <sip:a@127.0.0.1:9>\r\nContent-Length: 60\r\n\r\nc=IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 0\r\n",
		"INVITE sip:5000@test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK2\r\nFrom: <sip:a@test>;tag=1\r\nTo: <sip:5000@test>;tag=2\r\nCall-ID: up\r\nCSeq: 2 INVITE\r\nContact: *\r\n\r\n",
		"BYE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK3\r\nFrom: <sip:a@test>;tag=1\r\nTo: <sip:5000@test>;tag=2\r\nCall-ID: elsewhere\r\nCSeq: 2 BYE\r\n\r\n",
		"CANCEL sip:x SIP/2.0\r\nv: SIP/2.0/UDP h\r\nf: <sip:a@test>\r\nt: <sip:5000@test>\r\ni: new\r\nCSeq: 1 CANCEL\r\n\r\n",
		"REGISTER sip:test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK4\r\nFrom: <sip:b@test>;tag=1\r\nTo: <sip:b@test>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\nContact: <sip:b@127.0.0.1:9>;expires=60\r\nAuthorization: Digest username=\"b\",nonce=,response=\"\r\n\r\n",
		"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=BRANCH\r\nFrom: <sip:a@test>;tag=1\r\nTo: <sip:5000@test>;tag=2\r\nCall-ID: up\r\nCSeq: 1 INVITE\r\n\r\n",
		"\x80\x08\x00\x01aaaabbbbcccc", "\x9f\x80\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", "\r\n\r\n\r\n",
	}
	for i, s := range seeds {
		f.Add([]byte(s), uint8(i))
	}
	f.Fuzz(func(t *testing.T, b []byte, password uint8) {
		cfg := Config{Transcode: true, Loss: 0.1, Duplicate: 0.1, Delay: 1, Jitter: 1, Seed: uint64(password)}
		r := start(t, cfg)
		p := connect(t, r, "up", "8")
		branch := p.invite.field("Via")
		_, branch, _ = strings.Cut(branch, "branch=")
		sink, err := listen(loopback)
		if err != nil {
			t.Fatal(err)
		}
		defer sink.close()
		if !bytes.Contains(b, []byte("up")) { // nobody else ends this call
			r.x.take(bytes.ReplaceAll(b, []byte("BRANCH"), []byte(branch)), sink.addr, time.Now())
		}
		f := func() *flow { r.x.mu.Lock(); defer r.x.mu.Unlock(); return p.call(r).audio.toAgent }()
		f.take(bytes.Clone(b), sink.addr, time.Now())
		p.hangUp()
		r.Close()
		r.x.mu.Lock()
		defer r.x.mu.Unlock()
		if n := len(r.x.alive()); n != 0 {
			t.Fatalf("%d calls after Close", n)
		}
	})
}

// call is the pair's call in the responder, whose lock is held.
func (p pair) call(r *Responder) *call { return r.x.legs[p.ok.field("Call-ID")].call }

// Any bytes in a relay: what leaves is as long as what came, and nothing but audio of the
// law in question is changed.
func TestConvertTouchesAudioOnly(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	f := &flow{recode: &recode{pcmu, pcma, 0}}
	for range 100_000 {
		b := make([]byte, rtpHeader+r.IntN(60))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		b[0] = b[0]&0x3f | 0x80
		if r.IntN(2) == 0 {
			b[1] &= 0x80
		}
		before := bytes.Clone(b)
		f.convert(b)
		head := rtpHeader + 4*int(b[0]&15)
		switch {
		case before[1]&0x7f != pcmu:
			if !bytes.Equal(b, before) {
				t.Fatalf("% x became % x", before, b)
			}
		case b[1] != before[1] && (b[1]&0x7f != pcma || b[1]&0x80 != before[1]&0x80), !bytes.Equal(b[2:min(head, len(b))], before[2:min(head, len(b))]):
			t.Fatalf("% x became % x", before, b)
		}
	}
}
