package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"brink/cmd/node"
	"brink/datastore"
	"brink/internal/layout"
	"brink/server/snapshot"
)

// goBack brings the version before back: its binary and, where it could not read what the new
// one has used, the snapshot. This process is that version.
func (w *watcher) goBack(ctx context.Context) error {
	if err := w.service.Stop(ctx); err != nil {
		return fmt.Errorf("stopping %s: %w", w.Service.Name, err)
	}
	unlock, err := node.Lock(w.layout)
	if err != nil {
		return err
	}
	defer unlock()
	if err := w.returnState(ctx); err != nil {
		w.Lost = &Lost{Problem: fmt.Sprintf("%s stays: %v", w.To, err)}
		unlock()
		return w.finish(ctx, Failed, w.Reason)
	}
	if err := link(programOf(w.Binary), w.Binary); err != nil {
		return fmt.Errorf("bringing the version before back: %w", err)
	}
	unlock()
	return w.finish(ctx, Returned, w.Reason)
}

// returnState makes the state one that the old version can use. An error means that it is not.
func (w *watcher) returnState(ctx context.Context) error {
	if w.Agent {
		return nil
	}
	used, err := snapshot.ReadState(w.layout)
	if err == nil {
		err = w.own.CanRead(used)
	}
	if err == nil {
		w.goOnFrom(used)
		return nil
	}
	if w.Elsewhere {
		return fmt.Errorf("%s cannot use what it has written into the database elsewhere: put back its backup and the binary %s by hand", w.From, filepath.Base(previousOf(w.Binary)))
	}
	file, findErr := w.snapshotBefore()
	if findErr != nil {
		return fmt.Errorf("%s cannot use what it has written (%w), and %w", w.From, err, findErr)
	}
	return w.restore(ctx, file)
}

// goOnFrom has the old version go on from what the new one leaves: its start would else make a
// snapshot first, for which a disk may have no room.
func (w *watcher) goOnFrom(used snapshot.State) {
	if w.Lost != nil && w.Lost.KeptIn != "" { // restored before a kill
		if err := snapshot.TakeOthers(w.layout, w.Lost.KeptIn); err != nil {
			w.Lost.Problem = err.Error()
		}
	}
	if used == w.own {
		return
	}
	if err := w.own.Use(w.layout); err != nil {
		w.log.Warn("the version before will make a snapshot at its start", "error", err)
	}
}

// snapshotBefore returns the snapshot of before the upgrade. The new version may have made it.
func (w *watcher) snapshotBefore() (string, error) {
	if w.Snapshot != "" {
		return w.Snapshot, nil
	}
	found, ok, err := snapshot.FindBefore(w.layout, w.From)
	if err != nil {
		return "", err
	}
	// One of long ago would take away what was written since.
	if !ok || found.Before != w.To || found.Made.Before(w.Begun) {
		return "", errors.New("there is no snapshot of before: restore one by hand with brink snapshot restore --replace")
	}
	return found.Path, nil
}

func (w *watcher) restore(ctx context.Context, file string) error {
	last, err := datastore.LastRevision(w.layout.DB())
	if err != nil {
		last = 0 // a database that the new version has damaged
	}
	before := func(d snapshot.Restored) error { return w.beforeExchange(d, last) }
	done, err := snapshot.Restore{Layout: w.layout, File: file, Replace: true, Own: w.own, Before: before}.Run(ctx)
	switch {
	case err == nil:
		return nil
	case done.Replaced != "": // it is restored, but not all is well
		w.Lost.Problem = err.Error()
		return nil
	}
	err = fmt.Errorf("the state of before could not be put back: %w", err)
	if _, there := os.Lstat(newOf(w.Binary)); there == nil {
		if back := os.Rename(newOf(w.Binary), w.Binary); back != nil {
			err = fmt.Errorf("%w; and %w", err, back)
		}
	}
	return err
}

// beforeExchange writes down what will be lost, while it is known, and puts the old binary into
// its place, so that a boot does not start the new one with the state of before.
func (w *watcher) beforeExchange(d snapshot.Restored, last int64) error {
	if !w.hasReplaced() {
		w.Lost = &Lost{After: d.Revision, UpTo: last, Since: d.Made, Until: time.Now().UTC().Round(time.Second), KeptIn: d.Replaced}
		if err := w.enter(context.Background(), Returning, w.Reason); err != nil {
			return err
		}
	}
	program := programOf(w.Binary)
	if isSame(w.Binary, program) {
		return nil
	}
	if err := link(w.Binary, newOf(w.Binary)); err != nil { // in case the exchange is refused
		return err
	}
	return link(program, w.Binary)
}

