// Package app puts a node together. It is the only place where the edges meet the core:
// it starts them in order, carries every effect to its edge, and ends them in order.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
	"github.com/dialtone-cc/dialtone/server/edge/httpapi"
	"github.com/dialtone-cc/dialtone/server/edge/loop"
	"github.com/dialtone-cc/dialtone/server/edge/media"
	"github.com/dialtone-cc/dialtone/server/edge/peers"
	"github.com/dialtone-cc/dialtone/server/edge/records"
	"github.com/dialtone-cc/dialtone/server/edge/sipstack"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

// Main is one node as a value: Start brings it up, Run keeps it until it is told to end,
// Close frees what is left. A test runs it like the program does.
type Main struct {
	cfg      *config.Config
	build    telemetry.Build
	lines    *telemetry.Writer
	log      *slog.Logger
	metrics  *telemetry.Metrics
	identity identity

	node    *node.Node
	loop    atomic.Pointer[loop.Loop] // nil until the core can take events
	sip     *sipstack.Stack
	media   *media.Media
	store   *etcdstore.Store
	out     *records.Writer
	records records.Store
	api     *httpapi.API
	http    *bounded

	asks    answers
	glance  glance
	peers   *peers.Peers // nil: there are no others
	health  health
	drained chan struct{} // closed by the effect
	once    sync.Once     // of drained
	ballast []byte        // see newBallast
	broke   chan error    // the loop's or the HTTP server's end, when it was not asked for
	undo    []func()      // what Close does, last first
}

// New returns a node that Start brings up. Log lines go to log; they never block the node.
func New(cfg *config.Config, build telemetry.Build, log io.Writer) *Main {
	m := &Main{
		cfg: cfg, build: build, lines: telemetry.NewWriter(log), metrics: telemetry.New(build),
		log:     slog.New(slog.DiscardHandler), // until the node's id is known
		drained: make(chan struct{}), broke: make(chan error, 2), ballast: newBallast(),
	}
	m.asks.waiting = map[core.Token]chan core.Reply{}
	m.undo = append(m.undo, m.lines.Close)
	return m
}

// newBallast returns memory that is never touched, so that it takes address space and no
// RAM. The collector runs when the heap has doubled: a node with few calls has a small heap
// and would collect many times a second under load. With the ballast it lets 64 MiB more
// gather; what each further call costs stays as it is, which a higher GOGC would not leave.
// Who sets GOGC has it without ballast.
func newBallast() []byte {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return make([]byte, 64<<20)
}

// Start brings everything up, in this order: directory, keys, HTTP socket, store, records, media, SIP,
// the core with what the store held, API, demo tenant. An error says what to do; Close is to be
// called in any case.
func (m *Main) Start(ctx context.Context) error {
	lock, err := occupy(m.cfg.Data)
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() { _ = lock.Close() })
	if m.identity, err = readIdentity(m.cfg); err != nil {
		return err
	}
	m.openLog()
	if err := relaxMonitor(); err != nil {
		m.log.Debug("the runtime's monitor thread sleeps as before: some more CPU per call (CAP_SYS_NICE lets it rest)", "err", err)
	}
	if m.http, err = listenHTTP(m.cfg.HTTP); err != nil {
		return err
	}
	m.undo = append(m.undo, func() { _ = m.http.Close() })
	if err := m.openPeers(); err != nil {
		return err
	}
	restored, err := m.openStore(ctx)
	if err != nil {
		return err
	}
	history, err := m.openRecords(ctx)
	if err != nil {
		return err
	}
	if err := m.openCalls(); err != nil {
		return err
	}
	m.openAPI(history) // before the core runs: it tells listeners what it takes up
	m.startLoop(restored)
	if err := m.settle(ctx); err != nil {
		return err
	}
	m.serveHTTP()
	if m.cfg.Command == config.Dev {
		if err := m.furnish(ctx); err != nil {
			return fmt.Errorf("demo tenant: %w", err)
		}
	}
	m.observeGauges()
	m.health.up.Store(true)
	m.watchdog()
	m.log.Info("ready", "sip_udp", m.SIP(core.UDP), "sip_tcp", m.SIP(core.TCP), "http", m.HTTP(),
		"rtp", fmt.Sprintf("%d-%d", m.cfg.RTP.From, m.cfg.RTP.To), "data", m.cfg.Data, "version", m.build.Version)
	return nil
}

// SIP returns the address that is bound for a transport. After Start.
func (m *Main) SIP(t core.Transport) netip.AddrPort { return m.sip.Addr(t) }

// HTTP returns the address of the API. After Start.
func (m *Main) HTTP() netip.AddrPort { return m.http.Addr().(*net.TCPAddr).AddrPort() }

// OperatorKey returns the operator's key. After Start.
func (m *Main) OperatorKey() core.Secret {
	if m.cfg.OperatorKey != "" {
		return m.cfg.OperatorKey
	}
	return m.identity.OperatorKey.secret()
}

// AgentPassword returns the SIP password of the demo agents. After Start, in dev.
func (m *Main) AgentPassword() core.Secret { return m.identity.AgentPassword.secret() }

