package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"brink/cmd/node"
	"brink/internal/atomicfile"
	"brink/internal/initsystem"
	"brink/internal/layout"
	"brink/internal/release"
	"brink/internal/sleep"
	"brink/server/snapshot"
)

// watcher brings an upgrade to its end.
type watcher struct {
	Record
	layout layout.Layout
	log    *slog.Logger
}

// Continue does what is left of an upgrade until it has ended. It is the watcher's whole work,
// and of a watcher that was killed too.
func Continue(ctx context.Context, l layout.Layout) error {
	r, err := Read(l)
	if errors.Is(err, ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	w := &watcher{Record: r, layout: l, log: slog.Default().With("component", "upgrade")}
	for w.IsUnderWay() {
		w.log.Info(w.Lines()[0])
		if err := w.step(ctx); err != nil {
			return err
		}
	}
	for _, line := range w.Lines() {
		w.log.Info(line)
	}
	return watcherOf(w.Record).end(ctx)
}

// step brings the upgrade to another phase.
func (w *watcher) step(ctx context.Context) error {
	switch w.Phase {
	case Replacing:
		return w.replace(ctx)
	case Watching:
		return w.watch(ctx)
	default:
		return w.goBack(ctx)
	}
}

// enter writes down the phase that the upgrade is in from now on.
func (w *watcher) enter(phase Phase, reason string) error {
	w.Phase, w.Reason = phase, reason
	if !w.IsUnderWay() {
		w.Ended = time.Now().UTC().Round(time.Second)
	}
	return w.write(w.layout)
}

// replace puts the new binary into its place. What fails before the rename leaves the old one.
func (w *watcher) replace(ctx context.Context) error {
	if _, err := os.Lstat(newOf(w.Binary)); errors.Is(err, fs.ErrNotExist) {
		// Renamed before a power cut: the machine's start has started the new one since.
		return errors.Join(w.enter(Watching, ""), w.Service.Start(ctx))
	}
	if err := w.Service.Stop(ctx); err != nil {
		return w.refuse(ctx, fmt.Errorf("stopping %s: %w", w.Service.Name, err))
	}
	if err := w.exchange(ctx); err != nil {
		return w.refuse(ctx, err)
	}
	if err := w.enter(Watching, ""); err != nil {
		return err
	}
	return w.Service.Start(ctx)
}

// refuse goes on with the old binary, which is still in its place.
func (w *watcher) refuse(ctx context.Context, reason error) error {
	os.Remove(newOf(w.Binary))
	return errors.Join(w.enter(Refused, reason.Error()), w.Service.Start(ctx))
}

// exchange keeps the state and renames, while no brink runs.
func (w *watcher) exchange(ctx context.Context) error {
	unlock, err := node.Lock(w.layout)
	if err != nil {
		return err
	}
	defer unlock()
	if !w.Agent && !w.Elsewhere && !w.NoSnapshot {
		if err := w.keepState(ctx); err != nil {
			return err
		}
	}
	if err := os.Rename(newOf(w.Binary), w.Binary); err != nil {
		return fmt.Errorf("replacing %s: %w", w.Binary, err)
	}
	return atomicfile.SyncDir(filepath.Dir(w.Binary))
}

func (w *watcher) keepState(ctx context.Context) error {
	name, _ := os.Hostname()
	path, err := snapshot.Automatic(ctx, snapshot.Source{Layout: w.layout, Node: name, MadeBy: release.BuiltAs(), Before: w.To})
	if err != nil {
		return err
	}
	w.Snapshot = path
	return w.write(w.layout)
}

// watch judges the new version.
func (w *watcher) watch(ctx context.Context) error {
	j := &judge{limit: w.Limit, wasReady: w.WasReady}
	ends := newEnds(w)
	for before := time.Now(); ; {
		if !sleep.For(ctx, interval) {
			return ctx.Err() // at a shutdown; the next boot goes on
		}
		s := w.see(ctx, ends)
		now := time.Now()
		verdict, why := j.look(now.Sub(before), s)
		before = now
		switch verdict {
		case good:
			return w.enter(Done, "")
		case bad:
			return w.enter(Returning, why)
		}
	}
}

// lookLimit is how long a brink may take to answer one look.
const lookLimit = 5 * time.Second

func (w *watcher) see(ctx context.Context, ends *ends) sight {
	ctx, cancel := context.WithTimeout(ctx, lookLimit+serverPatience)
	defer cancel()
	asking, stop := context.WithTimeout(ctx, lookLimit)
	status, err := node.AskStatus(asking, w.layout)
	stop()
	s := sight{answers: err == nil, ready: err == nil && status.Ready, ends: ends.count(ctx, w)}
	if s.ready {
		s.isNew = status.Version() == w.To
		return s
	}
	if s.answers {
		s.isNew, s.why = status.Version() == w.To, status.WaitingFor()
		s.outside = w.outside(ctx, &status)
	} else {
		s.outside = w.outside(ctx, nil)
	}
	return s
}

// ends counts how often brink's process has ended: by what the service manager says, and by the
// process ids that take the data directory's lock.
type ends struct {
	base    int
	hasBase bool
	last    string
	changes int
}

func newEnds(w *watcher) *ends { return &ends{last: node.LockHolder(w.layout)} }

func (e *ends) count(ctx context.Context, w *watcher) int {
	if holder := node.LockHolder(w.layout); holder != e.last {
		e.last = holder
		e.changes++
	}
	restarts, ok := w.Service.Restarts(ctx)
	if ok && (!e.hasBase || restarts < e.base) {
		e.base, e.hasBase = restarts, true
	}
	// The first to take the lock is the first start.
	return max(restarts-e.base, e.changes-1, 0)
}

// end removes the watcher's service, in which this process runs.
func (w watcherService) end(ctx context.Context) error {
	if w.service.Init != initsystem.OpenRC {
		return w.remove(ctx, false)
	}
	return w.endUnderOpenRC(ctx)
}
