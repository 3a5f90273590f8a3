package datastore

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"brink/internal/rootsocket"
)

const (
	// maxRequest is etcd's limit, embed.DefaultMaxRequestBytes, and what gRPC
	// needs around it. The API server relies on it to refuse big objects.
	maxRequest = 1536<<10 + 512<<10
	// The API server has a connection for each of its 80 or so resources. gRPC
	// would give each 32 KiB to read into.
	readBuffer = 4 << 10
	// minPing is etcd's embed.DefaultGRPCKeepAliveMinTime.
	minPing = 5 * time.Second
	// drain is how long requests may still take at the end. Watches never end
	// by themselves.
	drain = time.Second
	// progressInterval is how often an idle watch hears how far the store is
	// without asking. etcd's default is 10 minutes; the API server asks itself
	// where it matters.
	progressInterval = time.Minute
)

func newGRPCServer() *grpc.Server {
	return grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing}),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.ReadBufferSize(readBuffer),
		grpc.SharedWriteBuffer(true),
	)
}

// serve answers on a socket until ctx is done. backend is started before;
// log is where watches read, nil to leave them to kine.
func (s *Store) serve(ctx context.Context, socket string, backend server.Backend, log history, ready func()) error {
	bridge := server.New(backend, "unix", progressInterval, version.Version)
	rpc := newGRPCServer()
	etcdserverpb.RegisterLeaseServer(rpc, bridge)
	etcdserverpb.RegisterKVServer(rpc, bridge)
	etcdserverpb.RegisterClusterServer(rpc, bridge)
	etcdserverpb.RegisterMaintenanceServer(rpc, bridge)
	healthpb.RegisterHealthServer(rpc, health.NewServer())

	watchCtx, stopWatches := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatches()
	if log == nil {
		etcdserverpb.RegisterWatchServer(rpc, bridge)
	} else {
		hub, err := newHub(watchCtx, log)
		if err != nil {
			return fmt.Errorf("starting watches: %w", err)
		}
		go hub.run(watchCtx)
		s.cutWith(socket, hub.restart)
		etcdserverpb.RegisterWatchServer(rpc, hub)
	}
	listener, err := rootsocket.Listen(s.socket(socket))
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- rpc.Serve(listener) }()
	ready()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", s.socket(socket), err)
	case <-ctx.Done():
	}
	stopWatches()
	timer := time.AfterFunc(drain, rpc.Stop)
	defer timer.Stop()
	rpc.GracefulStop()
	return nil
}

// opener opens and starts a database that lives until dbCtx is done.
type opener func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error)

// withDatabase serves what open returns. The database outlives ctx, as requests
// that are being answered need it; only opening, which kine tries for five
// minutes, ends with ctx.
func (s *Store) withDatabase(ctx context.Context, open opener, ready func()) error {
	dbCtx, closeDB := context.WithCancel(context.WithoutCancel(ctx))
	var closed sync.WaitGroup
	defer closed.Wait()
	defer closeDB()
	giveUp := context.AfterFunc(ctx, closeDB)
	backend, log, err := open(dbCtx, &closed)
	if !giveUp() {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if err := s.serve(ctx, durableSocket, backend, log, ready); err != nil {
		return err
	}
	s.endRevisions()
	return nil
}
