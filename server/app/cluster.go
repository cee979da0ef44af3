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
