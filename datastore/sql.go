package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"
	"github.com/k3s-io/kine/pkg/ttl"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// DefaultMaxOpenConnections leaves room for others in PostgreSQL's default of
	// 100 and MySQL's of 151. A busy server uses a dozen.
	DefaultMaxOpenConnections = 40
	// maxIdleConnections stay open, for maxIdleTime.
	maxIdleConnections = 20
	maxIdleTime        = 5 * time.Minute
	// openTime is how long kine may take to make its tables in a database that
	// answers. It tries for five minutes what can be known at once.
	openTime = time.Minute
)

// remote is a database elsewhere.
type remote struct {
	endpoint endpoint // of a PostgreSQL or MySQL
	link     *link
	hold     *hold
	cluster  cluster
	claimed  string // the cluster that the database names
}

func newRemote(cfg Config, log *slog.Logger) (*remote, error) {
	r := &remote{}
	place := etcdPlace(cfg.Endpoint)
	if cfg.Served() {
		var err error
		if r.endpoint, err = cfg.parseEndpoint(); err != nil {
			return nil, err
		}
		place = r.endpoint.place
	}
	r.link = newLink(log, place)
	r.hold = &hold{log: log, place: place, node: cfg.NodeName, file: filepath.Join(cfg.Dir, holderFile), dead: holderDead}
	r.cluster = cluster{caFile: cfg.ServerCA, place: place}
	return r, r.hold.prepare()
}

// Claim writes into a database elsewhere to which cluster it belongs. It is
// called once the cluster has a CA and waits for the database if need be.
func (s *Store) Claim(ctx context.Context) error {
	if s.remote == nil {
		return nil
	}
	return s.remote.claim(ctx)
}

func (r *remote) claim(ctx context.Context) error {
	hash, _, err := r.cluster.hash()
	if err != nil {
		return err
	}
	for hash != "" && hash != r.claimed {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		ok, err := r.hold.registry.belong(asking, r.hold.name(), hash)
		cancel()
		switch {
		case err == nil && !ok:
			return fmt.Errorf("the database at %s: %w", r.link.place, errTaken)
		case err == nil:
			r.claimed = hash
		case !unanswered(err) || ctx.Err() != nil:
			return fmt.Errorf("writing the cluster's name to the database at %s: %w", r.link.place, oneLine(err))
		default:
			sleep(ctx, retryEvery)
		}
	}
	return nil
}

// runExternal serves PostgreSQL or MySQL.
func (s *Store) runExternal(ctx context.Context, ready func()) error {
	control := sql.OpenDB(s.remote.endpoint.connector)
	defer control.Close()
	control.SetMaxOpenConns(1)
	s.remote.hold.registry = sqlRegistry{control, s.remote.endpoint.mysql}
	s.unclean = s.remoteInUse()
	err := s.remote.whileHeld(ctx, func(ctx context.Context, taken func()) error {
		return s.withDatabase(ctx, func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error) {
			backend, err := s.openExternal(dbCtx, closed, control, taken)
			return backend, nil, err
		}, ready)
	})
	if err != nil || !s.settled {
		return err // the next start shall go on above what was reserved
	}
	return s.markRemoteClosed()
}

// whileHeld runs what needs the hold, and gives it back afterwards. Calling
// taken ends it.
func (r *remote) whileHeld(ctx context.Context, run func(ctx context.Context, taken func()) error) error {
	heldCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	err := run(heldCtx, func() { end(errTaken) })
	if errors.Is(context.Cause(heldCtx), errTaken) {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
		return r.hold.lost(asking)
	}
	r.hold.release()
	return err
}

// openExternal returns the database when it is there and this server's.
func (s *Store) openExternal(ctx context.Context, closed *sync.WaitGroup, control *sql.DB, taken func()) (server.Backend, error) {
	r := s.remote
	for {
		if err := r.reach(ctx, control.PingContext); err != nil {
			return nil, err
		}
		backend, err := s.tryExternal(ctx, closed, control, taken)
		switch {
		case err == nil:
			return backend, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !worthWaiting(err):
			return nil, oneLine(err)
		}
		r.link.lost(err)
	}
}

// reach waits until the database answers, and fails if it never will.
func (r *remote) reach(ctx context.Context, ping func(context.Context) error) error {
	for ctx.Err() == nil {
		err := r.link.ask(ctx, func(ctx context.Context) error {
			err := ping(ctx)
			if !answered(err, missing, missingMySQL) {
				return err
			}
			if r.endpoint.create != nil {
				return r.endpoint.create(ctx)
			}
			return nil // kine makes it
		})
		switch {
		case err == nil:
			return nil
		case !worthWaiting(err):
			return fmt.Errorf("connecting to the database at %s: %w", r.link.place, oneLine(err))
		}
		sleep(ctx, retryEvery)
	}
	return ctx.Err()
}

