package network

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lines is what was logged: a message each.
type lines []string

// Write takes one line of recordingLog.
func (l *lines) Write(line []byte) (int, error) {
	*l = append(*l, strings.TrimSpace(string(bytes.TrimPrefix(line, []byte("msg=")))))
	return len(line), nil
}

// recordingLog keeps messages without their attributes.
func recordingLog() (*slog.Logger, *lines) {
	out := &lines{}
	onlyMessage := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.MessageKey {
			return a
		}
		return slog.Attr{}
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: onlyMessage})), out
}

// TestWarningsAreLoggedOnce as long as they stay.
func TestWarningsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	log, got := recordingLog()
	r := reconciler{log: log, network: New(Config{})}
	for _, warnings := range [][]string{nil, {"a", "b"}, {"a", "b"}, {"a"}, {"b", "a", "b"}, nil, nil, {"a"}} {
		r.warn(warnings)
	}
	if want := []string{"a", "b", "b", `"all warnings about peers have cleared"`, "a"}; !slices.Equal(*got, want) {
		t.Errorf("got %q, want %q", *got, want)
	}
	if err := r.network.Warnings(); err == nil || err.Error() != "a" {
		t.Errorf("the warnings are %v", err)
	}
}

// TestTroubleIsLoggedHourly while it lasts, and one kind of it does not silence another.
func TestTroubleIsLoggedHourly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, got := recordingLog()
		r := reconciler{log: log}
		r.trouble.Every = time.Hour
		for i, want := range []int{2, 2, 2, 2, 4} {
			r.logTrouble(t.Context(), "the pod network", errors.New("no nft"))
			r.logTrouble(t.Context(), "host ports", errors.New("no table"))
			if len(*got) != want {
				t.Errorf("step %d: %d lines, want %d", i, len(*got), want)
			}
			time.Sleep(15 * time.Minute)
		}
		r.logTrouble(t.Context(), "host ports", nil)
		r.logTrouble(t.Context(), "host ports", errors.New("no table"))
		r.logTrouble(t.Context(), "the pod network", errors.New("no nft"))
		if len(*got) != 5 {
			t.Errorf("after one of them was over: %d lines, want 5", len(*got))
		}
	})
}
