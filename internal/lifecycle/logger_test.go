package lifecycle

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

// TestLogger is not parallel: it captures the process's own log.
func TestLogger(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)

	ctx, cancel := context.WithCancel(t.Context())
	var g Group
	g.Add(Component{Name: "tunnel", Run: func(ctx context.Context, ready func()) error {
		Logger(ctx).Info("connected")
		ready()
		<-ctx.Done()
		return nil
	}})
	if err := g.Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	Logger(t.Context()).Info("outside")
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "msg=connected component=tunnel") || !strings.HasSuffix(lines[1], "msg=outside") {
		t.Errorf("the log is %q", lines)
	}
}
