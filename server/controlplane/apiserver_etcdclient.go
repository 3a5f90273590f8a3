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

// etcdClientLog is the logger of the API server's etcd client. It is nobody's to
// set: upstream's ETCD_CLIENT_DEBUG leaves every level as it is.
//
//go:linkname etcdClientLog k8s.io/apiserver/pkg/storage/storagebackend/factory.etcd3ClientLogger
var etcdClientLog *zap.Logger

// quietEtcdClient leaves out the warnings of that client. While its server is away it
// writes a line for each of the hundred tries that it makes for a read: 2,300 lines in
// half a minute. The datastore logs that the server is away.
var quietEtcdClient = sync.OnceFunc(func() { etcdClientLog = quieter(etcdClientLog) })

func quieter(log *zap.Logger) *zap.Logger {
	if log == nil {
		return nil
	}
	return log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
}

// dialBackoff is how long gRPC waits between two tries to connect, with the shape of
// its internal type. The etcd client leaves it as it is, and the API server gives no
// way to the client.
//
//go:linkname dialBackoff google.golang.org/grpc/internal/backoff.DefaultExponential
var dialBackoff struct{ Config backoff.Config }

// maxDialDelay lets an etcd that is back be found within seconds. gRPC would wait
// for up to two minutes: a write worked 25 s after an outage of 8.
const maxDialDelay = 3 * time.Second

// dialEtcdSoon is for somebody's etcd, which may be away; brink's own sockets are
// there as long as brink is. Connections that exist keep what they have.
func dialEtcdSoon() { dialBackoff.Config.MaxDelay = maxDialDelay }
