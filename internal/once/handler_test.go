package once

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := Logger(slog.New(slog.NewTextHandler(&out, nil)).With("component", "x"), time.Minute)
		for i, step := range []struct {
			do   func()
			want string // what is written, "" for nothing
		}{
			{func() { log.Warn("repaired", "link", "a") }, "level=WARN msg=repaired component=x link=a"},
			{func() { log.Warn("repaired", "link", "a") }, ""},
			{func() { log.Warn("repaired", "link", "b") }, "link=b"},
			{func() { log.Error("repaired", "link", "a") }, "level=ERROR"},
			{func() { log.With("link", "a").Warn("repaired") }, "msg=repaired component=x link=a"},
			{func() { log.With("link", "a").Warn("repaired") }, ""},
			{func() { log.WithGroup("g").Warn("repaired", "link", "a") }, "g.link=a"},
			{func() { time.Sleep(time.Minute); log.Warn("repaired", "link", "a") }, "level=WARN msg=repaired component=x link=a"},
			{func() { log.Debug("asked"); log.Debug("asked") }, ""},
		} {
			out.Reset()
			step.do()
			if got := out.String(); !strings.Contains(got, step.want) || (got == "") != (step.want == "") {
				t.Errorf("step %d: got %q, want %q", i, got, step.want)
			}
		}
	})
}

// TestLoggerForDebugging writes every line, so that a log says how often something came.
func TestLoggerForDebugging(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := Logger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), time.Minute)
	for range 3 {
		log.Warn("repaired")
	}
	if got := out.String(); strings.Count(got, "level=WARN") != 1 || strings.Count(got, "level=DEBUG msg=repaired") != 2 {
		t.Errorf("got %q", got)
	}
}
