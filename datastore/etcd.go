package datastore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	kinetls "github.com/k3s-io/kine/pkg/tls"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"brink/internal/sleep"
)

// etcdPlace returns the name of an etcd for messages.
func etcdPlace(endpoint string) string {
	parts := strings.Split(endpoint, ",")
	for i, part := range parts {
		if u, err := url.Parse(part); err == nil {
			parts[i] = u.Scheme + "://" + u.Host + u.Path // without a password, which etcd would not take there
		}
	}
	return strings.Join(parts, ",")
}

// etcdEngine is somebody's etcd, whose client the API server is itself.
type etcdEngine struct{ remoteEngine }

func (e etcdEngine) durableEndpoint() string  { return e.cfg.Endpoint }
func (e etcdEngine) volatileEndpoint() string { return e.durableEndpoint() }

// runDurable holds an etcd that somebody else runs, and watches whether it answers. The API
// server talks to it without brink in between. So a write is not refused when this server has
// lost the hold, as it is for a PostgreSQL: the server ends at the next renewal, when it finds
// out.
func (e etcdEngine) runDurable(ctx context.Context, ready func()) error {
	registry := &etcdRegistry{dial: e.cfg.dialEtcd, suspect: e.remote.link.suspect}
	defer registry.close()
	r := e.remote
	r.hold.registry = registry
	return r.whileHeld(ctx, func(ctx context.Context, taken func()) error {
		if err := r.acquireEtcd(ctx, registry); err != nil {
			return err
		}
		var keeping sync.WaitGroup
		keeping.Go(func() {
			if err := r.link.keep(ctx, r.hold.renew); errors.Is(err, errTaken) {
				taken()
			}
		})
		ready()
		<-ctx.Done()
		keeping.Wait()
		return nil
	})
}

// acquireEtcd waits until the etcd answers, and takes its hold.
func (r *remote) acquireEtcd(ctx context.Context, registry *etcdRegistry) error {
	for {
		err := r.reach(ctx, registry.ping)
		if err == nil {
			err = r.acquire(ctx, registry.rootCA)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case errors.Is(err, rpctypes.ErrPermissionDenied):
			return fmt.Errorf("the etcd at %s does not let this server write below /brink/, where it says whose it is: grant that to its user", r.link.place)
		case !worthWaiting(err):
			return err
		}
		r.link.lost(err)
		sleep.For(ctx, retryEvery)
	}
}

func (c Config) dialEtcd() (*clientv3.Client, error) {
	settings, err := kinetls.Config{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the datastore's TLS files: %w", err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: strings.Split(c.Endpoint, ","), TLS: settings, Logger: zap.NewNop(), MaxUnaryRetries: 1,
		DialKeepAliveTime: 2 * answerTime, DialKeepAliveTimeout: answerTime,
	})
	if err != nil {
		return nil, fmt.Errorf("datastore endpoint: %w", err)
	}
	return client, nil
}
