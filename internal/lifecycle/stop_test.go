package lifecycle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFailureWhileStopping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Group{}
		g.Add(Component{Name: "a", Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return errBroken
		}})
		ctx, cancel := context.WithCancel(t.Context())
		err := g.Run(ctx, cancel)
		if !errors.Is(err, errBroken) || err.Error() != "stopping a: broken" {
			t.Errorf("got %v, want stopping a: broken", err)
		}
		wantStates(t, g, "a=failed")
	})
}

func TestStopTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		stuck := Component{Name: "stuck", StopTimeout: 3 * time.Second, Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			time.Sleep(time.Hour)
			return nil
		}}
		g := &Group{}
		g.Add(wellBehaved("a", &j), stuck)
		ctx, cancel := context.WithCancel(t.Context())
		var asked time.Time
		err := g.Run(ctx, func() { asked = time.Now(); cancel() })
		if !errors.Is(err, ErrStopTimeout) || err.Error() != "stuck: did not stop in time (3s)" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(asked); took != 4*time.Second {
			t.Errorf("stopping took %s, want 3s for the stuck one and 1s for the other", took)
		}
		j.is(t, "a starts", "a ready", "a stopped")
		time.Sleep(2 * time.Hour) // the stuck one returns at last; that changes nothing
		wantStates(t, g, "a=stopped stuck=failed")
	})
}

func TestDefaultStopTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Group{}
		g.Add(Component{Name: "stuck", Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			time.Sleep(time.Hour)
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		if err := g.Run(ctx, cancel); !errors.Is(err, ErrStopTimeout) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != DefaultStopTimeout {
			t.Errorf("gave up after %s, want %s", took, DefaultStopTimeout)
		}
		time.Sleep(time.Hour)
	})
}

func TestCancelledDuringStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := &Group{}
		g.Add(wellBehaved("a", &j), wellBehaved("b", &j), wellBehaved("c", &j))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // b is half way
		defer cancel()
		if err := g.Run(ctx, notReady(t)); err != nil {
			t.Errorf("being told to stop while starting is no failure, got %v", err)
		}
		// b is told at 1.5 s, but is in the middle of its start.
		j.is(t, "a starts", "a ready", "b starts", "b ready", "b stopped", "a stopped")
		wantStates(t, g, "a=stopped b=stopped c=pending")
	})
}

func TestCancelledBeforeStart(t *testing.T) {
	t.Parallel()
	var j journal
	g := &Group{}
	g.Add(wellBehaved("a", &j))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx, notReady(t)); err != nil {
		t.Error(err)
	}
	j.is(t)
	wantStates(t, g, "a=pending")
}

// TestReadyWhileStopping has a component call ready after it was told to stop:
// the status must not go back.
func TestReadyWhileStopping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Group{}
		g.Add(Component{Name: "late", Run: func(ctx context.Context, ready func()) error {
			<-ctx.Done()
			ready()
			time.Sleep(time.Second)
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx, notReady(t)) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		wantStates(t, g, "late=stopping")
		if err := <-done; err != nil {
			t.Error(err)
		}
		wantStates(t, g, "late=stopped")
	})
}

// TestStopDoesNotReachComponentsEarly watches that the group's own end is not
// seen by a component before its turn: containerd must outlive the kubelet.
func TestStopDoesNotReachComponentsEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var firstTold, lastEnded time.Time
		first := Component{Name: "first", Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			firstTold = time.Now()
			return nil
		}}
		last := Component{Name: "last", Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			time.Sleep(5 * time.Second)
			lastEnded = time.Now()
			return nil
		}}
		g := &Group{}
		g.Add(first, last)
		ctx, cancel := context.WithCancel(t.Context())
		if err := g.Run(ctx, cancel); err != nil {
			t.Error(err)
		}
		if firstTold.Before(lastEnded) {
			t.Errorf("the first was told to stop %s before the last had ended", lastEnded.Sub(firstTold))
		}
	})
}
