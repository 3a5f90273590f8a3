package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"brink/internal/lifecycle"
)

// isLine fails unless err is one line that contains want.
func isLine(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line with %q", err, want)
	}
}

func TestSnapshotter(t *testing.T) {
	t.Parallel()
	fine, broken := func() error { return nil }, func() error { return errors.New("disk full") }
	up, starting := make(chan struct{}), make(chan struct{})
	close(up)
	cases := []struct {
		name             string
		ready            chan struct{}
		health, warnings func() error
		want             string
	}{
		{"ready", up, fine, fine, "true [] []"},
		{"starting", starting, fine, fine, "false [] []"},
		{"a problem", up, broken, fine, "false [disk full] []"},
		{"a warning", up, fine, broken, "true [] [disk full]"},
	}
	for _, c := range cases {
		take := snapshotter(Config{}, &lifecycle.Group{}, time.Now(), c.ready, []func() error{fine, c.health}, []func() error{c.warnings})
		status := take()
		if got := fmt.Sprint(status.Ready, status.Problems, status.Warnings); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
