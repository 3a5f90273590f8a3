package controlplane

import (
	"testing"

	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/backoff"
)

// The logger is reached by the name of a private variable.
func TestEtcdClientIsQuiet(t *testing.T) {
	t.Parallel()
	quietEtcdClient()
	if etcdClientLog == nil {
		t.Fatal("upstream's logger has another name")
	}
	if etcdClientLog.Core().Enabled(zapcore.WarnLevel) || !etcdClientLog.Core().Enabled(zapcore.ErrorLevel) {
		t.Error("it logs other levels than errors")
	}
}

// Nor does anything but its name lead to gRPC's backoff.
func TestEtcdIsDialedSoon(t *testing.T) {
	if dialBackoff.Config.BaseDelay != backoff.DefaultConfig.BaseDelay || dialBackoff.Config.Multiplier != backoff.DefaultConfig.Multiplier {
		t.Fatalf("grpc's own has another name or shape: %+v", dialBackoff)
	}
	before := dialBackoff
	defer func() { dialBackoff = before }()
	dialEtcdSoon()
	if dialBackoff.Config.MaxDelay != maxDialDelay {
		t.Errorf("the longest delay is %v", dialBackoff.Config.MaxDelay)
	}
}
