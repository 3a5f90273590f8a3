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
