package controlplane

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"

	"brink/internal/sleep"
)

// outage is a database that is away for a while from the beginning.
func outage(away time.Duration) *hooks {
	begun := time.Now()
	return &hooks{answers: func(context.Context) bool { return time.Since(begun) >= away }}
}

func hookContext(t *testing.T) genericapiserver.PostStartHookContext {
	return genericapiserver.PostStartHookContext{Context: t.Context()}
}

// upstreamHook is one that needs the database within a time, and counts its runs.
func upstreamHook(h *hooks, limit time.Duration, runs *int) genericapiserver.PostStartHookFunc {
	return func(ctx genericapiserver.PostStartHookContext) error {
		*runs++
		for range int(limit / time.Second) {
			if h.answers(ctx) {
				return nil
			}
			sleep.For(ctx, time.Second)
		}
		return errors.New("the time is over")
	}
}

func TestHookIsRunAgainAfterAnOutage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		away time.Duration
		runs int
	}{{0, 1}, {10 * time.Second, 1}, {31 * time.Second, 2}, {time.Hour, 2}} {
		synctest.Test(t, func(t *testing.T) {
			h, runs := outage(tc.away), 0
			if err := h.repeatAfterOutage(upstreamHook(h, 30*time.Second, &runs))(hookContext(t)); err != nil || runs != tc.runs {
				t.Errorf("away for %v: %v after %d runs, want success after %d", tc.away, err, runs, tc.runs)
			}
		})
	}
}

func TestHookThatFailsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, wrong := outage(0), errors.New("wrong")
		fails := func(ctx genericapiserver.PostStartHookContext) error {
			sleep.For(ctx, time.Minute)
			return wrong
		}
		for name, hook := range map[string]genericapiserver.PostStartHookFunc{"repeat": h.repeatAfterOutage(fails), "repair": h.repairAfterOutage(fails)} {
			if err := hook(hookContext(t)); err != wrong {
				t.Errorf("%s: got %v, want the hook's error", name, err)
			}
		}
	})
}

// A server that is stopped while it waits for its database has not failed.
func TestHooksEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, runs := outage(1000*time.Hour), 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		hook := h.repeatAfterOutage(upstreamHook(h, 30*time.Second, &runs))
		if err := hook(genericapiserver.PostStartHookContext{Context: ctx}); err != nil {
			t.Error(err)
		}
		never := func(_ func(), stop chan struct{}) { <-stop }
		if err := h.run(ctx, never); err != nil {
			t.Error(err)
		}
	})
}

func TestRepairWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(time.Hour)
		var tries atomic.Int32
		givesUpOnce := func(done func(), stop chan struct{}) {
			if tries.Add(1) > 1 {
				done()
				<-stop
			}
		}
		begun := time.Now()
		if err := h.run(t.Context(), givesUpOnce, givesUpOnce); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < time.Hour || took > time.Hour+2*repairRetry {
			t.Errorf("it took %v, want little more than the outage", took)
		}
		never := func(_ func(), stop chan struct{}) { <-stop }
		if err := h.run(t.Context(), never); err == nil {
			t.Error("a repair that never succeeds, with a database, is no failure")
		}
	})
}

// TestOwnRepair runs the repair of after an outage beside upstream's.
func TestOwnRepair(t *testing.T) {
	cp := startAPIServer(t, func(*ControlPlane) {})
	h := cp.apiServer.hooks
	if !h.answers(t.Context()) {
		t.Error("a running datastore does not answer")
	}
	addresses, ports, err := h.repair.controllers()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.run(t.Context(), addresses, ports); err != nil {
		t.Error(err)
	}
	server := cp.apiServer.openAPI.aggregated
	if err := wrapHook(server, "no-such-hook", nil); err == nil {
		t.Error("a hook that is not there is wrapped")
	}
}
