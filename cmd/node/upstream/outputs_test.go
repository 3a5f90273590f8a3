package upstream

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestOutputs has the lines of upstream that carry what containers print.
func TestOutputs(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	var log bytes.Buffer
	l := slog.New(outputs{slog.NewTextHandler(&log, nil)}).With("component", "kubernetes")
	for _, line := range []struct {
		message string
		attrs   []any
		want    string
	}{
		{"Exec probe response: \"PASSWORD=" + secret + "\"", nil, "Exec probe response: ("},
		{"Probe succeeded for http://10.42.0.2/, Response: {200 OK " + secret + "}", nil, "http://10.42.0.2/, Response: ("},
		{"Probe failed for http://10.42.0.2/ with request headers map[], response body: " + secret, nil, "http://10.42.0.2/ with request headers ("},
		{"Probe failed", []any{"probeType", "Liveness", "output", secret}, "probeType=Liveness"},
		{"HTTP-Probe", []any{"path", "/healthz", "headers", map[string]string{"Authorization": secret}}, "path=/healthz"},
		{"Exec lifecycle hook for Container in Pod failed", []any{"containerName", "till", "message", secret}, "containerName=till"},
		{"Event occurred", []any{"reason", "Unhealthy", "message", "Liveness probe failed: " + secret}, "reason=Unhealthy"},
	} {
		log.Reset()
		l.Info(line.message, line.attrs...)
		if got := log.String(); strings.Contains(got, secret) || !strings.Contains(got, line.want) {
			t.Errorf("the line is %s", got)
		}
	}
	log.Reset()
	l.Info("Event occurred", "reason", "Started", "message", "Container started")
	if !strings.Contains(log.String(), "Container started") {
		t.Errorf("another event's message is hidden: %s", log.String())
	}
}
