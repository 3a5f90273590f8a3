package controlplane

import (
	_ "unsafe" // for linkname

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	_ "k8s.io/apiserver/pkg/storage/storagebackend/factory" // has made the logger when init runs
)

// etcdClientLog is the logger of the API server's etcd client. It is nobody's to
// set: upstream's ETCD_CLIENT_DEBUG leaves every level as it is.
//
//go:linkname etcdClientLog k8s.io/apiserver/pkg/storage/storagebackend/factory.etcd3ClientLogger
var etcdClientLog *zap.Logger

// While its server is away the client writes a line for each of a hundred tries
// that it makes for a read: 2,300 lines in half a minute. What is away is told by
// the datastore.
func init() { etcdClientLog = quieter(etcdClientLog) }

func quieter(log *zap.Logger) *zap.Logger {
	if log == nil {
		return nil
	}
	return log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
}
