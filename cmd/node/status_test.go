package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"brink/agent"
	"brink/agent/join"
	"brink/internal/layout"
	"brink/internal/testerror"
	"brink/server"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	fine, broken := func() error { return nil }, func() error { return errors.New("disk full") }
	cases := []struct {
		name             string
		ready            bool
		health, warnings func() error
		want             string
	}{
		{"ready", true, fine, fine, "true [] []"},
		{"starting", false, fine, fine, "false [] []"},
		{"a problem", true, broken, fine, "false [disk full] []"},
		{"a warning", true, fine, broken, "true [] [disk full]"},
	}
	for _, c := range cases {
		p := &process{health: []func() error{fine, c.health}, warnings: []func() error{c.warnings}}
		p.ready.Store(c.ready)
		status := p.status()
		if got := fmt.Sprint(status.Ready, status.Problems, status.Warnings); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestAskStatus: only a brink that is not there counts as not running.
func TestAskStatus(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "status") // a short path, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := layout.At(dir, dir)
	if _, err := askStatus(t.Context(), l, time.Minute); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a socket: %v", err)
	}
	listener, err := net.Listen("unix", l.StatusSocket()) // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	_, err = askStatus(t.Context(), l, 50*time.Millisecond)
	testerror.OneLine(t, err, "gives no answer on "+l.StatusSocket())
	if errors.Is(err, ErrNotRunning) {
		t.Errorf("a brink that hangs: %v", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	if _, err := askStatus(t.Context(), l, time.Minute); !errors.Is(err, ErrNotRunning) {
		t.Errorf("with the socket of a brink that was killed: %v", err)
	}
}

func TestRole(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]Config{
		"server":               {Server: &server.Config{}, Agent: &agent.Config{}},
		"server without agent": {Server: &server.Config{}},
		"agent":                {Join: &join.Config{}, Agent: &agent.Config{}},
	} {
		if got := cfg.role(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