func (m *Main) openLog() {
	terminal, color := telemetry.Terminal(os.Stderr)
	m.log = telemetry.NewLog(m.lines, telemetry.LogConfig{
		Level: m.cfg.LogLevel, Text: m.cfg.LogFormat == config.Text || m.cfg.LogFormat == config.Auto && terminal,
		Color: color, Node: m.identity.Node,
	})
	for _, warning := range m.cfg.Warnings {
		m.log.Warn(warning)
	}
}

func (m *Main) emit(ev core.Event) bool {
	l := m.loop.Load()
	return l != nil && l.Emit(ev)
}

// openStore opens etcd and takes this node's state over.
func (m *Main) openStore(ctx context.Context) (core.Restored, error) {
	client, err := m.openEtcd(ctx)
	if err != nil {
		return core.Restored{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	store, restored, err := etcdstore.Open(ctx, etcdstore.Config{
		Client: client, Node: m.identity.Node, Record: m.record(), Emit: m.emit, Observe: m.metrics.Commit, Log: m.log,
	})
	if err != nil {
		return restored, err
	}
	m.store = store
	if m.peers != nil {
		m.peers.SetSelf(restored.Incarnation)
	}
	m.undo = append(m.undo, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := store.Close(ctx); err != nil {
			m.log.Error("the store was closed with writes open; they are settled at the next start", "err", err)
		}
	})
	m.health.watch(client)
	m.undo = append(m.undo, m.health.close)
	return restored, nil
}

// startLoop makes the core, gives it what the store held, and lets it run.
func (m *Main) startLoop(restored core.Restored) {
	m.node = node.New(m.nodeConfig())
	l := loop.New(loop.Config{Node: m.node, Dispatch: m.dispatch, Observe: func(o loop.Observation) {
		m.metrics.Event(o.Event)
		m.metrics.Step(o.Lag, o.Step, o.Dispatch)
	}})
	l.Emit(restored) // the first event of a node
	m.loop.Store(l)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := l.Run(ctx); err != nil {
			m.crashed(err)
		}
	}()
	m.undo = append(m.undo, func() { cancel(); <-ended })
}

// settle waits until every shard has an owner: the first node takes them all, and until
// then nobody decides for a tenant. With other nodes there they have owners already.
func (m *Main) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if g, ok := m.look(); ok && g.Ownerless == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				m.log.Warn("some shards have no owner yet: their tenants' calls wait")
				return nil
			}
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// devRate is how many INVITEs and REGISTERs a second `dialtone dev` takes from one address.
const devRate = 1000

func (m *Main) nodeConfig() node.Config {
	cfg := node.Config{
		ID: m.identity.Node, Seed: chance(), NonceKey: chance(), Operator: core.HashKey(m.OperatorKey().Reveal()),
		Contact:   map[core.Transport]netip.AddrPort{core.UDP: m.SIP(core.UDP), core.TCP: m.SIP(core.TCP)},
		MediaAddr: m.cfg.MediaAddr, RingTimeout: m.cfg.RingTimeout, DrainWithin: m.cfg.DrainTimeout,
		MaxCalls: m.cfg.MaxCalls, SourceRate: m.cfg.SourceRate, RegisterRate: m.cfg.RegisterRate,
	}
	for _, transport := range []core.Transport{core.UDP, core.TCP} {
		if at, ok := m.cfg.Contact[transport]; ok {
			cfg.Contact[transport] = at
		}
	}
	// A call needs a port pair for each of its two legs: more calls could not talk.
	pairs := (int(m.cfg.RTP.To) - int(m.cfg.RTP.From) + 1) / 2
	cfg.MaxCalls = min(cmp.Or(cfg.MaxCalls, pairs/2), max(pairs/2, 1))
	if m.cfg.Command == config.Dev {
		cfg.Literal = demoTenant
		// Everybody is one address in dev, a load test included.
		cfg.SourceRate, cfg.RegisterRate = cmp.Or(cfg.SourceRate, devRate), cmp.Or(cfg.RegisterRate, devRate)
	}
	return cfg
}

func (m *Main) openAPI(history httpapi.History) {
	m.api = httpapi.New(httpapi.Config{
		Submit: m.emit, History: history, Ready: m.Ready, Metrics: m.metrics.Handler(), Log: m.log, Observe: m.metrics.HTTP,
	})
}

// serveHTTP answers the API.
func (m *Main) serveHTTP() {
	server := httpapi.Server("", m.api)
	server.ErrorLog = slog.NewLogLogger(m.log.Handler(), slog.LevelDebug)
	go func() {
		if err := server.Serve(m.http); !errors.Is(err, http.ErrServerClosed) {
			m.broke <- fmt.Errorf("the API's server ended: %w", err)
		}
	}()
	m.undo = append(m.undo, func() {
		m.api.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
}

// Close ends what Start began, in the reverse order: the API first, then SIP and media, then
// the loop, the records and the store.
func (m *Main) Close() {
	for len(m.undo) > 0 {
		last := m.undo[len(m.undo)-1]
		m.undo = m.undo[:len(m.undo)-1]
		last()
	}
}
