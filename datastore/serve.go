package datastore

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

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

// runSQLite serves the durable store.
func (s *Store) runSQLite(ctx context.Context, ready func()) error {
	err := s.withDatabase(ctx, func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error) {
		store, err := openSQLite(dbCtx, closed, s.database(), s.disk)
		if err != nil {
			return nil, nil, fmt.Errorf("opening database %s: %w", s.database(), err)
		}
		if err := s.beginSQLite(dbCtx, store); err != nil {
			return nil, nil, fmt.Errorf("starting database %s: %w", s.database(), err)
		}
		go store.maintain(dbCtx, s.compactEvery)
		return &guarded{Backend: store.Backend}, store, nil
	}, ready)
	if err != nil || s.disk.health() != nil {
		return err // the next start shall check the file
	}
	return s.markClosed()
}

// beginSQLite makes the log ready. The mark comes after the first write: from then on
// there is a WAL, and a start that finds the mark but no WAL knows that one was lost.
func (s *Store) beginSQLite(ctx context.Context, store *sqliteStore) error {
	store.log.ceiling = s.ceiling
	if err := s.beginRevisions(ctx, store.log); err != nil {
		return err
	}
	// The time to live loop and the log's reader are started here.
	if err := store.Start(ctx); err != nil {
		return err
	}
	if err := store.probe(ctx); err != nil {
		return err
	}
	return s.markInUse()
}

// runExternal serves PostgreSQL or MySQL. Several servers may share it, so
// kine's own watches, polling and compaction do the work.
func (s *Store) runExternal(ctx context.Context, ready func()) error {
	s.log.Info("connecting to the external database")
	return s.withDatabase(ctx, func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error) {
		backend, err := openExternal(dbCtx, closed, s.driverConfig())
		if err != nil {
			return nil, nil, fmt.Errorf("connecting to the datastore endpoint: %w", err)
		}
		if err := backend.Start(dbCtx); err != nil {
			return nil, nil, fmt.Errorf("starting the datastore endpoint: %w", err)
		}
		return &guardedExternal{backend}, nil, nil
	}, ready)
}

// openExternal has kine's driver connect and make its table, and puts a log
// over it that does not lose read errors.
func openExternal(ctx context.Context, closed *sync.WaitGroup, cfg *drivers.Config) (server.Backend, error) {
	_, backend, err := drivers.New(ctx, closed, cfg)
	if err != nil {
		return nil, err
	}
	dialect, err := dialectOf(backend)
	if err != nil {
		return nil, err
	}
	return logstructured.New(newCheckedLog(dialect, cfg)), nil
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

// driverConfig has kine's own defaults; the drivers have none.
func (s *Store) driverConfig() *drivers.Config {
	return &drivers.Config{
		Endpoint:              s.cfg.Endpoint,
		BackendTLSConfig:      tls.Config{CAFile: s.cfg.CAFile, CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile},
		CompactInterval:       compactInterval,
		CompactIntervalJitter: 10, // servers should not all begin at once
		CompactTimeout:        5 * time.Second,
		CompactMinRetain:      1000,
		CompactBatchSize:      1000,
		PollBatchSize:         pollBatch,
	}
}

// guardedExternal turns errors into statuses, which also keeps kine from
// logging requests with the secrets in them.
type guardedExternal struct{ server.Backend }

// errLost stands for an error that kine took for a conflict: it says that the
// revision is not the wanted one, and returns the wanted one.
var errLost = status.Error(codes.Unavailable, "datastore: the database refused the write; see its log")

func (g *guardedExternal) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	rev, kv, err := g.Backend.Get(ctx, key, revision, keysOnly)
	return rev, kv, toStatus(err)
}

func (g *guardedExternal) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	rev, kvs, err := g.Backend.List(ctx, key, end, limit, revision, keysOnly)
	return rev, kvs, toStatus(err)
}

func (g *guardedExternal) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	rev, count, err := g.Backend.Count(ctx, key, end, revision)
	return rev, count, toStatus(err)
}

func (g *guardedExternal) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	return withoutGap(g.Backend.Watch(ctx, key, end, revision))
}

func (g *guardedExternal) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	rev, err := g.Backend.Create(ctx, key, value, lease)
	return rev, toStatus(err)
}

func (g *guardedExternal) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := g.Backend.Update(ctx, key, value, revision, lease)
	if err == nil && !ok && kv != nil && kv.ModRevision == revision {
		err = errLost
	}
	return rev, kv, ok, toStatus(err)
}

func (g *guardedExternal) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := g.Backend.Delete(ctx, key, revision)
	if err == nil && !ok && kv != nil && kv.ModRevision == revision {
		err = errLost
	}
	return rev, kv, ok, toStatus(err)
}
