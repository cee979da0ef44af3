package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// baresip is one process of baresip: one account, driven over its control port. It speaks
// a tone from a file and writes all that it decodes to a file.
type baresip struct {
	*process
	t       testing.TB
	dir     string
	control net.Conn

	mu     sync.Mutex
	events []string // their types, e.g. CALL_ESTABLISHED
}

// account is who a phone is.
type account struct {
	server   *server
	user     string // registers when auto
	domain   string // demoDomain when empty
	auto     bool   // registers, and answers by itself
	tcp      bool
	tone     float64
	codec    string // "PCMU" when empty
	rate     int    // of the codec, 8000 when 0
	channels int    // of the codec, 1 when 0
}

func (a *account) complete() {
	if a.domain == "" {
		a.domain = demoDomain
	}
	if a.codec == "" {
		a.codec = "PCMU"
	}
	a.rate, a.channels = max(a.rate, 8000), max(a.channels, 1)
}

const baresipModules = "/usr/lib/baresip/modules"

func startBaresip(t testing.TB, a account) *baresip {
	t.Helper()
	path := tool(t, "baresip", "baresip-core")
	a.complete()
	p := &baresip{t: t, dir: workdir(t, "baresip-"+a.user)}
	at, rtp := ports(t, 4), ports(t, 8) // SIP, SIP over TLS, control
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config", fmt.Sprintf(`sip_listen 127.0.0.1:%d
net_interface 127.0.0.1
rtp_ports %d-%d
ctrl_tcp_listen 127.0.0.1:%d
audio_source aufile,%s
audio_player aubridge,nowhere
audio_alert aubridge,nowhere2
ausrc_srate %d
auplay_srate %d
ausrc_channels 1
audio_buffer 20-160
snd_path %s
module_path %s
module g711.so
module g722.so
module opus.so
module aufile.so
module aubridge.so
module sndfile.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
`, at, rtp, rtp+7, at+2, makeTone(t, p.dir, a.tone, a.rate), a.rate, a.rate, p.dir, baresipModules))
	transport, answer, interval := "udp", "manual", 0
	if a.tcp {
		transport = "tcp"
	}
	if a.auto {
		answer, interval = "auto", 300
	}
	write("accounts", fmt.Sprintf("<sip:%s@%s;transport=%s>;auth_pass=%s;outbound=\"sip:%s;transport=%s\";answermode=%s;regint=%d;audio_codecs=%s/%d/%d\n",
		a.user, a.domain, transport, password, a.server.sip, transport, answer, interval, a.codec, a.rate, a.channels))
	write("contacts", "")
	p.process = spawn(t, exec.Command(path, "-f", p.dir), p.log())
	t.Cleanup(func() {
		if p.control != nil {
			_ = p.control.Close()
		}
		p.kill()
		if t.Failed() {
			t.Logf("baresip %s: events %v\n%s", a.user, p.seen(), p.said())
		}
	})
	eventually(t, "baresip takes commands", func() bool {
		if !p.running() {
			t.Fatalf("baresip ended: %v\n%s", p.err, p.said())
		}
		var err error
		p.control, err = net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", at+2))
		return err == nil
	})
	go p.listen()
	return p
}

func (p *baresip) log() string { return filepath.Join(p.dir, "log") }

// said is the log without the line of figures that baresip writes ten times a second.
func (p *baresip) said() string {
	return regexp.MustCompile(`\s*\[\d+:\d+:\d+\] audio=\S+ \(bit/s\)`).ReplaceAllString(tail(p.log(), 30), "")
}

// listen reads netstrings of JSON.
func (p *baresip) listen() {
	in := bufio.NewReader(p.control)
	for {
		length, err := in.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
		if err != nil || n > 1<<20 {
			return
		}
		body := make([]byte, n+1) // and a comma
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		var said struct{ Type string }
		if json.Unmarshal(body[:n], &said) == nil && said.Type != "" {
			p.mu.Lock()
			p.events = append(p.events, said.Type)
			p.mu.Unlock()
		}
	}
}

func (p *baresip) command(name, argument string) {
	p.t.Helper()
	text, err := json.Marshal(map[string]string{"command": name, "params": argument, "token": "e2e"})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(p.control, "%d:%s,", len(text), text); err != nil {
		p.t.Fatalf("baresip %s: %v", name, err)
	}
}

func (p *baresip) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.events...)
}

// told waits for an event.
func (p *baresip) told(what string) {
	p.t.Helper()
	eventually(p.t, "baresip tells "+what, func() bool {
		for _, e := range p.seen() {
			if e == what {
				return true
			}
		}
		return false
	})
}

func (p *baresip) dial(uri string) { p.t.Helper(); p.command("dial", uri) }
func (p *baresip) hangUp()         { p.t.Helper(); p.command("hangup", "") }

// heard is all that was decoded in its call. It ends when baresip itself holds the call:
// then version 1.0.0 takes its filters down and does not set those for what it hears up
// again (the audio goes on).
func (p *baresip) heard() samples {
	found, _ := filepath.Glob(filepath.Join(p.dir, "dump-*-dec.wav"))
	if len(found) == 0 {
		return samples{rate: 8000}
	}
	s, err := readWav(found[0])
	if err != nil {
		return samples{rate: 8000}
	}
	return s
}

// since returns what is heard from now on.
func since(heard func() samples) func() samples {
	before := heard().seconds()
	return func() samples { return heard().from(before) }
}

// baresipAgent is an agent whose phone is a baresip.
func baresipAgent(t testing.TB, d desk, n int, a account) *baresip {
	t.Helper()
	a.server, a.user, a.auto = d.s, d.agents[n], true
	p := startBaresip(t, a)
	d.reaches(t, n, "ready", "idle")
	return p
}

// soon waits until a sound has what is asked of it, and judges it.
func soon(t testing.TB, who string, heard func() samples, hz, seconds float64) {
	t.Helper()
	hearsTone(t, who, listenFor(heard, enoughTone(hz, seconds)), hz, seconds)
	if t.Failed() {
		t.FailNow() // whoever is not heard by now makes the rest wait in vain
	}
}

// musicComes waits until a party hears the hold music, for three seconds of it.
func musicComes(t testing.TB, who string, heard func() samples) {
	t.Helper()
	hearsMusic(t, who, listenFor(heard, func(s samples) bool { return s.seconds() > 3 }))
}
