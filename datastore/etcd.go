package datastore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	kinetls "github.com/k3s-io/kine/pkg/tls"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Keys of brink in somebody's etcd, beside those of the API server.
const (
	etcdCluster = "/brink/cluster"
	etcdHolder  = "/brink/holder"
	etcdNode    = "/brink/node"
	etcdRenewed = "/brink/renewed" // written with every change of the others
)

// etcdPlace names an etcd for people.
func etcdPlace(endpoint string) string {
	parts := strings.Split(endpoint, ",")
	for i, part := range parts {
		if u, err := url.Parse(part); err == nil {
			parts[i] = u.Scheme + "://" + u.Host + u.Path // without a password, which etcd would not take there
		}
	}
	return strings.Join(parts, ",")
}

// runEtcd holds somebody's etcd and watches over it. The API server is its
// client itself: that it writes only while this server holds it is not enforced
// for each write, as it is for a PostgreSQL, but a server that lost its hold ends
// when it finds out, at the next renewal.
func (s *Store) runEtcd(ctx context.Context, ready func()) error {
	registry := &etcdRegistry{dial: s.cfg.dialEtcd}
	defer registry.close()
	r := s.remote
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

// acquireEtcd waits until the etcd is there and this server's.
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
		sleep(ctx, retryEvery)
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

// etcdRegistry is the claim on an etcd. The counter is the revision of the key
// that every change writes; etcd has no clock to tell its age by.
//
// A client that has had no answer is given up for a fresh one: gRPC may spend half a
// minute with a connection that was begun while the etcd started.
type etcdRegistry struct {
	dial func() (*clientv3.Client, error)

	mu     sync.Mutex
	client *clientv3.Client
}

// with calls do with a client.
func (r *etcdRegistry) with(do func(*clientv3.Client) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client == nil {
		client, err := r.dial()
		if err != nil {
			return err
		}
		r.client = client
	}
	err := do(r.client)
	if err != nil && etcdUnanswered(err) {
		r.closeLocked()
	}
	return err
}

func (r *etcdRegistry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked()
}

func (r *etcdRegistry) closeLocked() {
	if r.client != nil {
		_ = r.client.Close()
		r.client = nil
	}
}

func (r *etcdRegistry) get(ctx context.Context, key string, opts ...clientv3.OpOption) (got *clientv3.GetResponse, err error) {
	err = r.with(func(client *clientv3.Client) error {
		got, err = client.Get(ctx, key, opts...)
		return err
	})
	return got, err
}

func (r *etcdRegistry) ping(ctx context.Context) error {
	_, err := r.get(ctx, etcdRenewed) // asks a majority, as a write would
	return err
}

func (r *etcdRegistry) read(ctx context.Context) (claim, error) {
	got, err := r.get(ctx, "/brink/", clientv3.WithPrefix())
	if err != nil {
		return claim{}, err
	}
	c := claim{age: unknownAge}
	for _, kv := range got.Kvs {
		switch string(kv.Key) {
		case etcdCluster:
			c.cluster = string(kv.Value)
		case etcdHolder:
			c.holder = string(kv.Value)
		case etcdNode:
			c.node = string(kv.Value)
		case etcdRenewed:
			c.counter = kv.ModRevision
		}
	}
	return c, nil
}

// change writes pairs of keys and values if a comparison holds.
func (r *etcdRegistry) change(ctx context.Context, only clientv3.Cmp, pairs ...string) (bool, error) {
	puts := []clientv3.Op{clientv3.OpPut(etcdRenewed, time.Now().UTC().Format(time.RFC3339))} // for people
	for i := 0; i < len(pairs); i += 2 {
		puts = append(puts, clientv3.OpPut(pairs[i], pairs[i+1]))
	}
	changed := false
	err := r.with(func(client *clientv3.Client) error {
		done, err := client.Txn(ctx).If(only).Then(puts...).Commit()
		changed = err == nil && done.Succeeded
		return err
	})
	return changed, err
}

func (r *etcdRegistry) take(ctx context.Context, seen claim, holder, node string) (bool, error) {
	return r.change(ctx, clientv3.Compare(clientv3.ModRevision(etcdRenewed), "=", seen.counter), etcdHolder, holder, etcdNode, node)
}

func (r *etcdRegistry) renew(ctx context.Context, holder string) (bool, error) {
	return r.change(ctx, clientv3.Compare(clientv3.Value(etcdHolder), "=", holder))
}

func (r *etcdRegistry) release(ctx context.Context, holder string) error {
	_, err := r.change(ctx, clientv3.Compare(clientv3.Value(etcdHolder), "=", holder), etcdHolder, "")
	return err
}

func (r *etcdRegistry) belong(ctx context.Context, holder, cluster string) (bool, error) {
	return r.change(ctx, clientv3.Compare(clientv3.Value(etcdHolder), "=", holder), etcdCluster, cluster)
}

// rootCA is that of sqlRegistry.
func (r *etcdRegistry) rootCA(ctx context.Context) ([]byte, error) {
	got, err := r.get(ctx, rootCAKey)
	if err != nil || len(got.Kvs) > 0 {
		if err != nil {
			return nil, err
		}
		return append([]byte{}, got.Kvs[0].Value...), nil
	}
	some, err := r.get(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil || len(some.Kvs) == 0 {
		return nil, err
	}
	return []byte{}, nil
}

// etcdUnanswered is unanswered for errors of an etcd.
func etcdUnanswered(err error) bool {
	code := codes.OK
	var etcdErr rpctypes.EtcdError
	if errors.As(err, &etcdErr) {
		code = etcdErr.Code()
	} else if s, ok := status.FromError(err); ok {
		code = s.Code()
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return true
	}
	return false
}
