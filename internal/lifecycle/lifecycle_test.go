package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// journal keeps what happened in the order in which it happened.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) is(t *testing.T, want ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, want) {
		t.Errorf("order of events:\n got %q\nwant %q", j.lines, want)
	}
}

// wellBehaved takes a while to become ready and a while to stop, and notes
// both.
func wellBehaved(name string, j *journal) Component {
	return Component{Name: name, Run: func(ctx context.Context, ready func()) error {
		j.note(name + " starts")
		time.Sleep(time.Second)
		j.note(name + " ready")
		ready()
		<-ctx.Done()
		time.Sleep(time.Second)
		j.note(name + " stopped")
		return ctx.Err()
	}}
}

// failsAfter is ready at once and fails later.
func failsAfter(name string, delay time.Duration, err error) Component {
	return Component{Name: name, Run: func(ctx context.Context, ready func()) error {
		ready()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
			return err
		}
	}}
}

func states(g *Group) string {
	var out []string
	for _, s := range g.Status() {
		out = append(out, s.Name+"="+string(s.State))
	}
	return strings.Join(out, " ")
}

func wantStates(t *testing.T, g *Group, want string) {
	t.Helper()
	if got := states(g); got != want {
		t.Errorf("states:\n got %s\nwant %s", got, want)
	}
}

func notReady(t *testing.T) func() {
	return func() { t.Error("the group said that it is ready") }
}

func TestStartInOrderStopInReverse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := &Group{}
		g.Add(wellBehaved("a", &j), wellBehaved("b", &j), wellBehaved("c", &j))
		ctx, cancel := context.WithCancel(t.Context())
		err := g.Run(ctx, func() { j.note("group ready"); cancel() })
		if err != nil {
			t.Errorf("a clean stop returned %v", err)
		}
		j.is(t, "a starts", "a ready", "b starts", "b ready", "c starts", "c ready", "group ready",
			"c stopped", "b stopped", "a stopped")
	})
}

func TestStatesOverALife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := &Group{}
		g.Add(wellBehaved("a", &j), wellBehaved("b", &j))
		wantStates(t, g, "a=pending b=pending")
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx, func() {}) }()

		// Each of a, b takes a second to be ready and a second to stop; the
		// clock is synctest's, so half seconds are in between for certain.
		time.Sleep(500 * time.Millisecond)
		wantStates(t, g, "a=starting b=pending")
		time.Sleep(time.Second)
		wantStates(t, g, "a=ready b=starting")
		if since := g.Status()[0].Since; since.Sub(begun) != time.Second {
			t.Errorf("a is ready since %s after the start, want 1s", since.Sub(begun))
		}
		time.Sleep(time.Second)
		wantStates(t, g, "a=ready b=ready")
		cancel()
		time.Sleep(500 * time.Millisecond)
		wantStates(t, g, "a=ready b=stopping")
		time.Sleep(time.Second)
		wantStates(t, g, "a=stopping b=stopped")
		if err := <-done; err != nil {
			t.Error(err)
		}
		wantStates(t, g, "a=stopped b=stopped")
	})
}

func TestFirstFailureStopsAll(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		weak  Component
		want  string
		state string
	}{
		{"error", failsAfter("weak", time.Minute, errBroken), "weak: broken", "a=stopped weak=failed z=stopped"},
		{"nil", failsAfter("weak", time.Minute, nil), "weak: ended unexpectedly", "a=stopped weak=failed z=stopped"},
		// An error that looks like a stop is none: nobody asked.
		{"cancelled by someone else", failsAfter("weak", time.Minute, context.Canceled), "weak: context canceled", "a=stopped weak=failed z=stopped"},
		{"panic", Component{Name: "weak", Run: func(_ context.Context, ready func()) error {
			ready()
			time.Sleep(time.Minute)
			panic("nil map")
		}}, "weak: panic: nil map", "a=stopped weak=failed z=stopped"},
		{"error while starting", Component{Name: "weak", Run: func(context.Context, func()) error {
			return errBroken
		}}, "weak: broken", "a=stopped weak=failed z=pending"},
		{"panic while starting", Component{Name: "weak", Run: func(context.Context, func()) error {
			panic(errBroken)
		}}, "weak: panic: broken", "a=stopped weak=failed z=pending"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var j journal
				g := &Group{}
				g.Add(wellBehaved("a", &j), tt.weak, wellBehaved("z", &j))
				err := g.Run(t.Context(), func() {})
				if err == nil || err.Error() != tt.want {
					t.Errorf("got error %v, want %s", err, tt.want)
				}
				wantStates(t, g, tt.state)
				if got := g.Status()[1].Error; "weak: "+got != tt.want {
					t.Errorf("status shows the error %q, want that of %q", got, tt.want)
				}
			})
		})
	}
}

