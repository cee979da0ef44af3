package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/server/v3/embed"
)

// MemberConfig describes one etcd member of several, each in a process of its own, for a
// cluster on one machine. It speaks without TLS.
type MemberConfig struct {
	Name   string         // its own, one of Cluster: letters, digits, '.', '_', '-'
	Dir    string         // its data; made when absent; one process at a time
	Client netip.AddrPort // where nodes reach it

	// Cluster is where the members reach each other, by name, this one included: the same for
	// all of them. It counts at the first start only; from then on Dir holds who is a member.
	Cluster map[string]netip.AddrPort

	Log   *slog.Logger
	Quota int64 // bytes of its database, default 2 GiB
}

// Member is an etcd member that takes requests.
type Member struct {
	etcd   *embed.Etcd
	lock   *os.File
	struck chan string // the cause of its end; buffered
	fatal  bool
}

// StartMember starts a member and returns when it takes requests, which is when most of the
// members run: so they are started side by side. It waits until ctx ends.
func StartMember(ctx context.Context, cfg MemberConfig) (*Member, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Quota <= 0 {
		cfg.Quota = defaultQuota
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	lock, err := occupy(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", cfg.Name, err)
	}
	m := &Member{lock: lock, struck: make(chan string, 1)}
	if err = checkDisk(cfg.Dir, defaultFree, cfg.Log); err == nil {
		err = m.start(ctx, cfg)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("etcd member %s: %w", cfg.Name, err)
	}
	return m, nil
}

func (cfg MemberConfig) check() error {
	if err := checkName(cfg.Name); err != nil {
		return fmt.Errorf("etcd member %.40q: %w", cfg.Name, err)
	}
	if !cfg.Client.IsValid() {
		return fmt.Errorf("etcd member %s: no address for clients: give one as 127.0.0.1:2379", cfg.Name)
	}
	if _, ok := cfg.Cluster[cfg.Name]; !ok {
		return fmt.Errorf("etcd member %s: it is not in the cluster itself: give its name and peer address there", cfg.Name)
	}
	for name, at := range cfg.Cluster {
		if err := checkName(name); err != nil {
			return fmt.Errorf("etcd member %s: member %.40q of the cluster: %w", cfg.Name, name, err)
		}
		if !at.IsValid() || at.Port() == 0 {
			return fmt.Errorf("etcd member %s: the peer address of %s lacks an address or a port", cfg.Name, name)
		}
	}
	return nil
}

func (m *Member) start(ctx context.Context, cfg MemberConfig) error {
	ready := new(atomic.Bool)
	etcd, err := embed.StartEtcd(m.settings(cfg, ready))
	if err != nil {
		return fmt.Errorf("it does not start on %s and %s: %w", cfg.Client, cfg.Cluster[cfg.Name], err)
	}
	m.etcd = etcd
	select {
	case <-etcd.Server.ReadyNotify():
		ready.Store(true)
		return nil
	case err := <-etcd.Err():
		return err
	case cause := <-m.struck:
		m.fatal = true
		return errors.New(cause)
	case <-ctx.Done():
		etcd.Server.HardStop() // Close alone waits for ever for servers that wait to be ready
		return fmt.Errorf("most of the %d members must run before one takes requests: start the others: %w", len(cfg.Cluster), ctx.Err())
	}
}

func (m *Member) settings(cfg MemberConfig, ready *atomic.Bool) *embed.Config {
	at := func(a netip.AddrPort) url.URL { return url.URL{Scheme: "http", Host: a.String()} }
	peer, client := at(cfg.Cluster[cfg.Name]), at(cfg.Client)
	var cluster []string
	for name, a := range cfg.Cluster {
		cluster = append(cluster, name+"="+(&url.URL{Scheme: "http", Host: a.String()}).String())
	}
	slices.Sort(cluster)
	c := baseSettings(filepath.Join(cfg.Dir, "etcd"), cfg.Name, cfg.Quota)
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.InitialCluster = strings.Join(cluster, ",")
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(cfg.Log, ready, func(cause string) {
		select {
		case m.struck <- cause:
		default: // one cause is enough
		}
	}))
	return c
}

// Wait returns nil when ctx ends, and an error when the member can't go on: its process is
// to be ended then, and started again when the cause is mended.
func (m *Member) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-m.etcd.Err():
		return fmt.Errorf("etcd member: it serves no more: %w", err)
	case <-m.etcd.Server.StopNotify():
		return errors.New("etcd member: the others have removed it from the cluster: to join again it needs a new name and no data")
	case cause := <-m.struck:
		m.fatal = true
		return fmt.Errorf("etcd member: %s: mend the cause and start it again", cause)
	}
}

// Close ends the member. The others go on while they are most of the cluster.
func (m *Member) Close() {
	if m.etcd != nil {
		closeMember(m.etcd, m.fatal)
		m.etcd = nil
	}
	m.lock.Close()
}
