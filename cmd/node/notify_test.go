package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"brink/agent"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/testerror"
)

func TestNotifySystemd(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "notify-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{filepath.Join(dir, "notify"), fmt.Sprintf("@brink-test-%d", os.Getpid())} {
		systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer systemd.Close()
		if err := notifySystemd(name, "READY=1"); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 100)
		if n, err := systemd.Read(message); string(message[:n]) != "READY=1" {
			t.Errorf("%s got %q (%v)", name, message[:n], err)
		}
	}
	if err := notifySystemd("", "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	testerror.OneLine(t, notifySystemd(filepath.Join(dir, "nobody"), "READY=1"), filepath.Join(dir, "nobody"))
}

func TestStatusLine(t *testing.T) {
	t.Parallel()
	p := &process{cfg: Config{NodeName: "a", Agent: &agent.Config{}}}
	starting := []lifecycle.Status{{Name: "status", State: lifecycle.Ready}, {Name: "join", State: lifecycle.Starting}, {Name: "containerd", State: lifecycle.Starting}, {Name: "node"}}
	if got, want := startingLine(starting), "waiting for a server of the cluster, starting containerd"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.ready.Store(true)
	if got := p.statusLine(); got != "node a is Ready" {
		t.Errorf("got %q", got)
	}
	p.health = []func() error{func() error { return errors.New("no datastore\nand no network") }}
	if got := p.statusLine(); got != "not ready: no datastore" {
		t.Errorf("got %q", got)
	}
}

// TestProve: a part that does not answer because somebody keeps a lock, and a component
// that says that it is not well, are different things.
func TestProve(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "prove-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var stuck sync.Mutex
	p := &process{cfg: Config{Layout: layout.At(dir, dir)}}
	p.health = []func() error{func() error {
		stuck.Lock()
		defer stuck.Unlock()
		return errors.New("the database is away")
	}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready := make(chan struct{})
	go func() { _ = p.serveStatus(ctx, func() { close(ready) }) }()
	<-ready
	if err := p.prove(ctx, time.Minute); err != nil {
		t.Errorf("not well is no hang: %v", err)
	}
	stuck.Lock()
	if err := p.prove(ctx, 200*time.Millisecond); err == nil {
		t.Error("systemd is told that a process is alive that nobody gets an answer from")
	}
	stuck.Unlock()
}
