package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"brink/internal/sleep"
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

// remoteEngine is what the engines of databases elsewhere have in common. Leases and
// events go there too: the server that takes over must find them.
type remoteEngine struct{ *Store }

func (e remoteEngine) prepare() (err error) {
	e.remote, err = newRemote(e.cfg, e.log)
	return err
}

func (e remoteEngine) claim(ctx context.Context) error { return e.remote.claim(ctx) }
func (e remoteEngine) health() error                   { return e.remote.link.health() }

func (e remoteEngine) runVolatile(ctx context.Context, ready func()) error {
	return runNothing(ctx, ready)
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
			sleep.For(ctx, retryEvery)
		}
	}
	return nil
}

// whileHeld calls run, which needs the hold, and gives the hold back afterwards. run calls taken
// when another server has taken the hold, which ends its context.
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

// reach waits until the database answers. It returns an error if waiting is no use, as with a
// wrong password.
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
		sleep.For(ctx, retryEvery)
	}
	return ctx.Err()
}

// acquire takes the hold of a database that belongs to this cluster. rootCA returns an object
// that names the cluster's CA: a database that another program has filled, or an older brink,
// does not say to which cluster it belongs.
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
