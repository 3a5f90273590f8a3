package upstream

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestTakeEnv(t *testing.T) {
	t.Setenv("BRINK_TEST_TAKE", "value")
	if got := takeEnv("BRINK_TEST_TAKE"); got != "value" {
		t.Errorf("got %q", got)
	}
	if _, there := os.LookupEnv("BRINK_TEST_TAKE"); there {
		t.Error("children would still see it")
	}
}

func TestAtLeast(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(atLeast{slog.LevelWarn, slog.NewTextHandler(&out, nil)}).With("a", 1).WithGroup("g")
	log.Info("quiet")
	log.Warn("loud")
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "loud") {
		t.Errorf("got %q, want the warning alone", got)
	}
	if log.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("the work of making records that are dropped is done")
	}
}
