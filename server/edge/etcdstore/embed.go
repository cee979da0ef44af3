package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// EmbedConfig describes an etcd member within this process.
type EmbedConfig struct {
	Dir string // its data; made when absent; one process at a time
	Log *slog.Logger

	// Listen is an address (host:port) where etcd's own tools reach the member; "" for
	// none, the default: this process needs no socket.
	Listen string

	Quota   int64 // bytes of its database, default 2 GiB
	MinFree int64 // free bytes of the disk below which nothing is written, default 128 MiB
}

// The timing of the member: the fastest election that a local network allows.
const (
	heartbeat    = 50 * time.Millisecond
	election     = 500 * time.Millisecond
	syncRounds   = 20
	slowSync     = 10 * time.Millisecond
	memberName   = "dialtone"
	defaultQuota = 2 << 30
	defaultFree  = 128 << 20 // the next segment of its log, which is 64 MB, and room to breathe
	readyWithin  = 30 * time.Second
	closeWithin  = 10 * time.Second
	struckWithin = time.Second // after a fatal error
)

// Embedded is an etcd member within this process, for one node alone. What it commits is
// synced to the disk.
type Embedded struct {
	cfg    EmbedConfig
	line   line
	client *clientv3.Client
	lock   *os.File

	mu   sync.Mutex
	etcd *embed.Etcd // nil: stopped
	end  context.CancelFunc
	wait sync.WaitGroup // of the relief
}

// Embed starts a member on the data in cfg.Dir and waits until it takes requests.
func Embed(ctx context.Context, cfg EmbedConfig) (*Embedded, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Quota <= 0 {
		cfg.Quota = defaultQuota
	}
	if cfg.MinFree <= 0 {
		cfg.MinFree = defaultFree
	}
	lock, err := occupy(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd: %w", err)
	}
	e := &Embedded{cfg: cfg, lock: lock}
	e.client = e.line.client()
	if err = checkDisk(cfg.Dir, cfg.MinFree, cfg.Log); err != nil {
		err = fmt.Errorf("embedded etcd: %w", err)
	} else {
		err = e.Start(ctx)
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// checkDisk refuses a disk that is nearly full and says how fast it is.
func checkDisk(dir string, minFree int64, log *slog.Logger) error {
	free, err := freeBytes(dir)
	if err != nil {
		return err
	}
	if free < minFree {
		return fmt.Errorf("%d MiB are free in %s, %d are needed: free some space or choose another directory", free>>20, dir, minFree>>20)
	}
	median, slowest, err := syncTimes(dir, syncRounds)
	if err != nil {
		return fmt.Errorf("sync to %s: %w", dir, err)
	}
	level, text := slog.LevelInfo, "disk of the embedded etcd"
	if slowest > slowSync {
		level, text = slog.LevelWarn, "the disk of the embedded etcd is slow: each step of a call waits for it"
	}
	log.Log(context.Background(), level, text, "dir", dir, "sync_median_ms", ms(median), "sync_slowest_of_20_ms", ms(slowest))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Client returns the client of the member; it lives as long as the Embedded, through Stop
// and Start. Close the Embedded, not the client.
func (e *Embedded) Client() *clientv3.Client { return e.client }

// Writable returns nil when the disk has room for writes, else why there will be none: reads
// are answered all the same.
func (e *Embedded) Writable() error {
	if e.line.scarce.Load() {
		return fmt.Errorf("too little space on the disk of %s", e.cfg.Dir)
	}
	return nil
}

// Addr returns where the member listens, "" when it does not.
func (e *Embedded) Addr() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.etcd == nil || len(e.etcd.Clients) == 0 {
		return ""
	}
	return e.etcd.Clients[0].Addr().String()
}

// Start starts the member again after Stop. It does nothing when it runs.
func (e *Embedded) Start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.etcd != nil {
		return nil
	}
	run, end := context.WithCancel(context.Background())
	ready := new(atomic.Bool)
	cfg, err := e.memberConfig(ready, end)
	if err != nil {
		end()
		return err
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		end()
		return fmt.Errorf("embedded etcd in %s does not start: %w", e.cfg.Dir, err)
	}
	within, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	select {
	case <-etcd.Server.ReadyNotify():
	case <-run.Done():
		err = errors.New("a fatal error, see the log")
	case <-within.Done():
		err = within.Err()
	}
	if err != nil {
		struck := run.Err() != nil
		end()
		closeMember(etcd, struck)
		return fmt.Errorf("embedded etcd in %s is not ready: %w", e.cfg.Dir, err)
	}
	ready.Store(true)
	e.etcd, e.end = etcd, end
	e.line.member.Store(newMember(run, etcd.Server))
	r := relief{e: e}
	e.wait.Go(func() { r.run(run) })
	return nil
}

// memberConfig is etcd's configuration; fatal is called when the member can't go on.
func (e *Embedded) memberConfig(ready *atomic.Bool, fatal func()) (*embed.Config, error) {
	cfg := baseSettings(filepath.Join(e.cfg.Dir, "etcd"), memberName, e.cfg.Quota)
	cfg.InitialCluster = cfg.InitialClusterFromName(memberName)
	cfg.ListenPeerUrls = nil // a single member has no peers
	cfg.ListenClientUrls = nil
	if e.cfg.Listen != "" {
		u, err := url.Parse("http://" + e.cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("embedded etcd: address %q: %w", e.cfg.Listen, err)
		}
		cfg.ListenClientUrls = []url.URL{*u}
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(e.cfg.Log, ready, func(text string) {
		fatal()
		e.cfg.Log.Error("the embedded etcd has stopped: live calls go on, nothing new is stored; mend the cause and start again", "cause", text)
	}))
	return cfg, nil
}

// baseSettings is what all members have in common.
func baseSettings(dir, name string, quota int64) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name = dir, name
	cfg.TickMs = uint(heartbeat.Milliseconds())
	cfg.ElectionMs = uint(election.Milliseconds())
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = "10m" // who was away for longer reads everything anew
	cfg.QuotaBackendBytes = quota
	cfg.EnableGRPCGateway = false
	return cfg
}

// Stop stops the member as if it had gone away: requests fail until Start.
func (e *Embedded) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.etcd == nil {
		return
	}
	struck := e.line.member.Load().ctx.Err() != nil
	e.end()
	e.line.member.Store(nil)
	e.wait.Wait()
	closeMember(e.etcd, struck)
	e.etcd = nil
}

// Close ends the client and the member and frees the directory.
func (e *Embedded) Close() {
	e.client.Close()
	e.Stop()
	e.lock.Close()
}

// closeMember closes a member. One that was struck by a fatal error holds its own locks for
// ever: it is given up, and its files stay open until the process ends.
func closeMember(etcd *embed.Etcd, struck bool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		etcd.Close()
	}()
	within := closeWithin
	if struck {
		within = struckWithin
	}
	select {
	case <-closed:
	case <-time.After(within):
	}
}
