package upstream

import (
	"bytes"
	"log/slog"
	"net/http"
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

// TestAnAbortedRequestIsNoFailure: only a panic that ends the process shows a start's lines.
func TestAnAbortedRequestIsNoFailure(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	start := newStartLog()
	slog.New(start.wrap(slog.NewTextHandler(&out, nil))).Error("early")
	start.showAtPanic(t.Context(), http.ErrAbortHandler)
	if out.Len() > 0 {
		t.Errorf("shown by a request that was given up: %s", out.String())
	}
	start.showAtPanic(t.Context(), "nil map")
	if !strings.Contains(out.String(), "early") {
		t.Errorf("a panic shows %q", out.String())
	}
}
