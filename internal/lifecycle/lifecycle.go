// Package lifecycle runs the parts of brink under one contract:
//
//	           start              ready()             ctx done
//	pending ----------> starting ----------> ready ------------> stopping --> stopped
//	                       |                   |                     |
//	                       +---- Run returns --+--- Run returns -----+------> failed (error)
//
// A component is a name and a Run function. When Run returns the component has stopped:
// there is no Stop method that could disagree with it. A Group starts each component when
// the components that it needs are ready, by default the one listed before it, and stops
// them one by one in reverse of the list, each with its own deadline. The first component
// that ends without being asked to stops all others, and its error is the group's.
//
// The idea of "first to stop stops all" is oklog/run's; readiness and ordered
// stopping are what it lacks and a node needs: a kubelet must stop before the
// containerd it talks to, and cannot start before the API server answers.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// DefaultStopTimeout is how long a component without a StopTimeout may take to
// return after its context is done.
const DefaultStopTimeout = 10 * time.Second

// Component is a part of the process that starts, runs and stops as one.
type Component struct {
	// Name is the component's name in `brink status` and the log: lower case, dashes.
	Name string
	// Run does the component's work until ctx is done, then cleans up and returns. It
	// calls ready when others may rely on the component; further calls have no effect.
	// Returning before ctx is done is a failure, even with a nil error.
	Run func(ctx context.Context, ready func()) error
	// StopTimeout bounds the time between ctx being done and Run returning.
	// Zero is DefaultStopTimeout. A component that exceeds it is abandoned.
	StopTimeout time.Duration
	// Needs names the components that must be ready before this one starts. Nil means
	// the one listed before it; Nothing starts it at once.
	Needs []string
}

// Nothing is the Needs of a component that can start at once.
var Nothing = []string{}

// State is the state of a component.
type State string

// The states of a component, in the order in which it passes through them.
const (
	Pending  State = "pending"
	Starting State = "starting"
	Ready    State = "ready"
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Failed   State = "failed"
)

