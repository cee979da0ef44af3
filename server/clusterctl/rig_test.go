package clusterctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
)

// What the tests listen on: addresses of their own, so that ports need not be.
const (
	storeAddress = "127.61.0.1:2379"
	storePeer    = "127.61.0.1:2380"
)

// standInVariable makes the test binary the program `dialtone`, as far as `cluster up` needs
// it: etcd is the real one, and a node is a stand-in. Its value says what a stand-in does.
const standInVariable = "CLUSTERCTL_STAND_IN"

func TestMain(m *testing.M) {
	if what := os.Getenv(standInVariable); what != "" {
		os.Exit(standIn(what, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func standIn(what string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch args[0] {
	case "etcd":
		return Etcd(ctx, args[1:], os.Stdout, os.Stderr)
	case "cluster":
		return Command(ctx, args[1:], os.Environ(), os.Stdout, os.Stderr)
	case "server":
		return standInNode(ctx, what, args[1:])
	}
	return 99
}

// standInNode reads its file as a node does, is ready, and keeps what the API is given.
func standInNode(ctx context.Context, what string, args []string) int {
	cfg, err := config.Parse(config.Server, args, os.Environ(), os.Stdout)
	if err != nil {
		fmt.Println("refused:", err)
		return 2
	}
	if what == "fail-"+string(cfg.Node) {
		fmt.Println("this node was told to fail")
		return 1
	}
	for _, pair := range os.Environ() {
		if strings.HasPrefix(pair, "DIALTONE_") {
			fmt.Println("a variable of whoever called has come here:", pair)
			return 1
		}
	}
	var mu sync.Mutex
	known := map[string]bool{}
	asked := 0
	server := &http.Server{Addr: cfg.HTTP.String(), Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		path := q.URL.Path
		asked++
		switch {
		case path == "/readyz":
		case asked%7 == 0: // its shard has no owner at the moment
			w.WriteHeader(http.StatusServiceUnavailable)
		case q.Header.Get("Authorization") != "Bearer "+cfg.OperatorKey.Reveal():
			w.WriteHeader(http.StatusUnauthorized)
		case q.Method == http.MethodGet && !known[path]:
			w.WriteHeader(http.StatusNotFound)
		case q.Method == http.MethodPost:
			known[path+"/"+demoTenant] = true
			w.WriteHeader(http.StatusCreated)
		case q.Method == http.MethodPut:
			known[path] = true
			w.WriteHeader(http.StatusCreated)
		}
	})}
	go func() {
		<-ctx.Done()
		fmt.Println("told to end")
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Println(err)
		return 1
	}
	return 0
}

// store is one etcd for all tests of the package that only write records, since a start takes
// a second. Each begins with nothing in it.
var store struct {
	once   sync.Once
	client *clientv3.Client
	err    error
}

func newStore(t *testing.T) *clientv3.Client {
	t.Helper()
	store.once.Do(func() {
		dir, err := os.MkdirTemp("", "clusterctl-etcd-")
		if err != nil {
			store.err = err
			return
		}
		_, store.err = etcdstore.StartMember(context.Background(), etcdstore.MemberConfig{Name: "e1", Dir: dir,
			Client: netip.MustParseAddrPort(storeAddress), Cluster: map[string]netip.AddrPort{"e1": netip.MustParseAddrPort(storePeer)}})
		if store.err == nil {
			store.client, store.err = clientv3.New(clientv3.Config{Endpoints: []string{storeAddress}, Logger: zap.NewNop()})
		}
		_ = os.RemoveAll(dir) // its files stay open while this process lives
	})
	if store.err != nil {
		t.Fatal(store.err)
	}
	if _, err := store.client.Delete(t.Context(), "", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	return store.client
}

// world writes records by hand.
type world struct {
	t      *testing.T
	client *clientv3.Client
	lives  map[core.NodeID]core.Revision
}

func newWorld(t *testing.T) *world { return &world{t, newStore(t), map[core.NodeID]core.Revision{}} }

func (w *world) put(key string, value []byte) core.Revision {
	w.t.Helper()
	reply, err := w.client.Put(w.t.Context(), key, string(value))
	if err != nil {
		w.t.Fatal(err)
	}
	return core.Revision(reply.Header.Revision)
}

func (w *world) remove(key string) {
	w.t.Helper()
	if _, err := w.client.Delete(w.t.Context(), key); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) node(name core.NodeID) {
	w.lives[name] = w.put(cluster.NodeKey(name), cluster.NodeRecord{Peer: netip.MustParseAddrPort("127.61.9.9:7946"), Version: "1.2.3",
		StartedAt: core.Time(time.Now().Add(-90 * time.Minute).UnixNano())}.Encode())
}

func (w *world) shards(owner core.NodeID, from, to int) {
	for i := from; i <= to; i++ {
		w.put(cluster.ShardKey(i), cluster.ShardRecord{Owner: owner, Incarnation: w.lives[owner]}.Encode())
	}
}

func (w *world) calls(tenant, anchor string, incarnation core.Revision, n int) {
	for i := range n {
		id := core.InteractionID(fmt.Sprintf("%s-%d-%d", anchor, incarnation, i))
		c := &call.Call{ID: id, Tenant: core.TenantID(tenant), Node: core.NodeID(anchor), Incarnation: incarnation, Phase: call.Queued}
		w.put("t/"+tenant+"/calls/"+string(id), c.Encode())
	}
}

func (w *world) claim(of core.NodeID, incarnation core.Revision, by core.NodeID, survivors ...core.NodeID) {
	r := cluster.ClaimRecord{By: by}
	for _, s := range survivors {
		r.Survivors = append(r.Survivors, cluster.Process{ID: s, Incarnation: w.lives[s]})
	}
	w.put(fmt.Sprintf("claims/%s/%d", of, incarnation), r.Encode())
}

// healthy is three nodes that share the shards.
func healthy(t *testing.T) *world {
	w := newWorld(t)
	for i, name := range []core.NodeID{"n1", "n2", "n10"} {
		w.node(name)
		w.shards(name, 21*i, 21*i+20)
	}
	w.shards("n1", 63, 63)
	return w
}

// typed is what a command has answered.
type typed struct {
	code             int
	stdout, stderr   string
	report           report
	t                *testing.T
	environ, command []string
}

func typeIn(t *testing.T, args ...string) typed {
	t.Helper()
	return typeWith(t, []string{"DIALTONE_ETCD_ENDPOINTS=" + storeAddress}, args...)
}

func typeWith(t *testing.T, environ []string, args ...string) typed {
	t.Helper()
	var stdout, stderr bytes.Buffer
	got := typed{t: t, environ: environ, command: args}
	got.code = Command(t.Context(), args, environ, &stdout, &stderr)
	got.stdout, got.stderr = stdout.String(), stderr.String()
	if slices.Contains(args, "--json") && len(got.stdout) > 0 && args[0] == "status" {
		if err := json.Unmarshal(stdout.Bytes(), &got.report); err != nil {
			t.Errorf("not one JSON object: %v\n%s", err, got.stdout)
		}
	}
	return got
}

// wants checks the exit code, and that all texts are somewhere in what was printed.
func (g typed) wants(code int, texts ...string) {
	g.t.Helper()
	if g.code != code {
		g.t.Errorf("%v: exit code %d, want %d\n%s%s", g.command, g.code, code, g.stdout, g.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(g.stdout+g.stderr, text) {
			g.t.Errorf("%v: %q is missing in\n%s%s", g.command, text, g.stdout, g.stderr)
		}
	}
}

// watched is a buffer that others may wait on.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// patience is for a loaded machine: what is waited for comes long before as a rule.
const patience = 2 * time.Minute

func (w *watched) await(t *testing.T, text string) string {
	t.Helper()
	eventually(t, "output with "+text, func() bool { return strings.Contains(w.String(), text) }, w.String)
	return w.String()
}

func eventually(t *testing.T, what string, holds func() bool, shown func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s\n%s", what, patience, shown())
		}
	}
}

// settled checks that `cluster up` leaves no goroutine behind. Those of etcd, which tests run in
// this process, come and go.
func settled(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		left := func() string {
			stacks := make([]byte, 4<<20)
			for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
				if strings.Contains(stack, "clusterctl.newSpawner") || strings.Contains(stack, "(*spawner)") || strings.Contains(stack, "(*processes)") {
					return stack
				}
			}
			return ""
		}
		eventually(t, "no goroutine is left", func() bool { return left() == "" }, left)
	})
}

func fileText(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