// tryExternal opens a database that was there a moment ago. What it has opened
// is closed when it fails.
func (s *Store) tryExternal(ctx context.Context, closed *sync.WaitGroup, control *sql.DB, taken func()) (backend server.Backend, err error) {
	r := s.remote
	dbCtx, shut := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			shut()
		}
	}()
	cfg := s.driverConfig()
	dialect, err := openDialect(dbCtx, shut, closed, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database at %s: %w", r.link.place, err)
	}
	if err := checkCollation(dbCtx, dialect.DB, r.endpoint.mysql, r.link.place); err != nil {
		return nil, err
	}
	if err := r.acquire(dbCtx, sqlRegistry{control, r.endpoint.mysql}.rootCA); err != nil {
		return nil, err
	}
	closed.Go(func() {
		if err := r.link.keep(dbCtx, r.hold.renew); errors.Is(err, errTaken) {
			taken()
		}
	})
	external := newExternalDialect(dialect, r.link, r.hold)
	log := newLogOver(external, dialect, cfg)
	if err := s.beginRemote(dbCtx, log); err != nil {
		return nil, fmt.Errorf("starting the database at %s: %w", r.link.place, err)
	}
	store := logstructured.New(log)
	if err := startLog(dbCtx, log, store); err != nil {
		return nil, fmt.Errorf("starting the database at %s: %w", r.link.place, err)
	}
	go s.maintainExternal(dbCtx, &externalStore{log, external})
	guard := &guardedExternal{guarded: guarded{Backend: &gated{store, r.link}}}
	s.cutWith(durableSocket, func(int64) { guard.cuts.cutAll() })
	return guard, nil
}

// acquire takes the hold of a database that is this cluster's. rootCA returns
// the object that names the CA of a database that does not say whose it is.
func (r *remote) acquire(ctx context.Context, rootCA func(context.Context) ([]byte, error)) error {
	return r.hold.acquire(ctx, func(ctx context.Context, c claim) error {
		var found []byte
		if c.cluster == "" {
			var err error
			if found, err = rootCA(ctx); err != nil {
				return err
			}
		}
		r.claimed = c.cluster
		return r.cluster.owns(c.cluster, found)
	})
}

// openDialect has kine's driver connect and make its table.
func openDialect(ctx context.Context, shut context.CancelFunc, closed *sync.WaitGroup, cfg *drivers.Config) (*generic.Generic, error) {
	giveUp := time.AfterFunc(openTime, shut)
	defer giveUp.Stop()
	_, backend, err := drivers.New(ctx, closed, cfg)
	if err != nil {
		return nil, err
	}
	return dialectOf(backend)
}

// startLog does what kine's own start does, but takes objects that have expired
// up again after an error: kine's loop ends with the first one.
func startLog(ctx context.Context, log *checkedLog, store server.Backend) error {
	if err := log.Start(ctx); err != nil {
		return err
	}
	if _, err := store.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0); err != nil && err != server.ErrKeyExists {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			ttl.Run(ctx, store)
			sleep(ctx, retryEvery)
		}
	}()
	return nil
}

// driverConfig has kine's own defaults; the drivers have none.
func (s *Store) driverConfig() *drivers.Config {
	limit := s.cfg.MaxOpenConnections
	if limit == 0 {
		limit = DefaultMaxOpenConnections
	}
	return &drivers.Config{
		Endpoint:         s.cfg.Endpoint,
		BackendTLSConfig: tls.Config{CAFile: s.cfg.CAFile, CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile},
		ConnectionPoolConfig: generic.ConnectionPoolConfig{
			MaxOpen: limit, MaxIdle: min(limit, maxIdleConnections), MaxIdleTime: maxIdleTime,
		},
		CompactBatchSize: compactBatch, // without an interval kine compacts nothing, but it checks the batch
		PollBatchSize:    pollBatch,
	}
}

// externalStore is what a compactor needs of a PostgreSQL or MySQL.
type externalStore struct {
	log     *checkedLog
	dialect *externalDialect
}

func (s *externalStore) CurrentRevision(ctx context.Context) (int64, error) {
	return s.log.CurrentRevision(ctx)
}

func (s *externalStore) compacted(ctx context.Context) (int64, error) {
	return s.dialect.GetCompactRevision(ctx)
}

func (s *externalStore) compactTo(ctx context.Context, revision int64) error {
	return s.dialect.one(ctx, func(ctx context.Context) error {
		return compactTo(ctx, s.dialect.BeginTx, revision)
	})
}

// maintainExternal removes old revisions until ctx is done.
func (s *Store) maintainExternal(ctx context.Context, store *externalStore) {
	c := compactor{store: store}
	tick := time.NewTicker(s.compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := c.tick(ctx); err != nil && !errors.Is(err, context.Canceled) {
				s.log.Warn("compaction failed, trying again", "error", oneLine(err), "in", s.compactEvery)
			}
		}
	}
}

// guardedExternal is guarded for PostgreSQL and MySQL, where kine's own watches
// and polling do the work.
type guardedExternal struct {
	guarded
	cuts cuts
}

// errLost stands for an error that kine took for a conflict: it says that the
// revision is not the wanted one, and returns the wanted one. The database is not away,
// so the text must not have AwayText in it: lines with that are not logged.
var errLost = status.Error(codes.Unavailable, "datastore: a write was refused by the database; see its log")

func (g *guardedExternal) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	return withoutGap(g.guarded.Watch(g.cuts.context(ctx), key, end, revision))
}

func (g *guardedExternal) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := g.guarded.Update(ctx, key, value, revision, lease)
	if err == nil && !ok && kv != nil && kv.ModRevision == revision && key != compactRevKey {
		err = errLost
	}
	return rev, kv, ok, err
}

func (g *guardedExternal) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := g.guarded.Delete(ctx, key, revision)
	if err == nil && !ok && kv != nil && kv.ModRevision == revision {
		err = errLost
	}
	return rev, kv, ok, err
}
