package datastore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// Keys of brink in somebody's etcd, beside those of the API server.
const (
	etcdCluster = "/brink/cluster"
	etcdHolder  = "/brink/holder"
	etcdNode    = "/brink/node"
	etcdRenewed = "/brink/renewed" // written with every change of the others
)

// etcdRegistry is the claim on an etcd. The counter is the revision of the key
// that every change writes; etcd has no clock to tell its age by.
//
// A client that has had no answer, or has lost its connection, is given up for a fresh
// one: gRPC may spend half a minute with a connection that was begun while the etcd
// started, and answers nothing for 5 s after one was refused.
type etcdRegistry struct {
	dial func() (*clientv3.Client, error)
	// suspect is called when a connection is lost. The API server has connections of
	// its own, whose errors do not come by here: without it a loss would be noticed at
	// the next renewal.
	suspect func()

	mu     sync.Mutex
	client *clientv3.Client
	lost   *atomic.Bool // the client's connection was there and is not
}

// with calls do with a client.
func (r *etcdRegistry) with(do func(*clientv3.Client) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost != nil && r.lost.Load() {
		r.closeLocked()
	}
	if r.client == nil {
		client, err := r.dial()
		if err != nil {
			return err
		}
		r.client, r.lost = client, new(atomic.Bool)
		go r.watch(client, r.lost)
	}
	err := do(r.client)
	if err != nil && etcdUnanswered(err) {
		r.closeLocked()
	}
	return err
}

// watch notes when the connections of client are lost, until it is closed. Where there
// are several members, one is enough.
func (r *etcdRegistry) watch(client *clientv3.Client, lost *atomic.Bool) {
	conn := client.ActiveConnection()
	for state := conn.GetState(); conn.WaitForStateChange(client.Ctx(), state); state = conn.GetState() {
		if state == connectivity.Ready {
			lost.Store(true)
			r.suspect()
		}
	}
}

func (r *etcdRegistry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked()
}

func (r *etcdRegistry) closeLocked() {
	if r.client != nil {
		_ = r.client.Close()
		r.client, r.lost = nil, nil
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

// rootCA returns what sqlRegistry.rootCA returns, for an etcd.
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
