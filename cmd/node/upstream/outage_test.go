package upstream

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"brink/datastore"
)

func TestOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testOutage)
}

func testOutage(t *testing.T) {
	var out bytes.Buffer
	h := newOutage(slog.NewTextHandler(&out, nil))
	log := slog.New(h).With("logger", "x").WithGroup("g")
	away := errors.New("rpc error: code = Unavailable desc = " + datastore.AwayText + "is away since 12:00")
	for _, step := range []struct {
		line  string
		err   error
		after time.Duration
		shown bool
	}{
		{"Timeout or abort while handling", nil, 0, true}, // of another cause
		{"Failed to update lease", away, 0, false},
		{"Failed: " + away.Error(), nil, 0, false},
		{"Failed to get", errors.New("context deadline exceeded"), time.Second, false},
		{"Pod failed", errors.New("exit code 1"), 0, true},
		{"Failed to get", errors.New("context deadline exceeded"), 2 * echoTime, true},
	} {
		time.Sleep(step.after)
		out.Reset()
		log.Error(step.line, "err", step.err)
		if shown := strings.Contains(out.String(), "msg="); shown != step.shown {
			t.Errorf("%s, %v: shown is %v", step.line, step.err, shown)
		}
	}
}