// TestFailureWhileAnotherStarts has an early component fail while a later one is
// still starting: the later one is stopped, not waited for.
func TestFailureWhileAnotherStarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Group{}
		g.Add(failsAfter("weak", time.Minute, errBroken), Component{Name: "slow", Run: func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			return nil
		}}, Component{Name: "never", Run: func(context.Context, func()) error {
			t.Error("a component was started after a failure")
			return nil
		}})
		err := g.Run(t.Context(), notReady(t))
		if !errors.Is(err, errBroken) {
			t.Errorf("got %v, want %v", err, errBroken)
		}
		wantStates(t, g, "weak=failed slow=stopped never=pending")
	})
}

// TestFirstErrorComesFirst has others fail because the first one did; what
// they say must not hide the cause.
func TestFirstErrorComesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sore := Component{Name: "sore", Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return errors.New("connection to the weak one lost")
		}}
		stuck := Component{Name: "stuck", StopTimeout: time.Second, Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			time.Sleep(time.Hour)
			return nil
		}}
		g := &Group{}
		g.Add(stuck, failsAfter("weak", time.Minute, errBroken), failsAfter("late", 2*time.Minute, errors.New("late")), sore)
		err := g.Run(t.Context(), func() {})
		lines := strings.Split(fmt.Sprint(err), "\n")
		want := []string{"weak: broken", "stuck: did not stop in time (1s)"}
		if !slices.Equal(lines, want) {
			t.Errorf("got lines %q, want %q", lines, want)
		}
		time.Sleep(time.Hour) // until the stuck one has returned
	})
}

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

func TestReadyTwice(t *testing.T) {
	t.Parallel()
	g := &Group{}
	g.Add(Component{Name: "a", Run: func(ctx context.Context, ready func()) error {
		ready()
		ready()
		<-ctx.Done()
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	readies := 0
	if err := g.Run(ctx, func() { readies++; cancel() }); err != nil {
		t.Error(err)
	}
	if readies != 1 {
		t.Errorf("the group was ready %d times", readies)
	}
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

func TestEmptyGroup(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	if err := new(Group).Run(ctx, cancel); err != nil {
		t.Error(err)
	}
}

// TestStatusWhileRunning is for the race detector.
func TestStatusWhileRunning(t *testing.T) {
	t.Parallel()
	g := &Group{}
	for i := range 20 {
		g.Add(Component{Name: fmt.Sprint(i), Run: func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return errBroken
		}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	asking := make(chan struct{})
	var asked sync.WaitGroup
	asked.Go(func() {
		for {
			select {
			case <-asking:
				return
			default:
				g.Status()
			}
		}
	})
	err := g.Run(ctx, cancel)
	close(asking)
	asked.Wait()
	if got := strings.Count(fmt.Sprint(err), "broken"); got != 20 {
		t.Errorf("got %d of 20 errors", got)
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	readied := map[string]bool{}
	isReady := func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		return readied[name]
	}
	slow := make(chan struct{})
	component := func(name string, needs []string, before func()) Component {
		return Component{Name: name, Needs: needs, Run: func(ctx context.Context, ready func()) error {
			before()
			mu.Lock()
			readied[name] = true
			mu.Unlock()
			ready()
			<-ctx.Done()
			return nil
		}}
	}
	g := &Group{}
	g.Add(
		component("slow", Nothing, func() { <-slow }),
		// Listed behind the slow one and needs nothing: it is what lets the
		// slow one go on.
		component("at-once", Nothing, func() { close(slow) }),
		component("after-both", []string{"slow", "at-once"}, func() {
			if !isReady("slow") || !isReady("at-once") {
				t.Error("started before what it needs was ready")
			}
		}),
		component("after-previous", nil, func() {
			if !isReady("after-both") {
				t.Error("started before the one listed before it was ready")
			}
		}),
	)
	ctx, cancel := context.WithCancel(context.Background())
	if err := g.Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	if !isReady("after-previous") {
		t.Error("the group was ready before its last component")
	}
}

func TestNeedsThatCannotBeMet(t *testing.T) {
	t.Parallel()
	idle := func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil }
	cases := map[string][]Component{
		"a needs b, but there is no such component": {{Name: "a", Needs: []string{"b"}, Run: idle}},
		"dependency cycle through a":                {{Name: "a", Needs: []string{"b"}, Run: idle}, {Name: "b", Run: idle}},
		"two components are called a":               {{Name: "a", Run: idle}, {Name: "a", Run: idle}},
	}
	for want, components := range cases {
		g := &Group{}
		g.Add(components...)
		if err := g.Run(context.Background(), func() { t.Error("ready") }); err == nil || err.Error() != want {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestFailureKeepsOthersFromStarting(t *testing.T) {
	t.Parallel()
	g := &Group{}
	g.Add(
		Component{Name: "broken", Run: func(context.Context, func()) error { return errors.New("no") }},
		Component{Name: "next", Run: func(context.Context, func()) error { t.Error("started"); return nil }},
	)
	if err := g.Run(context.Background(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), "broken: no") {
		t.Errorf("error %v", err)
	}
	if s := g.Status()[1].State; s != Pending {
		t.Errorf("next is %s, want pending", s)
	}
}
