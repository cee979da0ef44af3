package etcdstore

import (
	"context"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// line connects a client with the member in the same process: function calls instead of
// sockets. The member behind it can be stopped and started; the client stays.
type line struct {
	member atomic.Pointer[member]
	scarce atomic.Bool // too little space on the disk: nothing may be written
}

// member is one run of the server.
type member struct {
	pb.KVClient
	pb.LeaseClient
	pb.WatchClient
	pb.MaintenanceClient
	server *etcdserver.EtcdServer
	ctx    context.Context // ends with the run
}

func newMember(ctx context.Context, s *etcdserver.EtcdServer) *member {
	return &member{
		KVClient:          adapter.KvServerToKvClient(v3rpc.NewQuotaKVServer(s)),
		LeaseClient:       adapter.LeaseServerToLeaseClient(v3rpc.NewQuotaLeaseServer(s)),
		WatchClient:       adapter.WatchServerToWatchClient(v3rpc.NewWatchServer(s)),
		MaintenanceClient: adapter.MaintenanceServerToMaintenanceClient(v3rpc.NewMaintenanceServer(s, nil)),
		server:            s,
		ctx:               ctx,
	}
}

// client returns a client that speaks through the line.
func (l *line) client() *clientv3.Client {
	c := clientv3.NewCtxClient(context.Background())
	none := unconnected{}
	c.KV = clientv3.NewKVFromKVClient(lineKV{pb.NewKVClient(none), l}, c)
	// One second stands for the client's default, as in etcd's own in-process client.
	c.Lease = clientv3.NewLeaseFromLeaseClient(lineLease{pb.NewLeaseClient(none), l}, c, time.Second)
	c.Watcher = lineWatcher{clientv3.NewWatchFromWatchClient(lineWatch{l}, c)}
	c.Maintenance = clientv3.NewMaintenanceFromMaintenanceClient(lineMaintenance{pb.NewMaintenanceClient(none), l}, c)
	c.Cluster = clientv3.NewClusterFromClusterClient(pb.NewClusterClient(none), c)
	c.Auth = clientv3.NewAuthFromAuthClient(pb.NewAuthClient(none), c)
	return c
}

// up returns the member and a context that ends with its run, or says that there is none.
func (l *line) up(ctx context.Context) (*member, context.Context, func(), error) {
	m := l.member.Load()
	if m == nil || m.ctx.Err() != nil {
		return nil, nil, nil, status.Error(codes.Unavailable, "the embedded etcd is stopped")
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(m.ctx, cancel)
	return m, ctx, func() { stop(); cancel() }, nil
}

// upToWrite is up for what needs space. Refusing here is what keeps the member alive: etcd
// ends its process when the disk is full.
func (l *line) upToWrite(ctx context.Context) (*member, context.Context, func(), error) {
	if l.scarce.Load() {
		return nil, nil, nil, status.Error(codes.ResourceExhausted, "too little space on the disk of the embedded etcd")
	}
	return l.up(ctx)
}

// unconnected answers the calls that the server never makes.
type unconnected struct{}

func (unconnected) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return status.Error(codes.Unimplemented, "not offered by the embedded etcd within the process")
}

func (unconnected) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "not offered by the embedded etcd within the process")
}

// The ends of the line at the client.
type (
	lineKV struct {
		pb.KVClient
		line *line
	}
	lineLease struct {
		pb.LeaseClient
		line *line
	}
	lineWatch       struct{ line *line }
	lineMaintenance struct {
		pb.MaintenanceClient
		line *line
	}
)

// relay carries one call over the line.
func relay[In, Out any](ctx context.Context, in In, opts []grpc.CallOption, up func(context.Context) (*member, context.Context, func(), error),
	call func(*member, context.Context, In, ...grpc.CallOption) (Out, error)) (Out, error) {
	m, ctx, done, err := up(ctx)
	if err != nil {
		var none Out
		return none, err
	}
	defer done()
	return call(m, ctx, in, opts...)
}

func (h lineKV) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	return relay(ctx, in, opts, h.line.up, (*member).Range)
}

func (h lineKV) Put(ctx context.Context, in *pb.PutRequest, opts ...grpc.CallOption) (*pb.PutResponse, error) {
	return relay(ctx, in, opts, h.line.upToWrite, (*member).Put)
}

func (h lineKV) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, opts ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return relay(ctx, in, opts, h.line.upToWrite, (*member).DeleteRange)
}

func (h lineKV) Txn(ctx context.Context, in *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	if onlyReads(in.Success) && onlyReads(in.Failure) {
		return relay(ctx, in, opts, h.line.up, (*member).Txn)
	}
	return relay(ctx, in, opts, h.line.upToWrite, (*member).Txn)
}

func (h lineKV) Compact(ctx context.Context, in *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return relay(ctx, in, opts, h.line.up, (*member).Compact)
}

func onlyReads(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		if op.GetRequestRange() == nil {
			return false
		}
	}
	return true
}

func (h lineLease) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
	return relay(ctx, in, opts, h.line.upToWrite, (*member).LeaseGrant)
}

func (h lineLease) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, opts ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
	return relay(ctx, in, opts, h.line.up, (*member).LeaseRevoke)
}

func (h lineLease) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, opts ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	return relay(ctx, in, opts, h.line.up, (*member).LeaseTimeToLive)
}

// LeaseKeepAlive opens a stream, which ends with the member's run.
func (h lineLease) LeaseKeepAlive(ctx context.Context, opts ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	m, ctx, done, err := h.line.up(ctx)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, done)
	return m.LeaseKeepAlive(ctx, opts...)
}

// Watch opens a stream, which ends with the member's run.
func (h lineWatch) Watch(ctx context.Context, opts ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	m, ctx, done, err := h.line.up(ctx)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, done)
	return m.Watch(ctx, opts...)
}

func (h lineMaintenance) Status(ctx context.Context, in *pb.StatusRequest, opts ...grpc.CallOption) (*pb.StatusResponse, error) {
	return relay(ctx, in, opts, h.line.up, (*member).Status)
}

func (h lineMaintenance) Alarm(ctx context.Context, in *pb.AlarmRequest, opts ...grpc.CallOption) (*pb.AlarmResponse, error) {
	return relay(ctx, in, opts, h.line.up, (*member).Alarm)
}

// Defragment asks the server itself: the service would tell its health checks, which a
// member without sockets has not.
func (h lineMaintenance) Defragment(ctx context.Context, _ *pb.DefragmentRequest, _ ...grpc.CallOption) (*pb.DefragmentResponse, error) {
	m, _, done, err := h.line.up(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return &pb.DefragmentResponse{}, m.server.Defragment()
}

// lineWatcher hides the values of a context: the watcher prints it as the key of a stream,
// which would race with whoever writes to them.
type lineWatcher struct{ clientv3.Watcher }

type blankContext struct{ context.Context }

func (blankContext) String() string { return "(blank)" }

func (w lineWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return w.Watcher.Watch(blankContext{ctx}, key, opts...)
}
