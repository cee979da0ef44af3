package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
)

func full() *Metrics {
	m := New(Build{Version: "1", Revision: "2", Go: "3"})
	m.Node(func() (node.Gauges, bool) {
		return node.Gauges{Calls: map[string]int{"queued": 2}, Agents: map[string]int{"idle": 1}, Life: node.Draining}, true
	})
	m.Gauge("rtp_ports_free", "Free ports.", func() float64 { return 1 })
	m.Counter("rtp_packets_received_total", "Packets.", func() float64 { return 1 })
	m.CountersBy("sip_requests_received_total", "Requests.", "method", func() map[string]uint64 { return map[string]uint64{"INVITE": 3} })
	m.Event(core.RequestReceived{Request: &core.Request{Method: core.INVITE}})
	m.Effect(core.Respond{Response: &core.Response{Status: 200, Method: core.INVITE}})
	m.Effect(core.Deliver{CDR: cdr(1, "demo")})
	m.Step(time.Microsecond, time.Microsecond, time.Microsecond)
	m.Commit(time.Millisecond, 3)
	m.HTTP("/v1/queues/{id}", "GET", 200, time.Millisecond)
	return m
}

func cdr(n int, tenant core.TenantID) *core.CDR {
	second := core.Time(time.Second)
	return &core.CDR{ID: core.InteractionID(fmt.Sprint("int_", n)), Tenant: tenant, ArrivedAt: second, AnsweredAt: 4 * second, EndedAt: 10 * second,
		Termination: core.Termination{Result: core.Completed}}
}

func TestNamesPassLint(t *testing.T) {
	m := full()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A unit in the name, and no label whose values a caller chooses.
func TestLabelsDoNotGrowWithCalls(t *testing.T) {
	m := full()
	before := series(t, m.registry)
	for i := range 1000 {
		m.Effect(core.Respond{Response: &core.Response{Status: 501, Method: fmt.Sprint("M", i)}})
		m.Effect(core.Deliver{CDR: cdr(i, "demo")})
		m.HTTP("", fmt.Sprint("V", i), 404, time.Millisecond)
	}
	if grown := series(t, m.registry) - before; grown > 4 {
		t.Errorf("1000 calls made %d new series", grown)
	}
}

func TestTenantsAreNamedUpToALimit(t *testing.T) {
	m := New(Build{})
	for i := range 3 * namedTenants {
		m.Effect(core.Deliver{CDR: cdr(i, core.TenantID(fmt.Sprint("t", i)))})
	}
	text := scrape(t, m)
	if n := strings.Count(text, "dialtone_interactions_total{"); n != namedTenants+1 {
		t.Errorf("%d series for %d tenants", n, 3*namedTenants)
	}
	if want := `dialtone_interactions_total{result="completed",tenant="other"} 200`; !strings.Contains(text, want) {
		t.Errorf("no %s", want)
	}
}

// A CDR that is delivered again after a failure is one interaction.
func TestRedeliveryIsCountedOnce(t *testing.T) {
	m := New(Build{})
	for range 3 {
		m.Effect(core.Deliver{CDR: cdr(1, "demo")})
		m.Event(core.DeliveryFailed{ID: "int_1"})
	}
	m.Event(core.Delivered{ID: "int_1"})
	if len(m.delivering) != 0 {
		t.Error("the id is kept after the delivery")
	}
	text := scrape(t, m)
	for _, want := range []string{
		`dialtone_interactions_total{result="completed",tenant="demo"} 1`, `dialtone_interaction_wait_seconds_sum{result="completed"} 3`, "dialtone_interaction_talk_seconds_sum 6",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestScrape(t *testing.T) {
	text := scrape(t, full())
	for _, want := range []string{
		`dialtone_build_info{go="3",revision="2",version="1"} 1`, `dialtone_live_interactions{phase="queued"} 2`, `dialtone_agents{state="idle"} 1`,
		"dialtone_draining 1", `dialtone_sip_requests_received_total{method="INVITE"} 3`, "dialtone_loop_answers 1", `dialtone_events_total{type="RequestReceived"} 1`,
		`dialtone_sip_responses_sent_total{code="200",method="INVITE"} 1`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestScrapeOfALoopThatHangs(t *testing.T) {
	m := New(Build{})
	m.Node(func() (node.Gauges, bool) { return node.Gauges{}, false })
	if text := scrape(t, m); !strings.Contains(text, "dialtone_loop_answers 0") || strings.Contains(text, "dialtone_bindings") {
		t.Error("a scrape must show that the loop does not answer, and no stale gauges")
	}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatal(w.Code)
	}
	return w.Body.String()
}

func series(t *testing.T, g prometheus.Gatherer) (n int) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		n += len(f.GetMetric())
	}
	return n
}

func TestLogLines(t *testing.T) {
	for _, text := range []bool{false, true} {
		var b bytes.Buffer
		log := NewLog(&b, LogConfig{Level: slog.LevelInfo, Text: text, Node: "n1"})
		Line(log, core.Log{Level: -4, Text: "unseen"})
		Line(log, core.Log{Level: 4, Text: "queue full", Tenant: "demo", Interaction: "int_1", Attrs: []any{
			"queue", "support", "password", "hunter2", "agent", core.Secret("hunter2")}})
		log.Info("x", "took", 1500*time.Millisecond, slog.Group("in", "Authorization", "hunter2"))
		if strings.Contains(b.String(), "hunter2") || strings.Contains(b.String(), "unseen") {
			t.Errorf("%s", b.String())
		}
		if !strings.Contains(b.String(), "1.5s") {
			t.Errorf("a duration without its unit: %s", b.String())
		}
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d lines: %s", len(lines), b.String())
		}
		for _, want := range []string{"queue full", "demo", "int_1", "support", "n1"} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("no %s in %s", want, lines[0])
			}
		}
		var object map[string]any
		if err := json.Unmarshal([]byte(lines[0]), &object); !text && (err != nil || object["tenant"] != "demo" || object["level"] != "WARN") {
			t.Errorf("%v: %s", err, lines[0])
		}
	}
}

// A Secret hides itself wherever it is printed.
func TestSecretsHideThemselves(t *testing.T) {
	var b bytes.Buffer
	for _, text := range []bool{false, true} {
		NewLog(&b, LogConfig{Level: slog.LevelDebug, Text: text}).Log(context.Background(), slog.LevelInfo, "m",
			"plain", core.Secret("hunter2"), "in", struct{ S core.Secret }{"hunter2"})
	}
	fmt.Fprintf(&b, "%v %+v %#v %s", core.Secret("hunter2"), core.Secret("hunter2"), core.Secret("hunter2"), core.Secret("hunter2"))
	if strings.Contains(b.String(), "hunter2") {
		t.Error(b.String())
	}
}

// The cost per event must stay far below that of a step.
func BenchmarkEvent(b *testing.B) {
	m := New(Build{})
	var ev core.Event = core.Stored{Token: 1}
	for b.Loop() {
		m.Event(ev)
		m.Step(time.Microsecond, time.Microsecond, time.Microsecond)
	}
}
