package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dialtone-cc/dialtone/server/core/node"
)

// Gauge adds a gauge that is read at each scrape. The name gets the prefix dialtone_.
func (m *Metrics) Gauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "dialtone", Name: name, Help: help}, read))
}

// Counter adds a counter that is read at each scrape.
func (m *Metrics) Counter(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "dialtone", Name: name, Help: help}, read))
}

// CountersBy adds counters with one label, which are read at each scrape. The keys of what
// read returns are the label's values: a fixed set.
func (m *Metrics) CountersBy(name, help, label string, read func() map[string]uint64) {
	m.registry.MustRegister(&labelled{describe(name, help, label), prometheus.CounterValue, read})
}

// GaugesBy is CountersBy for gauges.
func (m *Metrics) GaugesBy(name, help, label string, read func() map[string]uint64) {
	m.registry.MustRegister(&labelled{describe(name, help, label), prometheus.GaugeValue, read})
}

type labelled struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func() map[string]uint64
}

// Describe sends the one description.
func (l *labelled) Describe(out chan<- *prometheus.Desc) { out <- l.desc }

// Collect reads the values.
func (l *labelled) Collect(out chan<- prometheus.Metric) {
	for value, n := range l.read() {
		out <- prometheus.MustNewConstMetric(l.desc, l.kind, float64(n), value)
	}
}

// Node adds the gauges of the node. read gives them at each scrape; false: the loop did not answer.
func (m *Metrics) Node(read func() (node.Gauges, bool)) {
	m.registry.MustRegister(&nodeGauges{read: read})
}

// nodeGauges reads all gauges of the node at once, so that a scrape asks the loop once.
type nodeGauges struct{ read func() (node.Gauges, bool) }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("dialtone_"+name, help, labels, nil)
}

// Describe makes nodeGauges an unchecked collector: its label values come with the readings.
func (*nodeGauges) Describe(chan<- *prometheus.Desc) {}

// Collect asks the node.
func (c *nodeGauges) Collect(out chan<- prometheus.Metric) {
	g, ok := c.read()
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	put(describe("loop_answers", "1 while the loop answers a scrape, 0 when it does not."), truth(ok))
	if !ok {
		return
	}
	for phase, n := range g.Calls {
		put(describe("live_interactions", "Live interactions by phase.", "phase"), float64(n), phase)
	}
	for state, n := range g.Agents {
		put(describe("agents", "Agents by what they do.", "state"), float64(n), state)
	}
	put(describe("waiting_interactions", "Interactions that wait for an agent."), float64(g.Waiting))
	put(describe("bindings", "Registered phones."), float64(g.Bindings))
	put(describe("tenants", "Tenants."), float64(g.Tenants))
	put(describe("held_records", "Records with effects that wait for a commit."), float64(g.Held))
	put(describe("outbox_records", "Finished interactions that are not yet in the records store."), float64(g.Outbox))
	put(describe("draining", "1 from the begin of a drain."), truth(g.Life == node.Draining || g.Life == node.Over))
	put(describe("store_away", "1 while the outcome of a write is open."), truth(g.Away))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
