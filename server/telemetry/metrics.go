// Package telemetry is what a node shows of itself: metrics and log lines. No label grows
// with calls, and the tenants are named up to a limit only.
package telemetry

import (
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// How many tenants are named in labels; those that come later are counted as "other".
const namedTenants = 100

// Metrics are the metrics of one node, on a registry of their own. Event, Effect and Step
// belong to whoever steps the loop, one at a time; everything else is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	events, effects   map[reflect.Type]prometheus.Counter
	eventsBy          *prometheus.CounterVec
	effectsBy         *prometheus.CounterVec
	responses         *prometheus.CounterVec
	responsesBy       map[answer]prometheus.Counter // of responses, so that they are looked up without a text
	interactions      *prometheus.CounterVec
	wait              *prometheus.HistogramVec
	talk              prometheus.Histogram
	lag, step, effort prometheus.Histogram
	commit            prometheus.Histogram
	operations        prometheus.Histogram
	http              *prometheus.HistogramVec

	tenants map[core.TenantID]string
	// CDRs on their way: a delivery that is tried again is not counted again.
	delivering map[core.InteractionID]bool
}

// Build says which program this is.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

// New returns the metrics of a node that was just started.
func New(build Build) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		events:   map[reflect.Type]prometheus.Counter{}, effects: map[reflect.Type]prometheus.Counter{},
		eventsBy:     counters("events_total", "Events that the core took.", "type"),
		effectsBy:    counters("effects_total", "Effects that the core asked for.", "type"),
		responses:    counters("sip_responses_sent_total", "SIP responses that the core sent, without retransmissions.", "method", "code"),
		interactions: counters("interactions_total", "Interactions that ended.", "tenant", "result"),
		wait: prometheus.NewHistogramVec(options("interaction_wait_seconds", "From arrival to an agent's answer, or to the end without one.",
			waitBuckets()), []string{"result"}),
		talk:       prometheus.NewHistogram(options("interaction_talk_seconds", "From an agent's answer to the end.", waitBuckets())),
		lag:        prometheus.NewHistogram(options("loop_lag_seconds", "From the arrival of an event to its step.", fineBuckets())),
		step:       prometheus.NewHistogram(options("loop_step_seconds", "Duration of a step of the core.", fineBuckets())),
		effort:     prometheus.NewHistogram(options("loop_dispatch_seconds", "Time to hand over the effects of a step.", fineBuckets())),
		commit:     prometheus.NewHistogram(options("store_commit_seconds", "Duration of a group commit.", prometheus.ExponentialBuckets(0.0005, 2, 15))),
		operations: prometheus.NewHistogram(options("store_commit_operations", "Keys written by a group commit.", prometheus.ExponentialBuckets(1, 2, 8))),
		http: prometheus.NewHistogramVec(options("http_request_duration_seconds", "Duration of an API request.",
			prometheus.ExponentialBuckets(0.0005, 2, 14)), []string{"route", "method", "code"}),
		responsesBy: map[answer]prometheus.Counter{},
		tenants:     map[core.TenantID]string{}, delivering: map[core.InteractionID]bool{},
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "dialtone", Name: "build_info", Help: "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": build.Version, "revision": build.Revision, "go": build.Go}})
	info.Set(1)
	m.registry.MustRegister(m.eventsBy, m.effectsBy, m.responses, m.interactions, m.wait, m.talk, m.lag, m.step,
		m.effort, m.commit, m.operations, m.http, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "dialtone", Name: name, Help: help}, labels)
}

func options(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: "dialtone", Name: name, Help: help, Buckets: buckets}
}

// waitBuckets go from an immediate answer to an hour.
func waitBuckets() []float64 {
	return []float64{0.1, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600}
}

// fineBuckets go from 5 us to 5 s: a step takes microseconds, a stall seconds.
func fineBuckets() []float64 {
	return []float64{5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 5}
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4, EnableOpenMetrics: true})
}

// Step counts one step of the loop: the lag before it, its duration, and that of
// carrying its effects out.
func (m *Metrics) Step(lag, step, dispatch time.Duration) {
	m.lag.Observe(lag.Seconds())
	m.step.Observe(step.Seconds())
	m.effort.Observe(dispatch.Seconds())
}

// Event counts an event.
func (m *Metrics) Event(ev core.Event) {
	counted(m.events, m.eventsBy, ev).Inc()
	if delivered, ok := ev.(core.Delivered); ok {
		delete(m.delivering, delivered.ID)
	}
}

// Effect counts an effect; a CDR on its way to the records is an interaction that ended.
func (m *Metrics) Effect(e core.Effect) {
	counted(m.effects, m.effectsBy, e).Inc()
	switch e := e.(type) {
	case core.Respond:
		m.response(answer{method(e.Response.Method), e.Response.Status}).Inc()
	case core.Deliver:
		if !m.delivering[e.CDR.ID] {
			m.delivering[e.CDR.ID] = true
			m.ended(e.CDR)
		}
	}
}

// answer is what responses are counted by.
type answer struct {
	method string
	status int
}

// response returns the counter of an answer, made on first sight: methods and statuses of
// the core are few.
func (m *Metrics) response(a answer) prometheus.Counter {
	c, ok := m.responsesBy[a]
	if !ok {
		c = m.responses.WithLabelValues(a.method, strconv.Itoa(a.status))
		m.responsesBy[a] = c
	}
	return c
}

func (m *Metrics) ended(cdr *core.CDR) {
	result := string(cdr.Termination.Result)
	m.interactions.WithLabelValues(m.tenant(cdr.Tenant), result).Inc()
	until := cdr.EndedAt
	if !cdr.AnsweredAt.IsZero() {
		until = cdr.AnsweredAt
		m.talk.Observe(cdr.EndedAt.Sub(cdr.AnsweredAt).Seconds())
	}
	m.wait.WithLabelValues(result).Observe(until.Sub(cdr.ArrivedAt).Seconds())
}

// tenant is the label of a tenant: its id for the first hundred.
func (m *Metrics) tenant(id core.TenantID) string {
	if label, ok := m.tenants[id]; ok {
		return label
	}
	if len(m.tenants) >= namedTenants {
		return "other"
	}
	m.tenants[id] = string(id)
	return string(id)
}

// Commit counts a group commit of the store.
func (m *Metrics) Commit(took time.Duration, operations int) {
	m.commit.Observe(took.Seconds())
	m.operations.Observe(float64(operations))
}

// HTTP counts an answer of the API. The route is a template, never a path.
func (m *Metrics) HTTP(route, verb string, status int, took time.Duration) {
	if route == "" {
		route = "unknown"
	}
	m.http.WithLabelValues(route, httpMethod(verb), strconv.Itoa(status)).Observe(took.Seconds())
}

// counted returns the counter of a type, made on first sight: the types are few and fixed.
func counted(known map[reflect.Type]prometheus.Counter, all *prometheus.CounterVec, v any) prometheus.Counter {
	t := reflect.TypeOf(v)
	c, ok := known[t]
	if !ok {
		c = all.WithLabelValues(t.Name())
		known[t] = c
	}
	return c
}

// method keeps a peer from making labels: what it may call its method is not ours to choose.
func method(name string) string {
	switch name {
	case core.INVITE, core.ACK, core.BYE, core.CANCEL, core.OPTIONS, core.REGISTER, core.INFO, core.UPDATE,
		core.REFER, core.NOTIFY, core.PRACK, core.MESSAGE:
		return name
	}
	return "other"
}

func httpMethod(name string) string {
	switch name {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return name
	}
	return "other"
}