// Status is a component's state as `brink status` prints it.
type Status struct {
	Name  string    `json:"name"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	Error string    `json:"error,omitempty"`
	// Progress is what the component is at, where that takes long.
	Progress string `json:"progress,omitempty"`
}

// ErrStopTimeout is wrapped by the error of a component that did not return in
// time after it was told to stop.
var ErrStopTimeout = errors.New("did not stop in time")

// errEnded is the error of a component that returned without one before it was
// told to stop.
var errEnded = errors.New("ended unexpectedly")

// Group is an ordered list of components. The zero value is an empty group.
type Group struct {
	members []*member

	mu       sync.Mutex    // guards what follows, and status and cancel of all members
	stopping bool          // no more components are started
	over     chan struct{} // closed when stopping is set
}

type member struct {
	Component
	status Status
	cancel context.CancelFunc
	ready  chan struct{}
	done   chan struct{}
	err    error // valid once done is closed
}

// Add appends components to the list. It must not be called after Run.
func (g *Group) Add(components ...Component) {
	for _, c := range components {
		if c.StopTimeout == 0 {
			c.StopTimeout = DefaultStopTimeout
		}
		g.members = append(g.members, &member{
			Component: c,
			status:    Status{Name: c.Name, State: Pending, Since: time.Now()},
			ready:     make(chan struct{}),
			done:      make(chan struct{}),
		})
	}
}

// Status returns the state of every component in listed order.
func (g *Group) Status() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Status, len(g.members))
	for i, m := range g.members {
		out[i] = m.status
	}
	return out
}

// Run starts the components, calls ready when all are ready, waits until ctx is done or a
// component ends, stops all and returns the first failure. It returns nil only when ctx was
// done and every component stopped cleanly.
func (g *Group) Run(ctx context.Context, ready func()) error {
	needs, err := g.needs()
	if err != nil {
		return err
	}
	failed := make(chan *member, len(g.members))
	for i, m := range g.members {
		go g.startWhenNeedsAreReady(ctx, m, needs[i], failed)
	}
	err = g.waitReady(ctx, failed)
	if err == nil && ctx.Err() == nil {
		ready()
		select {
		case <-ctx.Done():
		case m := <-failed:
			err = m.endedEarly()
		}
	}
	return g.stop(err)
}

// needs returns the members that each member waits for.
func (g *Group) needs() ([][]*member, error) {
	byName := map[string]*member{}
	for _, m := range g.members {
		if byName[m.Name] != nil {
			return nil, fmt.Errorf("two components are called %s", m.Name)
		}
		byName[m.Name] = m
	}
	out := make([][]*member, len(g.members))
	for i, m := range g.members {
		if m.Needs == nil && i > 0 {
			out[i] = []*member{g.members[i-1]}
		}
		for _, name := range m.Needs {
			if byName[name] == nil {
				return nil, fmt.Errorf("%s needs %s, but there is no such component", m.Name, name)
			}
			out[i] = append(out[i], byName[name])
		}
	}
	return out, g.checkCycles(out)
}

// checkCycles finds components that wait for each other: it takes away all whose needs are
// met, again and again, and those are left.
func (g *Group) checkCycles(needs [][]*member) error {
	met := map[*member]bool{}
	for range g.members {
		for i, m := range g.members {
			isUnmet := func(n *member) bool { return !met[n] }
			if !slices.ContainsFunc(needs[i], isUnmet) {
				met[m] = true
			}
		}
	}
	for _, m := range g.members {
		if !met[m] {
			return fmt.Errorf("dependency cycle through %s", m.Name)
		}
	}
	return nil
}

// startWhenNeedsAreReady launches m, unless the group is stopped before.
func (g *Group) startWhenNeedsAreReady(ctx context.Context, m *member, needs []*member, failed chan<- *member) {
	for _, n := range needs {
		select {
		case <-n.ready:
		case <-g.stopped():
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.stopping && ctx.Err() == nil {
		g.launchLocked(ctx, m, failed)
	}
}

// waitReady returns when all members are ready or ctx is done, and with an error when a
// member ended before.
func (g *Group) waitReady(ctx context.Context, failed <-chan *member) error {
	for _, m := range g.members {
		select {
		case <-m.ready:
		case <-ctx.Done():
			return nil
		case f := <-failed:
			return f.endedEarly()
		}
	}
	return nil
}

// stopped returns a channel that is closed when the group begins to stop.
func (g *Group) stopped() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.overLocked()
}

// overLocked makes the zero value of a group usable.
func (g *Group) overLocked() chan struct{} {
	if g.over == nil {
		g.over = make(chan struct{})
	}
	return g.over
}

// beginStop keeps further components from starting and returns those that have started.
func (g *Group) beginStop() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopping = true
	close(g.overLocked())
	var started []*member
	for _, m := range g.members {
		if m.cancel != nil {
			started = append(started, m)
		}
	}
	return started
}

// launchLocked runs m in a goroutine. The member's context does not end with ctx: a member
// stops when its turn comes, not when the group is told to stop.
func (g *Group) launchLocked(ctx context.Context, m *member, failed chan<- *member) {
	runCtx, cancel := context.WithCancel(withLogger(context.WithoutCancel(ctx), m.Name))
	runCtx = withProgress(runCtx, func(text string) { g.progress(m, text) })
	m.cancel = cancel
	m.setLocked(Starting, nil)
	var once sync.Once
	markReady := func() {
		once.Do(func() {
			g.set(m, Ready, nil)
			close(m.ready)
		})
	}
	go func() {
		m.err = protect(runCtx, m.Component, markReady)
		early := runCtx.Err() == nil
		if early && m.err == nil {
			m.err = errEnded
		}
		g.finish(m, early)
		if early {
			failed <- m
		}
		close(m.done)
	}()
}

// protect turns a panic in a component into its error, and logs the stack.
func protect(ctx context.Context, c Component, ready func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			Logger(ctx).Error("component panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return c.Run(ctx, ready)
}

// stop stops components in reverse order. cause is the failure that made the group stop, nil
// when it was asked to.
func (g *Group) stop(cause error) error {
	errs := []error{cause}
	started := g.beginStop()
	for i := len(started) - 1; i >= 0; i-- {
		m := started[i]
		g.set(m, Stopping, nil)
		m.cancel()
		select {
		case <-m.done:
			if cause == nil && m.err != nil && !errors.Is(m.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("stopping %s: %w", m.Name, m.err))
			}
		case <-time.After(m.StopTimeout):
			err := fmt.Errorf("%s: %w (%s)", m.Name, ErrStopTimeout, m.StopTimeout)
			g.set(m, Failed, err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// progress sets what m is at.
func (g *Group) progress(m *member, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.status.Progress = text
}

func (m *member) endedEarly() error {
	<-m.done
	return fmt.Errorf("%s: %w", m.Name, m.err)
}

// finish records how m's Run returned. early means that m was not asked to stop.
func (g *Group) finish(m *member, early bool) {
	if early || m.err != nil && !errors.Is(m.err, context.Canceled) {
		g.set(m, Failed, m.err)
		return
	}
	g.set(m, Stopped, nil)
}

// set moves m to a state, unless m has already ended. A member that becomes ready while it
// is being stopped stays stopping.
func (g *Group) set(m *member, s State, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.setLocked(s, err)
}

func (m *member) setLocked(s State, err error) {
	switch was := m.status.State; {
	case was == Failed, was == Stopped, was == Stopping && s == Ready:
		return
	}
	m.status.State, m.status.Since = s, time.Now()
	if err != nil {
		m.status.Error = err.Error()
	}
	slog.Debug("component "+string(s), "component", m.Name)
}
