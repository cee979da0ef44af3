package etcdstore

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dialtone-cc/dialtone/server/core"
)

func TestMain(m *testing.M) {
	// etcd allots 64 MB at a time for its log; the tests with small disks can't have that.
	wal.SegmentSizeBytes = 2 << 20
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	if os.Getenv(ownerEnv) != "" {
		owner()
		return
	}
	goleak.VerifyTestMain(m)
}

// quick is a pace at which a test needs not wait.
func quick() pace {
	return pace{attempt: 60 * time.Millisecond, warn: 20 * time.Millisecond, firstBackoff: time.Millisecond, lastBackoff: 20 * time.Millisecond,
		versions: versionsEvery}
}

// rig is one embedded member, a client of it with faults, and what a Store emitted.
type rig struct {
	t      testing.TB
	etcd   *Embedded
	plain  *clientv3.Client // without faults
	client *clientv3.Client
	faults *faults
	log    *syncBuffer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	log := &syncBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	e, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), Log: logTo(log), MinFree: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	f := &faults{KVClient: lineKV{line: &e.line}}
	client := e.line.client()
	client.KV = clientv3.NewKVFromKVClient(f, client)
	t.Cleanup(func() { f.flush(); client.Close() })
	return &rig{t: t, etcd: e, plain: e.Client(), client: client, faults: f, log: log}
}

func logTo(w *syncBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// open opens a Store of the node and closes it at the end of the test.
func (r *rig) open(node core.NodeID, p pace) (*Store, *heard) {
	r.t.Helper()
	h := newHeard()
	s, _, err := Open(r.t.Context(), Config{Client: r.client, Node: node, Emit: h.emit, Log: logTo(r.log), pace: p})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		r.faults.set(nil)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s, h
}

// value returns what etcd holds of a tenant's key, "" for nothing.
func (r *rig) value(tenant core.TenantID, key string) string {
	r.t.Helper()
	full, err := tenantKey(tenant, key)
	if err != nil {
		r.t.Fatal(err)
	}
	reply, err := r.plain.Get(context.Background(), full)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(reply.Kvs) == 0 {
		return ""
	}
	return string(reply.Kvs[0].Value)
}

func put(token core.Token, tenant core.TenantID, pairs ...string) core.Store {
	st := core.Store{Token: token, Tenant: tenant}
	for i := 0; i < len(pairs); i += 2 {
		st.Ops = append(st.Ops, core.Op{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return st
}

// heard is what a Store emitted, in order. It can play a full inbox.
type heard struct {
	mu     sync.Mutex
	events []core.Event // but for Watched
	told   []core.Watched
	own    map[core.Token]int    // how many Watched had come when a token had its final outcome
	said   map[core.Token]string // final outcome
	warned map[core.Token]bool   // Unknown
	wrong  string                // the first breach of "at most one Unknown, then one final outcome"
	full   func() bool
	more   chan struct{}
}

func newHeard() *heard {
	return &heard{more: make(chan struct{}, 1), said: map[core.Token]string{}, own: map[core.Token]int{}, warned: map[core.Token]bool{}}
}

func (h *heard) emit(ev core.Event) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full != nil && h.full() {
		return false
	}
	if ev, ok := ev.(core.Watched); ok {
		h.told = append(h.told, ev)
		h.ring()
		return true
	}
	h.events = append(h.events, ev)
	token, said := outcome(ev)
	switch was := h.said[token]; {
	case was != "" || said == "unknown" && h.warned[token]:
		h.wrong = fmt.Sprintf("token %d: %s after %s (unknown %v)", token, said, was, h.warned[token])
	case said == "unknown":
		h.warned[token] = true
	default:
		h.said[token], h.own[token] = said, len(h.told)
	}
	h.ring()
	return true
}

func (h *heard) ring() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

func (h *heard) watched() []core.Watched {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]core.Watched(nil), h.told...)
}

// outcome is what the Store said of one token.
func outcome(ev core.Event) (core.Token, string) {
	switch ev := ev.(type) {
	case core.Stored:
		return ev.Token, "stored"
	case core.Conflict:
		return ev.Token, "conflict"
	case core.Fenced:
		return ev.Token, "fenced"
	case core.Unknown:
		return ev.Token, "unknown"
	default:
		panic(fmt.Sprintf("unexpected event %T", ev))
	}
}

func (h *heard) all() []core.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]core.Event(nil), h.events...)
}

// final returns the final outcome of each token; it fails on a second one, and on an
// Unknown that comes twice or after the final one.
func (h *heard) final(t fataler) map[core.Token]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong != "" {
		t.Fatalf("%s", h.wrong)
	}
	return maps.Clone(h.said)
}

