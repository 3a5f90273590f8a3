package upstream

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestStartLogHolds: lines of a start are held back, and shown if the start fails.
func TestStartLogHolds(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	start := newStartLog()
	log := slog.New(start.wrap(slog.NewTextHandler(&out, nil)))
	log.Error("early")
	if out.Len() > 0 {
		t.Errorf("shown at once: %s", out.String())
	}
	start.Show()
	log.Error("late")
	if got := out.String(); !strings.Contains(got, "early") || !strings.Contains(got, "late") {
		t.Errorf("got %q", got)
	}
}
