package app

import (
	"github.com/dialtone-cc/dialtone/server/edge/media"
	"github.com/dialtone-cc/dialtone/server/edge/sipstack"
)

// observeGauges adds what is read from the node and the edges at each scrape.
func (m *Main) observeGauges() {
	m.metrics.Node(m.gauges)
	m.observeLoop()
	m.observeStore()
	m.observeCluster()
	m.observeSIP()
	m.observeMedia()
}

func (m *Main) observeLoop() {
	l := m.loop.Load()
	m.metrics.Gauge("loop_urgent_events", "Events that wait to end or answer something.", func() float64 { n, _ := l.Waiting(); return float64(n) })
	m.metrics.Gauge("loop_fresh_events", "Events that wait to begin something.", func() float64 { _, n := l.Waiting(); return float64(n) })
	m.metrics.Counter("loop_shed_events_total", "Events that found the loop's inbox full.", func() float64 { return float64(l.Shed()) })
	m.metrics.Gauge("http_connections", "Open connections of the API.", func() float64 { n, _ := m.http.figures(); return float64(n) })
	m.metrics.Counter("http_connections_shed_total", "Connections that were closed at a bound.", func() float64 { _, n := m.http.figures(); return float64(n) })
	m.metrics.Counter("log_lines_dropped_total", "Log lines that nothing took in time.", func() float64 { return float64(m.lines.Dropped()) })
}

func (m *Main) observeStore() {
	read := m.store.Gauges
	m.metrics.Gauge("store_queued_operations", "Changes that wait to be sent to the store.", func() float64 { return float64(read().QueuedOps) })
	m.metrics.Gauge("store_queued_bytes", "Keys and values that wait to be sent to the store.", func() float64 { return float64(read().QueuedBytes) })
	m.metrics.Gauge("store_in_flight_seconds", "Age of the batch whose outcome is awaited; 0 when none is.", func() float64 { return read().InFlight.Seconds() })
	m.metrics.Counter("store_unknown_outcomes_total", "Writes whose outcome was open for a while.", func() float64 { return float64(read().Unknown) })
	m.metrics.Counter("store_refused_writes_total", "Writes that were refused.", func() float64 { return float64(read().Refused) })
	out := m.out.Gauges
	m.metrics.Gauge("records_queued", "Finished interactions that wait to be written.", func() float64 { return float64(out().Queued) })
	m.metrics.Counter("records_delivered_total", "Finished interactions that were written.", func() float64 { return float64(out().Delivered) })
	m.metrics.Counter("records_failed_total", "Deliveries that failed and are tried again.", func() float64 { return float64(out().Failed) })
}

