package node

import (
	"errors"
	"fmt"
	"testing"

	"brink/agent"
	"brink/agent/join"
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
