package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"brink/internal/testtree"
)

// TestRenewInPlace watches a leaf being renewed twice by a running Renewer, and
// reads the pair all the while as a server that reloads would.
func TestRenewInPlace(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Now = nil
	cfg.Lifetimes = Lifetimes{Leaf: 3 * time.Second}
	tree := mustEnsure(t, cfg)
	before := testtree.Read(t, cfg.Dir)

	renewed := make(chan []string, 100)
	attempts := 0
	run(t, tree, time.Hour, func(names []string) error {
		if attempts++; attempts == 1 {
			return errors.New("disk full")
		}
		renewed <- slices.Clone(names)
		return nil
	})
	reload := time.NewTicker(time.Millisecond)
	defer reload.Stop()
	deadline := time.After(30 * time.Second)
	for rounds := 0; rounds < 2; {
		select {
		case names := <-renewed:
			if !slices.Contains(names, ClientAdmin) {
				t.Errorf("reported only %q", names)
			}
			rounds++
		case <-reload.C:
			if _, err := tls.LoadX509KeyPair(tree.Cert(ServingAPIServer), tree.Key(ServingAPIServer)); err != nil {
				t.Fatalf("a reader found no pair: %v", err)
			}
		case <-deadline:
			t.Fatal("not renewed in 30 s")
		}
	}
	wantChanged(t, before, testtree.Read(t, cfg.Dir), "client-admin.crt", "client-auth-proxy.crt", "client-kube-apiserver.crt",
		"serving-kube-apiserver.crt", "serving-kubelet.crt")
}

// TestRenewAfterClockJump is a board whose time is synchronized, months ahead,
// while it runs.
func TestRenewAfterClockJump(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	jump := make(chan struct{})
	cfg.Now = func() time.Time {
		select {
		case <-jump:
			return start.AddDate(2, 0, 0)
		default:
			return start
		}
	}
	tree := mustEnsure(t, cfg)
	renewed := make(chan struct{}, 1)
	run(t, tree, 10*time.Millisecond, func([]string) error {
		renewed <- struct{}{}
		return nil
	})
	close(jump)
	select {
	case <-renewed:
		checkAll(t, tree)
	case <-time.After(30 * time.Second):
		t.Fatal("not renewed in 30 s")
	}
}

// TestRenewAfterFailure keeps the Renewer alive when it cannot write.
func TestRenewAfterFailure(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Now = nil
	cfg.Lifetimes = Lifetimes{Leaf: 3 * time.Second}
	tree := mustEnsure(t, cfg)
	away := cfg.Dir + ".away"
	if err := os.Rename(cfg.Dir, away); err != nil {
		t.Fatal(err)
	}
	renewed := make(chan struct{}, 100)
	run(t, tree, 20*time.Millisecond, func([]string) error {
		renewed <- struct{}{}
		return nil
	})
	select {
	case <-renewed:
		t.Fatal("renewed without a directory")
	case <-time.After(4 * time.Second):
	}
	if err := os.Rename(away, cfg.Dir); err != nil {
		t.Fatal(err)
	}
	select {
	case <-renewed:
		checkAll(t, tree)
	case <-time.After(30 * time.Second):
		t.Fatal("not renewed in 30 s")
	}
}

// run starts a Renewer and stops it with the test.
func run(t *testing.T, tree *Tree, every time.Duration, renewed func([]string) error) {
	t.Helper()
	renewer := tree.Renewer(every, renewed)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- renewer.Run(ctx, func() { close(ready) }) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("renewer: %v", err)
		}
	})
}
