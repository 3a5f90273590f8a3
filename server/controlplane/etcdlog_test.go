package controlplane

import (
	"testing"

	"go.uber.org/zap/zapcore"
)

// The logger is reached by the name of a private variable.
func TestEtcdClientIsQuiet(t *testing.T) {
	t.Parallel()
	if etcdClientLog == nil {
		t.Fatal("upstream's logger has another name")
	}
	if etcdClientLog.Core().Enabled(zapcore.WarnLevel) || !etcdClientLog.Core().Enabled(zapcore.ErrorLevel) {
		t.Error("it logs other levels than errors")
	}
}