type fataler interface{ Fatalf(string, ...any) }

type waiter interface {
	fataler
	Helper()
}

// awaitFinal waits for the final outcome of a token and compares it.
func (h *heard) awaitFinal(t testing.TB, token core.Token, want string) {
	t.Helper()
	got := ""
	h.await(t, fmt.Sprintf("the outcome of token %d", token), func() bool { got = h.said[token]; return got != "" })
	if got != want {
		t.Fatalf("token %d: %s, want %s", token, got, want)
	}
}

func (h *heard) awaitUnknown(t testing.TB, token core.Token) {
	t.Helper()
	h.await(t, fmt.Sprintf("Unknown of token %d", token), func() bool { return h.warned[token] })
}

// await waits until cond holds; it is called under the lock.
func (h *heard) await(t waiter, what string, cond func() bool) {
	t.Helper()
	holds := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return cond()
	}
	for deadline := time.After(30 * time.Second); !holds(); {
		select {
		case <-h.more:
		case <-deadline:
			t.Fatalf("waited 30 s for %s; %d events came", what, len(h.all()))
		}
	}
}

// until waits for a condition outside of the events.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

// fault is what happens to one Txn that writes.
type fault string

const (
	noFault    fault = ""
	lostAsk    fault = "request lost"            // never executed
	lostReply  fault = "reply lost"              // executed, the client sees an error
	noSpace    fault = "no space"                // not executed, as a definite-looking error
	silent     fault = "silent"                  // never executed, no answer until the deadline
	late       fault = "late"                    // deadline first, executed at flush
	twice      fault = "twice"                   // executed, answered, and executed again at flush
	badForm    fault = "bad form"                // refused for its form
	newLeader  fault = "executed, leader change" // executed, the error says that the leader changed
	stallReply fault = "reply stalls"            // executed, no answer until the deadline
)

// faults is a KV client between Store and server. Reads pass unless away is set.
type faults struct {
	pb.KVClient
	mu     sync.Mutex
	choose func(*pb.TxnRequest) fault
	away   bool // nothing answers, reads neither
	held   []*pb.TxnRequest
	asked  int              // Txns, reads included
	txns   []*pb.TxnRequest // executed ones that wrote for a tenant
}

func (f *faults) set(choose func(*pb.TxnRequest) fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.choose, f.away = choose, false
}

func (f *faults) setAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

// flush delivers what was held back: the late duplicates.
func (f *faults) flush() int {
	f.mu.Lock()
	held := f.held
	f.held = nil
	f.mu.Unlock()
	applied := 0
	for _, in := range held {
		if reply, err := f.KVClient.Txn(context.Background(), in); err == nil && reply.Succeeded {
			applied++
		}
	}
	return applied
}

func (f *faults) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *faults) hold(in *pb.TxnRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = append(f.held, in)
}

func (f *faults) batches() []*pb.TxnRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*pb.TxnRequest(nil), f.txns...)
}

func (f *faults) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	f.mu.Lock()
	kind := noFault
	f.asked++
	switch {
	case f.away:
		kind = lostAsk
	case f.choose != nil && !onlyReads(in.Success):
		kind = f.choose(in)
	}
	f.mu.Unlock()
	switch kind {
	case lostAsk:
		return nil, status.Error(codes.Unavailable, "connection lost")
	case noSpace:
		return nil, rpctypes.ErrGRPCNoSpace
	case badForm:
		return nil, rpctypes.ErrGRPCTooManyOps
	case late:
		f.hold(in)
		fallthrough
	case silent:
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case twice:
		defer f.hold(in)
	}
	reply, err := f.KVClient.Txn(ctx, in, opts...)
	if err == nil && reply.Succeeded && bytes.HasPrefix(in.Success[0].GetRequestPut().GetKey(), []byte(tenantRoot)) {
		f.mu.Lock()
		f.txns = append(f.txns, in)
		f.mu.Unlock()
	}
	switch kind {
	case lostReply:
		return nil, status.Error(codes.Unavailable, "connection lost")
	case newLeader:
		return nil, rpctypes.ErrGRPCLeaderChanged
	case stallReply:
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return reply, err
}

// once applies a fault to the first Txn that follows.
func once(kind fault) func(*pb.TxnRequest) fault { return times(1, kind) }

// times applies a fault to the next n Txns.
func times(n int, kind fault) func(*pb.TxnRequest) fault {
	return func(*pb.TxnRequest) fault {
		if n == 0 {
			return noFault
		}
		n--
		return kind
	}
}

// syncBuffer is a buffer for logs of several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
