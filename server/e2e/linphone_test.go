package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// linphone is one linphonec: one account, driven by its standard input. It speaks a tone
// from a file and records what it hears.
type linphone struct {
	*process
	t     testing.TB
	dir   string
	in    io.WriteCloser
	takes int // recordings
}

func startLinphone(t testing.TB, a account) *linphone {
	t.Helper()
	path := tool(t, "linphonec", "linphone-cli")
	a.complete()
	p := &linphone{t: t, dir: workdir(t, "linphone-"+a.user)}
	// Without its own directory in HOME it finds no place for its database and does not register.
	if err := os.MkdirAll(filepath.Join(p.dir, ".local/share/linphone"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`[sip]
sip_port=%d
sip_tcp_port=-2
sip_tls_port=-2
use_ipv6=0
media_encryption=none
default_proxy=0
[rtp]
audio_rtp_port=%d
[net]
firewall_policy=0
[sound]
echocancellation=0
[proxy_0]
reg_proxy=<sip:%s>
reg_route=<sip:%s;lr>
reg_identity=<sip:%s@%s>
reg_expires=300
reg_sendregister=%d
[auth_info_0]
username=%s
userid=%s
passwd=%s
realm=%s
domain=%s
`, ports(t, 4), ports(t, 4), a.server.sip, a.server.sip, a.user, a.domain, map[bool]int{true: 1}[a.auto], a.user, a.user, password, a.domain, a.domain)
	if err := os.WriteFile(filepath.Join(p.dir, "rc"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", "rc", "-d", "6", "-l", "log")
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "XDG_DATA_HOME="+filepath.Join(p.dir, ".local/share"), "XDG_CONFIG_HOME="+filepath.Join(p.dir, ".config"))
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	p.process = spawn(t, cmd, filepath.Join(p.dir, "screen"))
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("linphonec %s:\n%s", a.user, p.screen())
		}
	})
	p.shows("linphonec>")
	p.command("soundcard use files")
	p.command("play " + makeTone(t, p.dir, a.tone, 8000))
	p.record()
	if a.auto {
		p.command("autoanswer enable")
	}
	return p
}

// record begins a new recording with the next stream: the next call, or the next resume.
func (p *linphone) record() {
	p.takes++
	p.command("record " + p.recording())
}

func (p *linphone) recording() string {
	return filepath.Join(p.dir, fmt.Sprintf("heard-%d.wav", p.takes))
}

func (p *linphone) screen() string {
	content, _ := os.ReadFile(filepath.Join(p.dir, "screen"))
	return string(content)
}

func (p *linphone) command(line string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		p.t.Fatalf("linphonec %s: %v", line, err)
	}
}

// shows waits for a text on the phone's screen.
func (p *linphone) shows(text string) {
	p.t.Helper()
	eventually(p.t, "linphonec shows "+text, func() bool {
		if !p.running() {
			p.t.Fatalf("linphonec ended: %v", p.err)
		}
		return strings.Contains(p.screen(), text)
	})
}

// heard is what was recorded. linphone writes it down when a stream ends: after a pause or
// after the call.
func (p *linphone) heard() samples {
	s, err := readWav(p.recording())
	if err != nil {
		return samples{rate: 8000}
	}
	return s
}

// linphoneAgent is an agent whose phone is a linphone.
func linphoneAgent(t testing.TB, d desk, n int, a account) *linphone {
	t.Helper()
	a.server, a.user, a.auto = d.s, d.agents[n], true
	p := startLinphone(t, a)
	d.reaches(t, n, "ready", "idle")
	return p
}
