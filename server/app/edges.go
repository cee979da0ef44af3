package app

import (
	"context"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
	"github.com/dialtone-cc/dialtone/server/edge/httpapi"
	"github.com/dialtone-cc/dialtone/server/edge/media"
	"github.com/dialtone-cc/dialtone/server/edge/records"
	"github.com/dialtone-cc/dialtone/server/edge/sipstack"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

// openEtcd returns a client: of the endpoints that were given, or of a member within this process.
func (m *Main) openEtcd(ctx context.Context) (*clientv3.Client, error) {
	if len(m.cfg.Etcd) > 0 {
		client, err := etcdstore.Connect(etcdstore.ClientConfig{Endpoints: m.cfg.Etcd, CA: m.cfg.EtcdCA, Cert: m.cfg.EtcdCert, Key: m.cfg.EtcdKey,
			Username: m.cfg.EtcdUser, PasswordFile: m.cfg.EtcdPasswordFile})
		if err != nil {
			return nil, err
		}
		m.undo = append(m.undo, func() { _ = client.Close() })
		return client, nil
	}
	embedded, err := etcdstore.Embed(ctx, etcdstore.EmbedConfig{Dir: filepath.Join(m.cfg.Data, "store"), Log: m.log})
	if err != nil {
		return nil, err
	}
	m.undo = append(m.undo, embedded.Close)
	m.health.writable = embedded.Writable
	return embedded.Client(), nil
}

// openRecords opens the store of finished interactions.
func (m *Main) openRecords(ctx context.Context) (httpapi.History, error) {
	store, err := m.openRecordsStore(ctx)
	if err != nil {
		return nil, err
	}
	m.undo = append(m.undo, func() { _ = store.Close() })
	m.records = store
	m.out = records.NewWriter(store, m.emit, m.log)
	m.undo = append(m.undo, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.out.Close(ctx); err != nil {
			m.log.Error("records", "err", err)
		}
	})
	return history{store}, nil
}

func (m *Main) openRecordsStore(ctx context.Context) (records.Store, error) {
	if m.cfg.Records == "" {
		return records.OpenSQLite(filepath.Join(m.cfg.Data, "records.db"))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return records.OpenPostgres(ctx, records.Config{URL: m.cfg.Records, PasswordFile: m.cfg.RecordsPasswordFile, Log: m.log})
}

// openCalls binds media and SIP. What arrives before the core runs is shed.
func (m *Main) openCalls() (err error) {
	if m.media, err = media.New(media.Config{
		Addr: m.cfg.SIP.Addr(), From: m.cfg.RTP.From, To: m.cfg.RTP.To, Path: media.Path(m.cfg.MediaPath), Dir: m.cfg.Audio, Emit: m.emit, Log: m.log,
	}); err != nil {
		return err
	}
	m.undo = append(m.undo, func() { _ = m.media.Close() })
	if m.sip, err = sipstack.New(sipstack.Config{
		Listen: []sipstack.Listen{
			{Transport: core.UDP, Addr: m.cfg.SIP, Contact: m.cfg.Contact[core.UDP]},
			{Transport: core.TCP, Addr: m.cfg.SIP, Contact: m.cfg.Contact[core.TCP]},
		},
		Emit: m.emit, Log: m.log, MaxFlows: shareOf(2, maxFlows),
	}); err != nil {
		return err
	}
	m.undo = append(m.undo, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := m.sip.Close(ctx); err != nil {
			m.log.Warn("SIP was closed with messages unsent", "err", err)
		}
	})
	return nil
}

// dispatch carries one effect to its edge. It runs on the loop's goroutine.
func (m *Main) dispatch(e core.Effect) {
	m.metrics.Effect(e)
	switch e := e.(type) {
	case core.SendRequest, core.Respond:
		m.sip.Do(e)
	case core.OpenMedia, core.SetMedia, core.CloseMedia:
		m.media.Do(e)
	case core.Store:
		m.store.Do(e)
	case core.Deliver:
		m.out.Do(e)
	case core.Purge:
		go m.purge(e.Tenant)
	case core.Reply:
		if !m.asks.take(e) {
			m.api.Do(e)
		}
	case core.Publish:
		m.api.Do(e)
	case core.Log:
		telemetry.Line(m.log, e)
	case core.SetPeers:
		m.sip.SetMembers(e.SIP)
		if m.peers != nil {
			m.peers.SetSelf(e.Self)
			m.peers.Do(e)
		}
	case core.AskPeer, core.TellPeer:
		if m.peers != nil {
			m.peers.Do(e)
		}
	case core.Drained:
		m.once.Do(func() { close(m.drained) })
	}
}

// purge deletes a tenant's finished interactions. It runs beside the loop: a large tenant
// takes seconds.
func (m *Main) purge(id core.TenantID) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ev := core.Purged{Tenant: id}
	if err := m.records.DeleteTenant(ctx, id); err != nil {
		ev.Cause = err.Error()
	}
	for !m.emit(ev) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}