// hasReplaced reports whether a pass before this one has exchanged the states: what it has kept
// is what the old version could not use.
func (w *watcher) hasReplaced() bool {
	if w.Lost == nil || w.Lost.KeptIn == "" {
		return false
	}
	kept, err := snapshot.ReadReplaced(w.layout, w.Lost.KeptIn)
	return err == nil && w.own.CanRead(kept) != nil
}

// Back is an upgrade that somebody takes back.
type Back struct {
	Layout layout.Layout
	Hold   *Hold
	Uses   func(args, env []string) bool
}

// Plan finds out what going back means, and changes nothing. loses is nil unless writes will be
// lost.
func (b Back) Plan(ctx context.Context) (r Record, loses *snapshot.Listed, err error) {
	r, err = current(ctx, b.Layout, b.Hold, b.Uses)
	if errors.Is(err, node.ErrNotRunning) {
		r, err = b.stopped(ctx)
	}
	if err != nil {
		return r, nil, err
	}
	previous := previousOf(r.Binary)
	if _, err := os.Stat(previous); err != nil {
		return r, nil, fmt.Errorf("there is no version before to go back to: %w", err)
	}
	before, err := versionOf(ctx, previous)
	if err != nil {
		return r, nil, err
	}
	r.From, r.To = before.String(), r.From
	if r.From == r.To {
		return r, nil, fmt.Errorf("%s is the same version as the one that runs, %s", previous, r.To)
	}
	r.Phase, r.ByHand, r.Reason = Returning, true, "somebody asked for it"
	used, err := snapshot.ReadState(b.Layout)
	isReadable := snapshot.State{Version: r.From, Kubernetes: before.Kubernetes(), Format: snapshot.StateFormat}.CanRead(used) == nil
	if err != nil || r.Agent || isReadable {
		return r, nil, err
	}
	if r.Elsewhere {
		return r, nil, fmt.Errorf("%s cannot read what %s has written into the database elsewhere: put back its backup and the binary %s by hand", r.From, r.To, filepath.Base(previous))
	}
	found, ok, err := snapshot.FindBefore(b.Layout, r.From)
	if err == nil && !ok {
		err = fmt.Errorf("%s cannot read what %s has written, and there is no snapshot of its state in %s", r.From, r.To, b.Layout.Snapshots())
	}
	r.Snapshot = found.Path
	return r, &found, err
}

// Start begins what Prepare or Plan has returned.
func Start(ctx context.Context, l layout.Layout, r Record) error {
	if err := notUnderWay(l); err != nil {
		return err
	}
	runs := r.Binary
	if r.Phase == Returning {
		runs = previousOf(r.Binary)
	}
	if err := link(runs, programOf(r.Binary)); err != nil {
		return fmt.Errorf("keeping the version that comes back: %w", err)
	}
	if err := r.write(l); err != nil {
		return errors.Join(err, remove(programOf(r.Binary)))
	}
	if err := watcherOf(r).start(ctx); err != nil {
		return errors.Join(fmt.Errorf("starting the service that does the upgrade: %w", err), os.Remove(l.UpgradeState()), remove(programOf(r.Binary)))
	}
	return nil
}

// Resume has the watcher of an upgrade that is under way go on where it does not run, as when
// whoever asked for it was killed. It reports whether there is such an upgrade.
func Resume(ctx context.Context, l layout.Layout, hold *Hold) (bool, error) {
	r, err := Read(l)
	if err != nil || !r.IsUnderWay() {
		return false, nil // what is wrong with the record is in its way later
	}
	if err := hold.lock(l, r.Binary); err != nil {
		return true, err
	}
	if _, err := os.Stat(programOf(r.Binary)); err != nil {
		return true, fmt.Errorf("%w: the upgrade that is under way has lost its program: put %s back there", err, r.From)
	}
	return true, watcherOf(r).launch(ctx, "start") // no other one than the one that runs
}

func notUnderWay(l layout.Layout) error {
	if last, err := Read(l); err == nil && last.IsUnderWay() {
		return fmt.Errorf("an upgrade is under way: %s", last.Lines()[0])
	}
	return nil
}
