package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

func devConfig(t *testing.T, dir string, args ...string) *config.Config {
	t.Helper()
	args = append([]string{"--data", dir, "--sip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--rtp", "4000-4199", "--drain-timeout", "2s"}, args...)
	cfg, err := config.Parse(config.Dev, args, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// startNode returns a node that runs, and how to drain and close it.
func startNode(t *testing.T, cfg *config.Config) (m *Main, stop func() error) {
	t.Helper()
	m = New(cfg, telemetry.Build{Version: "test"}, testLog{t})
	if err := m.Start(t.Context()); err != nil {
		m.Close()
		t.Fatal(err)
	}
	soft, drain := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(soft, context.Background()) }()
	stopped := false
	stop = func() error {
		stopped = true
		drain()
		err := <-done
		m.Close()
		return err
	}
	t.Cleanup(func() {
		if !stopped {
			_ = stop()
		}
	})
	return m, stop
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// ask calls the API with the operator's key and returns the status and the body.
func ask(t *testing.T, m *Main, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.HTTP().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+m.OperatorKey().Reveal())
	r.Header.Set("Dialtone-Tenant", "demo")
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(content)
}

func TestRestartKeepsWhatWasConfigured(t *testing.T) {
	dir := t.TempDir()
	m, stop := startNode(t, devConfig(t, dir))
	if status, body := ask(t, m, "GET", "/readyz", ""); status != 200 {
		t.Fatalf("readyz: %d %s", status, body)
	}
	if status, body := ask(t, m, "POST", "/v1/tenants", `{"id":"acme","domain":"acme.example","name":"Acme"}`); status != 201 || !strings.Contains(body, "api_key") {
		t.Fatalf("POST tenant: %d %s", status, body)
	}
	// What a user changed of the demo tenant is not changed back.
	if status, body := ask(t, m, "PUT", "/v1/queues/support", `{"ring_timeout_s":7}`); status != 200 {
		t.Fatalf("PUT queue: %d %s", status, body)
	}
	node, key, password := m.identity.Node, m.OperatorKey(), m.AgentPassword()
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	m, _ = startNode(t, devConfig(t, dir))
	if m.identity.Node != node || m.OperatorKey() != key || m.AgentPassword() != password || password == "" {
		t.Error("node id, operator key and agent password must outlive a restart")
	}
	if status, body := ask(t, m, "GET", "/v1/tenants/acme", ""); status != 200 || !strings.Contains(body, "acme.example") {
		t.Errorf("GET tenant after the restart: %d %s", status, body)
	}
	if status, body := ask(t, m, "GET", "/v1/queues/support", ""); status != 200 || !strings.Contains(body, `"ring_timeout_s":7`) {
		t.Errorf("GET queue after the restart: %d %s", status, body)
	}
}

func TestDemoTenantIsFurnished(t *testing.T) {
	m, _ := startNode(t, devConfig(t, t.TempDir(), "--operator-key", "opkey", "--agent-password", "first"))
	if m.OperatorKey().Reveal() != "opkey" || m.AgentPassword().Reveal() != "first" {
		t.Error("the given keys are not used")
	}
	if status, body := ask(t, m, "GET", "/v1/numbers/5000", ""); status != 200 || !strings.Contains(body, `"support"`) {
		t.Errorf("number: %d %s", status, body)
	}
	_, body := ask(t, m, "GET", "/v1/agents?limit=100", "")
	var page struct {
		Data []struct {
			ID              string   `json:"id"`
			Queues          []string `json:"queues"`
			ReadyOnRegister bool     `json:"ready_on_register"`
			Status          string   `json:"status"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Data) != 20 || page.Data[0].ID != "1001" || page.Data[19].ID != "1020" {
		t.Fatalf("agents: %s", body)
	}
	for _, a := range page.Data {
		if !a.ReadyOnRegister || len(a.Queues) != 1 || a.Queues[0] != "support" || a.Status != "logged_out" {
			t.Errorf("%+v", a)
		}
	}
}

func TestAChangedPasswordReachesTheAgents(t *testing.T) {
	dir := t.TempDir()
	for i, password := range []string{"first", "second", ""} { // not given: the last one holds
		var args []string
		if password != "" {
			args = []string{"--agent-password", password}
		}
		m, stop := startNode(t, devConfig(t, dir, args...))
		want := []string{"first", "second", "second"}[i]
		if status := register(t, m.SIP(core.UDP), "1001", want); status != 200 {
			t.Errorf("start %d: REGISTER with the password answered %d", i, status)
		}
		if status := register(t, m.SIP(core.UDP), "1002", "wrong"); status == 200 {
			t.Errorf("start %d: REGISTER with a wrong password answered 200", i)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoProcessesOnOneDirectory(t *testing.T) {
	dir := t.TempDir()
	_, _ = startNode(t, devConfig(t, dir))
	other := New(devConfig(t, dir), telemetry.Build{}, testLog{t})
	defer other.Close()
	if err := other.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another dialtone") {
		t.Errorf("the second start: %v", err)
	}
}

func TestBusyPortsAreNamed(t *testing.T) {
	m, _ := startNode(t, devConfig(t, t.TempDir()))
	for flag, at := range map[string]netip.AddrPort{"--sip": m.SIP(core.UDP), "--http": m.HTTP()} {
		other := New(devConfig(t, t.TempDir(), flag, at.String()), telemetry.Build{}, testLog{t})
		err := other.Start(t.Context())
		other.Close()
		if err == nil || !strings.Contains(err.Error(), at.String()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s busy: %v", flag, err)
		}
	}
}

func TestDrainAnswersNotReady(t *testing.T) {
	m, stop := startNode(t, devConfig(t, t.TempDir()))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("Ready after a drain: %v", err)
	}
}

// A broken core must not limp on: the record is written and Run returns.
func TestAPanicOfTheCoreEndsTheNode(t *testing.T) {
	dir := t.TempDir()
	m, stop := startNode(t, devConfig(t, dir))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { _ = m.loop.Load().Ask(ctx, func() { panic("planted") }) }()
	until(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "flight-*.txt"))
		return len(files) > 0
	})
	if err := stop(); err == nil || !strings.Contains(err.Error(), "planted") {
		t.Errorf("Run returned %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "flight-*.txt"))
	if len(files) != 1 {
		t.Fatalf("flight records: %v", files)
	}
	content, err := os.ReadFile(files[0])
	if err != nil || !strings.Contains(string(content), "restored 1 entries") {
		t.Errorf("%v: %.300s", err, content)
	}
}

func TestFlightRecordsAreFew(t *testing.T) {
	dir := t.TempDir()
	m, _ := startNode(t, devConfig(t, dir))
	for i := range 2 * keptFlights {
		old := filepath.Join(dir, fmt.Sprintf("flight-20200101T0000%02d.000.txt", i))
		if err := os.WriteFile(old, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newest, err := m.DumpFlight()
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "flight-*.txt"))
	if len(files) != keptFlights || files[len(files)-1] != newest {
		t.Errorf("%d records are kept: %v", len(files), files)
	}
}

func TestMetricsPassLint(t *testing.T) {
	m, _ := startNode(t, devConfig(t, t.TempDir()))
	status, text := ask(t, m, "GET", "/metrics", "")
	if status != 200 {
		t.Fatal(status)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, want := range []string{"dialtone_build_info{", "dialtone_media_free_port_pairs", "dialtone_sip_requests_received_total{", "dialtone_store_commit_seconds_count", "dialtone_loop_answers 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestBanner(t *testing.T) {
	m, _ := startNode(t, devConfig(t, t.TempDir(), "--agent-password", "pw"))
	var b bytes.Buffer
	if err := m.Announce(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sip:5000@" + m.SIP(core.UDP).String(), "1001 to 1020", "pw", m.HTTP().String(), m.OperatorKey().Reveal(), "loopback only"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the banner lacks %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	m.cfg.JSON = true
	if err := m.Announce(&b); err != nil {
		t.Fatal(err)
	}
	var object map[string]string
	if err := json.Unmarshal(b.Bytes(), &object); err != nil || object["dial"] != "sip:5000@"+m.SIP(core.UDP).String() || object["agent_password"] != "pw" {
		t.Errorf("%v: %s", err, b.String())
	}
}

// Starting and ending leaves nothing behind (livekit/livekit#4591: goroutines that a
// routine drain leaks).
func TestNothingIsLeftAfterClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	_, stop := startNode(t, devConfig(t, t.TempDir()))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}

// A node that cannot start leaves nothing behind either.
func TestFailedStartIsUndone(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := New(devConfig(t, dir), telemetry.Build{}, io.Discard)
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), identityFile) {
		t.Errorf("a spoilt identity: %v", err)
	}
	m.Close()
	goleak.VerifyNone(t, before)
}

func TestServerModeHasNoDemo(t *testing.T) {
	cfg, err := config.Parse(config.Server, []string{"--data", t.TempDir(), "--sip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--rtp", "4000-4199"},
		[]string{"DIALTONE_OPERATOR_KEY=an-operator-key-of-24-ch"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := startNode(t, cfg)
	if status, _ := ask(t, m, "GET", "/v1/tenants/demo", ""); status != 404 {
		t.Errorf("the demo tenant is there: %d", status)
	}
	var b bytes.Buffer
	if err := m.Announce(&b); err != nil || strings.Contains(b.String(), "an-operator-key") {
		t.Errorf("%v: a server prints no key: %s", err, b.String())
	}
	content, err := os.ReadFile(filepath.Join(cfg.Data, identityFile))
	if err != nil || strings.Contains(string(content), "an-operator-key") {
		t.Errorf("%v: a given key is not kept", err)
	}
}

// With endpoints the node is a client of an etcd that outlives it.
func TestEtcdOfItsOwn(t *testing.T) {
	etcd, err := etcdstore.Embed(t.Context(), etcdstore.EmbedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	for start := range 2 { // on a fresh directory each time: all state is in etcd
		cfg, err := config.Parse(config.Server, []string{"--data", t.TempDir(), "--sip", "127.0.0.1:0", "--http", "127.0.0.1:0",
			"--rtp", "4000-4199", "--node", "n1", "--etcd-endpoints", etcd.Addr()}, []string{"DIALTONE_OPERATOR_KEY=an-operator-key-of-24-ch"}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		m, stop := startNode(t, cfg)
		if status, body := ask(t, m, "GET", "/readyz", ""); status != 200 {
			t.Errorf("readyz: %d %s", status, body)
		}
		want := []int{201, 409}[start]
		if status, body := ask(t, m, "POST", "/v1/tenants", `{"id":"acme","domain":"acme.example","name":"Acme"}`); status != want {
			t.Errorf("start %d: POST tenant: %d %s", start, status, body)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// A store that went away makes the node not ready, and ready again when it is back.
func TestReadinessFollowsTheStore(t *testing.T) {
	etcd, err := etcdstore.Embed(t.Context(), etcdstore.EmbedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	m := Main{}
	m.health.up.Store(true)
	m.health.watch(etcd.Client())
	defer m.health.close()
	etcd.Stop()
	until(t, func() bool {
		err := m.Ready()
		return err != nil && strings.Contains(err.Error(), "store does not answer")
	})
	if err := etcd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, m.health.storeAnswers)
}

// until waits for a condition, for at most 20 seconds.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 20 s")
		}
	}
}

func TestCommandsOfTheProgram(t *testing.T) {
	m, _ := startNode(t, devConfig(t, t.TempDir()))
	_, err := m.command(t.Context(), demoTenant, command.GetAgent{ID: "9999"})
	if !absent(err) {
		t.Errorf("an absent agent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.command(ctx, demoTenant, command.WhoAmI{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(m.asks.waiting); n != 0 {
		t.Errorf("%d questions are still open", n)
	}
	if text := fmt.Sprintf("%v %+v %#v", m.identity, m.identity, m.identity); strings.Contains(text, m.OperatorKey().Reveal()) {
		t.Error("an identity shows its secrets when printed")
	}
}
