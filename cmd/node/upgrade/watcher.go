package upgrade

import (
	"context"
	"errors"
	"fmt"
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
	layout   layout.Layout
	service  manager
	own      snapshot.State // of the version before, which this process is
	patience time.Duration  // between two tries to write down the end
	log      *slog.Logger
}

// manager starts and stops brink. It is the initsystem.Service of the record.
type manager interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	Restarts(ctx context.Context) (n int, ok bool)
	IsStopped(ctx context.Context) bool
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
	w := &watcher{Record: r, layout: l, service: r.Service, own: node.OwnState(), patience: 10 * time.Second, log: slog.Default().With("component", "upgrade")}
	for w.IsUnderWay() {
		w.log.Info(w.Lines()[0])
		if err := w.step(ctx); err != nil {
			return err
		}
	}
	for _, line := range w.Lines() {
		w.log.Info(line)
	}
	return errors.Join(remove(newOf(w.Binary)), snapshot.ForgetWithout(l), watcherOf(w.Record).end(ctx))
}

// step brings the upgrade to another phase.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case w.Phase == Replacing:
		return w.replace(ctx)
	case w.Phase == Watching && !isSame(w.Binary, programOf(w.Binary)):
		return w.watch(ctx)
	}
	return w.goBack(ctx) // also where the old binary is back, and the disk was too full to say so
}

// enter writes down the phase that the upgrade is in from now on. A disk that is full stops no
// upgrade on its way: what is done is done again after a kill. It waits for room at the end, as
// whoever starts the watcher again would stop brink again.
func (w *watcher) enter(ctx context.Context, phase Phase, reason string) error {
	w.Phase, w.Reason = phase, reason
	if !w.IsUnderWay() {
		w.Ended = time.Now().UTC().Round(time.Second)
	}
	for {
		err := w.write(w.layout)
		if err == nil {
			return nil
		}
		w.log.Warn("how far the upgrade is cannot be written down", "phase", phase, "error", err)
		if w.IsUnderWay() {
			return nil
		}
		if !sleep.For(ctx, w.patience) {
			return err
		}
	}
}

// finish ends the upgrade with the binary that is in its place.
func (w *watcher) finish(ctx context.Context, phase Phase, reason string) error {
	started := w.service.Start(ctx)
	return errors.Join(w.enter(ctx, phase, reason), started)
}

// replace puts the new binary into its place. What fails before the rename leaves the old one.
func (w *watcher) replace(ctx context.Context) error {
	if !isSame(w.Binary, programOf(w.Binary)) {
		return w.enter(ctx, Watching, "") // renamed before a kill
	}
	if err := w.service.Stop(ctx); err != nil {
		return w.finish(ctx, Refused, fmt.Sprintf("stopping %s: %v", w.Service.Name, err))
	}
	if err := w.exchange(ctx); err != nil {
		return w.finish(ctx, Refused, err.Error())
	}
	return w.enter(ctx, Watching, "")
}

// exchange keeps the state and renames, while no brink runs.
func (w *watcher) exchange(ctx context.Context) error {
	unlock, err := node.Lock(w.layout)
	if err != nil {
		return err
	}
	defer unlock()
	if err := w.keepState(ctx); err != nil {
		return err
	}
	if _, err := os.Lstat(newOf(w.Binary)); err != nil {
		return fmt.Errorf("the new binary is gone: %w", err)
	}
	// No second copy on the card. What had the name may still be needed if it failed before this.
	if err := link(w.Binary, previousOf(w.Binary)); err != nil {
		return fmt.Errorf("keeping the version before: %w", err)
	}
	if err := os.Rename(newOf(w.Binary), w.Binary); err != nil {
		return fmt.Errorf("replacing %s: %w", w.Binary, err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(w.Binary)); err != nil {
		w.log.Warn("the new binary may be gone after a power cut", "error", err)
	}
	return nil
}

// keepState makes the snapshot, or tells the new version's first start that none is wanted.
func (w *watcher) keepState(ctx context.Context) error {
	switch {
	case w.Agent || w.Elsewhere:
		return nil
	case w.NoSnapshot:
		return snapshot.StartWithout(w.layout, w.To)
	}
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
	if err := w.service.Start(ctx); err != nil { // also when the watcher was killed before it did so
		w.log.Warn("starting the new version", "error", err)
	}
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
			return w.enter(ctx, Done, "")
		case bad:
			return w.enter(ctx, Returning, why)
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
		if s.outside == "" && w.service.IsStopped(ctx) {
			s.outside = "somebody has stopped " + w.Service.Name
		}
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
	restarts, ok := w.service.Restarts(ctx)
	if ok && (!e.hasBase || restarts < e.base) {
		e.base, e.hasBase = restarts, true
	}
	// The first to take the lock is the first start.
	return max(restarts-e.base, e.changes-1, 0)
}

// end removes the watcher's service, in which this process runs.
func (w watcherService) end(ctx context.Context) error {
	if w.service.Init != initsystem.OpenRC {
		return errors.Join(w.remove(ctx, false), remove(w.program))
	}
	return w.endUnderOpenRC(ctx)
}