func (m *Main) observeSIP() {
	read := m.sip.Gauges
	for _, g := range []struct {
		name, help string
		value      func(sipstack.Gauges) int
	}{
		{"sip_flows", "Open TCP connections.", func(g sipstack.Gauges) int { return g.Flows }},
		{"sip_server_transactions", "Live transactions of peers.", func(g sipstack.Gauges) int { return g.ServerInvite + g.ServerOther }},
		{"sip_client_transactions", "Live transactions of this node.", func(g sipstack.Gauges) int { return g.ClientInvite + g.ClientOther }},
		{"sip_waiting_effects", "Messages that wait to be sent.", func(g sipstack.Gauges) int { return g.OutboxLength }},
		{"sip_reaching_requests", "Requests that wait for DNS or a connection.", func(g sipstack.Gauges) int { return g.ReachesUnderWay }},
	} {
		m.metrics.Gauge(g.name, g.help, func() float64 { return float64(g.value(read())) })
	}
	for _, c := range []struct {
		name, help string
		value      func(sipstack.Gauges) uint64
	}{
		{"sip_retransmissions_absorbed_total", "Repeated requests of peers.", func(g sipstack.Gauges) uint64 { return g.Retransmissions }},
		{"sip_stray_responses_total", "Responses that no transaction waited for.", func(g sipstack.Gauges) uint64 { return g.StrayResponses }},
		{"sip_malformed_messages_total", "SIP that could not be read.", func(g sipstack.Gauges) uint64 { return g.Malformed }},
		{"sip_garbage_messages_total", "Datagrams and bytes that are no SIP.", func(g sipstack.Gauges) uint64 { return g.Garbage }},
		{"sip_unsent_messages_total", "Messages that found no way out.", func(g sipstack.Gauges) uint64 { return g.Unsent }},
		{"sip_unanswered_requests_total", "Requests of peers that the core never answered.", func(g sipstack.Gauges) uint64 { return g.Unanswered }},
		{"sip_lost_events_total", "Events that were dropped because the core stayed full.", func(g sipstack.Gauges) uint64 { return g.Lost }},
		{"sip_lost_messages_total", "Messages that were lost to a fault of this program: the log has where. Never above 0 in a sound version.", func(g sipstack.Gauges) uint64 { return g.Panics }},
		{"sip_forgotten_refusals_total", "Refused INVITEs that were answered once and forgotten, as in a flood.", func(g sipstack.Gauges) uint64 { return g.Forgotten }},
		{"sip_displaced_transactions_total", "Answered transactions that made room for new ones before their time.", func(g sipstack.Gauges) uint64 { return g.Dropped }},
		{"sip_refusals_suppressed_total", "Refusals that were not even sent, to serve no flood.", func(g sipstack.Gauges) uint64 { return g.RefusalsSuppressed }},
		{"sip_passed_messages_total", "Messages that went on between a phone on a connection here and another node.", func(g sipstack.Gauges) uint64 { return g.Passed }},
		{"sip_passes_refused_total", "Messages that asked for that and were not let through.", func(g sipstack.Gauges) uint64 { return g.PassRefused }},
	} {
		m.metrics.Counter(c.name, c.help, func() float64 { return float64(c.value(read())) })
	}
	m.metrics.CountersBy("sip_requests_received_total", "Requests, retransmissions included.", "method", func() map[string]uint64 { return read().RequestsReceived })
	m.metrics.CountersBy("sip_requests_sent_total", "Requests, retransmissions included.", "method", func() map[string]uint64 { return read().RequestsSent })
	m.metrics.CountersBy("sip_responses_received_total", "Responses, retransmissions included.", "class", func() map[string]uint64 { return read().ResponsesReceived })
	m.metrics.CountersBy("sip_shed_total", "What was refused at a limit.", "limit", func() map[string]uint64 { return read().Shed })
}

func (m *Main) observeMedia() {
	m.metrics.GaugesBy("media_path", "1 for the way in which plain bridges are relayed.", "path", func() map[string]uint64 {
		paths := map[string]uint64{string(media.PathPortable): 0, string(media.PathKernel): 0}
		paths[string(m.media.Path())] = 1
		return paths
	})
	read := m.media.Gauges
	for _, g := range []struct {
		name, help string
		value      func(media.Gauges) int
	}{
		{"media_legs", "Open legs.", func(g media.Gauges) int { return g.Legs }},
		{"media_kernel_legs", "Legs whose peer's packets the kernel relays at the moment.", func(g media.Gauges) int { return g.Entrusted }},
		{"media_free_port_pairs", "Pairs of ports that can be used.", func(g media.Gauges) int { return g.PortsFree }},
		{"media_resting_port_pairs", "Pairs of ports that rest before they are used again.", func(g media.Gauges) int { return g.PortsResting }},
	} {
		m.metrics.Gauge(g.name, g.help, func() float64 { return float64(g.value(read())) })
	}
	for _, c := range []struct {
		name, help string
		value      func(media.Gauges) uint64
	}{
		{"media_relayed_packets_total", "RTP packets from one leg to another.", func(g media.Gauges) uint64 { return g.Relayed }},
		{"media_kernel_packets_total", "Relayed packets that the kernel relayed by itself.", func(g media.Gauges) uint64 { return g.ByKernel }},
		{"media_transcoded_packets_total", "Relayed packets that changed their codec.", func(g media.Gauges) uint64 { return g.Transcoded }},
		{"media_played_packets_total", "RTP packets made from files.", func(g media.Gauges) uint64 { return g.Played }},
		{"media_dropped_packets_total", "Packets with nobody to hear them, or not sendable at once.", func(g media.Gauges) uint64 { return g.Dropped }},
		{"media_refused_packets_total", "Packets from strangers, or no RTP.", func(g media.Gauges) uint64 { return g.Refused }},
	} {
		m.metrics.Counter(c.name, c.help, func() float64 { return float64(c.value(read())) })
	}
}
