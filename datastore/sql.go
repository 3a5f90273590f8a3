package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"
	"github.com/k3s-io/kine/pkg/ttl"

	// The databases a user can choose with Endpoint. kine's endpoint package
	// would link NATS and t4 as well.
	_ "github.com/k3s-io/kine/pkg/drivers/mysql"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql"

	"brink/internal/sleep"
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

// sqlEngine is a PostgreSQL or MySQL under kine.
type sqlEngine struct{ remoteEngine }

func (s sqlEngine) durableEndpoint() string  { return "unix://" + s.socket(durableSocket) }
func (s sqlEngine) volatileEndpoint() string { return s.durableEndpoint() }

func (s sqlEngine) runDurable(ctx context.Context, ready func()) error {
	control := sql.OpenDB(s.remote.endpoint.connector)
	defer control.Close()
	control.SetMaxOpenConns(1)
	s.remote.hold.registry = sqlRegistry{control, s.remote.endpoint.mysql}
	s.unclean = s.remoteInUse()
	err := s.remote.whileHeld(ctx, func(ctx context.Context, taken func()) error {
		return s.withDatabase(ctx, func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error) {
			backend, err := s.open(dbCtx, closed, control, taken)
			return backend, nil, err
		}, ready)
	})
	if err != nil || !s.settled {
		return err // the next start goes on above what was reserved
	}
	return s.markRemoteClosed()
}

// open waits until the database answers, takes its hold and opens it.
func (s sqlEngine) open(ctx context.Context, closed *sync.WaitGroup, control *sql.DB, taken func()) (server.Backend, error) {
	r := s.remote
	for {
		if err := r.reach(ctx, control.PingContext); err != nil {
			return nil, err
		}
		backend, err := s.tryOpen(ctx, closed, control, taken)
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

// tryOpen opens a database that has answered a moment ago. After an error nothing stays open.
func (s sqlEngine) tryOpen(ctx context.Context, closed *sync.WaitGroup, control *sql.DB, taken func()) (backend server.Backend, err error) {
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
	go s.maintain(dbCtx, &externalStore{log, external})
	answering := &sqlGuard{guard: guard{Backend: store, link: r.link}}
	s.cutWith(durableSocket, func(int64) { answering.cuts.cutAll() })
	return answering, nil
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

// startLog does what kine's own start does, but goes on to remove expired objects after an
// error: kine's loop ends with the first one.
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
			sleep.For(ctx, retryEvery)
		}
	}()
	return nil
}

// driverConfig has kine's own defaults; the drivers have none.
func (s sqlEngine) driverConfig() *drivers.Config {
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
