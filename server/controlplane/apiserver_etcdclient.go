package controlplane

import (
	"sync"
	"time"
	_ "unsafe" // for linkname

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/backoff"
	_ "k8s.io/apiserver/pkg/storage/storagebackend/factory" // makes the logger
)

// etcdClientLog is the logger of the API server's etcd client. Upstream has no setting for it:
// its ETCD_CLIENT_DEBUG leaves every level as it is.
//
//go:linkname etcdClientLog k8s.io/apiserver/pkg/storage/storagebackend/factory.etcd3ClientLogger
var etcdClientLog *zap.Logger

// quietEtcdClient drops the warnings of that client. While its server is away it logs a line
// for each of the hundred attempts that it makes for a read: 2,300 lines in half a minute.
// The datastore logs that the server is away.
var quietEtcdClient = sync.OnceFunc(func() { etcdClientLog = quieter(etcdClientLog) })

func quieter(log *zap.Logger) *zap.Logger {
	if log == nil {
		return nil
	}
	return log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
}

// dialBackoff is how long gRPC waits between two attempts to connect, in the form of its
// internal type. The etcd client does not change it, and the API server does not give access
// to the client.
//
//go:linkname dialBackoff google.golang.org/grpc/internal/backoff.DefaultExponential
var dialBackoff struct{ Config backoff.Config }

// maxDialDelay makes the client find an etcd that is back within seconds. gRPC would wait for
// up to two minutes: a write worked 25 s after an outage of 8 s.
const maxDialDelay = 3 * time.Second

// dialEtcdSoon is for an etcd that somebody else runs and that may be away; brink's own
// sockets exist as long as brink runs. It changes later connections only.
func dialEtcdSoon() { dialBackoff.Config.MaxDelay = maxDialDelay }
