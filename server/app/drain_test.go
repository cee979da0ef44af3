package app

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen"
	"github.com/dialtone-cc/dialtone/server/core"
)

// A drain refuses what is new at once, and lets what lives finish (jambonz/jambonz-feature-server#401:
// a drain that never ends; thevoiceguy/siphon-ai#343: a drain that orphans calls).
func TestDrainLetsLiveCallsFinish(t *testing.T) {
	m, stop := startNode(t, devConfig(t, t.TempDir(), "--agent-password", "pw", "--drain-timeout", "30s"))
	var report, complaints bytes.Buffer
	call := make(chan int, 1)
	go func() {
		call <- loadgen.Call(t.Context(), []string{"--server", m.SIP(core.UDP).String(), "--agent-password", "pw", "--talk", "2s", "--json"}, &report, &complaints)
	}()
	until(t, func() bool { g, _ := m.gauges(); return g.Calls["bridged"] == 1 })
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	until(t, func() bool { return m.Ready() != nil })
	if status, body := ask(t, m, "GET", "/readyz", ""); status != 503 {
		t.Errorf("readyz during the drain: %d %s", status, body)
	}
	until(t, func() bool { g, ok := m.gauges(); return ok && g.Life == "draining" })
	if answer := invite(t, m); !strings.Contains(answer, " 503 ") || !strings.Contains(strings.ToLower(answer), "retry-after:") {
		t.Errorf("INVITE during the drain was answered\n%s", answer)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if code := <-call; code != 0 {
		t.Errorf("the call that was up ended with exit code %d: %s %s", code, report.String(), complaints.String())
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the drain took %s, after its last call had ended", took)
	}
}

// invite sends an INVITE and returns the first answer that is not provisional.
func invite(t *testing.T, m *Main) string {
	t.Helper()
	conn, err := net.Dial("udp", m.SIP(core.UDP).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	local := conn.LocalAddr().String()
	body := "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 43000 RTP/AVP 0\r\n"
	_, err = fmt.Fprintf(conn, "INVITE sip:5000@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKdrain;rport\r\nMax-Forwards: 70\r\nFrom: <sip:x@127.0.0.1>;tag=9\r\n"+
		"To: <sip:5000@127.0.0.1>\r\nCall-ID: drain@test\r\nCSeq: 1 INVITE\r\nContact: <sip:x@%s>\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s",
		m.SIP(core.UDP), local, local, len(body), body)
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if answer := string(buffer[:n]); !strings.HasPrefix(answer, "SIP/2.0 1") {
			return answer
		}
	}
}
