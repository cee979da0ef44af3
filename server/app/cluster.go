package app

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/edge/peers"
)

// openPeers binds where the other nodes find this one. Without an address it has none: it
// is alone, or the others notice its death by its lease only.
func (m *Main) openPeers() (err error) {
	if !m.cfg.ClusterListen.IsValid() {
		return nil
	}
	if m.peers, err = peers.New(peers.Config{
		Addr: m.cfg.ClusterListen, Self: core.Member{ID: m.identity.Node}, Secret: []byte(m.cfg.ClusterSecret.Reveal()), Emit: m.emit, Log: m.log,
	}); err != nil {
		return fmt.Errorf("%w; choose another address with --cluster-listen, or a secret with --cluster-secret-file", err)
	}
	m.undo = append(m.undo, m.peers.Close)
	return nil
}

// record is what the other nodes are to know of this one.
func (m *Main) record() []byte {
	r := cluster.NodeRecord{HTTP: m.HTTP(), Version: m.build.Version, StartedAt: core.Time(time.Now().UnixNano()),
		SIP: map[core.Transport]netip.AddrPort{}}
	for _, transport := range []core.Transport{core.UDP, core.TCP} {
		r.SIP[transport] = m.cfg.SIP
		if at, ok := m.cfg.Contact[transport]; ok {
			r.SIP[transport] = at
		}
	}
	if m.peers != nil {
		r.Peer = m.peers.Addr()
		if at := m.cfg.ClusterAddress; at.IsValid() {
			r.Peer = netip.AddrPortFrom(at, r.Peer.Port())
		}
	}
	if at := m.cfg.ClusterAddress; at.IsValid() || r.HTTP.Addr().IsUnspecified() {
		r.HTTP = netip.AddrPortFrom(cmp.Or(at, m.cfg.SIP.Addr()), r.HTTP.Port())
	}
	return r.Encode()
}

// observeCluster adds what is known of the other nodes, and of the watch of their records.
func (m *Main) observeCluster() {
	read := m.store.Gauges
	m.metrics.Gauge("cluster_shards_without_owner", "Shards whose tenants nobody decides for: their calls wait.", func() float64 {
		g, _ := m.gauges()
		return float64(g.Ownerless)
	})
	m.metrics.Gauge("watch_waiting_changes", "Changes of records that were seen and that the core has not taken.", func() float64 { return float64(read().Behind) })
	m.metrics.Counter("watch_relisted_total", "Times that all records were read again, since etcd had compacted what was missing.", func() float64 { return float64(read().Relisted) })
	m.metrics.Counter("node_claims_total", "Times that this process claimed its own node, the first one included.", func() float64 { return float64(read().Claims) })
	if m.peers == nil {
		return
	}
	peer := m.peers.Gauges
	for _, g := range []struct {
		name, help string
		value      func(peers.Gauges) float64
	}{
		{"cluster_peers", "Other nodes.", func(g peers.Gauges) float64 { return float64(g.Members) }},
		{"cluster_peers_up", "Other nodes that are connected and heard.", func(g peers.Gauges) float64 { return float64(g.Up) }},
		{"cluster_round_trip_p50_seconds", "Of heartbeats, the median of the last.", func(g peers.Gauges) float64 { return g.RoundTripP50.Seconds() }},
		{"cluster_round_trip_p99_seconds", "Of heartbeats, one in a hundred of the last took longer.", func(g peers.Gauges) float64 { return g.RoundTripP99.Seconds() }},
		{"cluster_beat_lag_seconds", "How late this node's own heartbeats were at most, of the last: above 0.02 it may be taken for dead.", func(g peers.Gauges) float64 { return g.Lag.Seconds() }},
	} {
		m.metrics.Gauge(g.name, g.help, func() float64 { return g.value(peer()) })
	}
	for _, c := range []struct {
		name, help string
		value      func(peers.Gauges) uint64
	}{
		{"cluster_silences_total", "Times that another node fell silent.", func(g peers.Gauges) uint64 { return g.Silences }},
		{"cluster_deaths_total", "Times that another node's process ended.", func(g peers.Gauges) uint64 { return g.Deaths }},
		{"cluster_overslept_total", "Times that this node itself was asleep.", func(g peers.Gauges) uint64 { return g.Restarts }},
		{"cluster_refused_connections_total", "Connections that were closed: another secret, or another process was looked for.", func(g peers.Gauges) uint64 { return g.RefusedHellos }},
	} {
		m.metrics.Counter(c.name, c.help, func() float64 { return float64(c.value(peer())) })
	}
	m.metrics.CountersBy("cluster_datagrams_refused_total", "Datagrams that are no heartbeats of a member.", "why", func() map[string]uint64 { return peer().Refused })
}
