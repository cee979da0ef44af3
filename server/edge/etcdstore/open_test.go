package etcdstore

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dialtone-cc/dialtone/server/core"
)

// oldServer says of itself that it is of an old version.
type oldServer struct {
	lineMaintenance
	version string
}

func (o oldServer) Status(context.Context, *pb.StatusRequest, ...grpc.CallOption) (*pb.StatusResponse, error) {
	if o.version == "" {
		return nil, status.Error(codes.Unavailable, "connection refused")
	}
	return &pb.StatusResponse{Version: o.version}, nil
}

func TestOldServerIsRefused(t *testing.T) {
	r := newRig(t)
	for version, want := range map[string]string{"3.5.27": "3.5.27", "3.4.30": "too old", "": "does not answer"} {
		r.client.Maintenance = clientv3.NewMaintenanceFromMaintenanceClient(oldServer{version: version}, r.client)
		_, _, err := Open(t.Context(), Config{Client: r.client, Node: "n1", Emit: newHeard().emit})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", version, err)
		}
	}
	if _, _, err := Open(t.Context(), Config{Client: r.client, Node: "a/b", Emit: newHeard().emit}); err == nil {
		t.Error("a node id with a slash was taken")
	}
}

// signalwire/freeswitch#1235: one record that makes no sense must not keep the others from
// being restored.
func TestRestoreReadsAllPagesAtOneRevision(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", quick())
	const n = 300
	for i := range n {
		s.Do(put(core.Token(i+1), core.TenantID(fmt.Sprint("t", i%3)), fmt.Sprintf("k/%03d", i), fmt.Sprint(i)))
	}
	h.awaitFinal(t, n, "stored")
	for _, key := range []string{"t/", "t/stray", "t//x", "t/a/", "t/a b/c", "t0/x", "u", "nodes/x"} {
		if _, err := r.plain.Put(t.Context(), key, "not ours"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.plain.Put(t.Context(), "t/t1/zero", ""); err != nil {
		t.Fatal(err)
	}
	// While it reads, every page finds a later revision.
	pages := &pager{KVClient: r.faults, after: func() {
		if _, err := r.plain.Put(context.Background(), "t/t2/k/299", "later"); err != nil {
			t.Error(err)
		}
	}}
	client := r.etcd.line.client()
	defer client.Close()
	client.KV = clientv3.NewKVFromKVClient(pages, client)
	entries, _, err := load(t.Context(), client, 7, logTo(r.log))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != n+3 || pages.n < 40 { // "nodes/n1" and "nodes/x" as well
		t.Fatalf("%d entries in %d pages", len(entries), pages.n)
	}
	seen := map[string]bool{}
	for i, e := range entries {
		if i > 0 && (entries[i-1].Tenant > e.Tenant || entries[i-1].Tenant == e.Tenant && entries[i-1].Key >= e.Key) {
			t.Errorf("%v after %v", e, entries[i-1])
		}
		if seen[e.Key] = true; string(e.Value) == "later" || e.Value == nil {
			t.Errorf("%s/%s is %q", e.Tenant, e.Key, e.Value)
		}
	}
	if len(seen) != n+3 {
		t.Errorf("%d different keys", len(seen))
	}
}

type pager struct {
	pb.KVClient
	n     int
	after func()
}

func (p *pager) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	reply, err := p.KVClient.Range(ctx, in, opts...)
	p.n++
	p.after()
	return reply, err
}
