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
	if err := w.Service.Stop(ctx); err != nil {
		return fmt.Errorf("stopping %s: %w", w.Service.Name, err)
	}
	unlock, err := node.Lock(w.layout)
	if err != nil {
		return err
	}
	restored := w.returnState(ctx)
	linked := link(previousOf(w.Binary), w.Binary)
	unlock()
	if linked != nil {
		return fmt.Errorf("bringing the version before back: %w", linked)
	}
	if restored != nil {
		w.Lost = &Lost{Problem: fmt.Sprintf("the state of before could not be put back: %v", restored)}
	}
	return errors.Join(w.enter(Returned, w.Reason), w.Service.Start(ctx))
}

// returnState puts the snapshot back if the old version needs it.
func (w *watcher) returnState(ctx context.Context) error {
	if w.Agent || w.Elsewhere {
		return nil
	}
	used, err := snapshot.ReadState(w.layout)
	if err != nil {
		return err
	}
	own := node.OwnState()
	if own.CanRead(used) == nil {
		return nil
	}
	if w.Snapshot == "" {
		return errors.New("there is no snapshot: restore one by hand with brink snapshot restore --replace")
	}
	last, err := datastore.LastRevision(w.layout.DB())
	if err != nil {
		last = 0 // a database that the new version has damaged
	}
	until := time.Now().UTC().Round(time.Second)
	done, err := snapshot.Restore{Layout: w.layout, File: w.Snapshot, Replace: true, Own: own}.Run(ctx)
	if err != nil {
		return err
	}
	w.Lost = &Lost{After: done.Revision, UpTo: last, Since: done.Made, Until: until, KeptIn: done.Replaced}
	return nil
}

// Back is an upgrade that somebody takes back.
type Back struct {
	Layout layout.Layout
	Uses   func(args, env []string) bool
}

// Plan finds out what going back means, and changes nothing. loses is nil unless writes will be
// lost.
func (b Back) Plan(ctx context.Context) (r Record, loses *snapshot.Listed, err error) {
	r, err = current(ctx, b.Layout, b.Uses)
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

// Start begins what Plan has returned.
func Start(ctx context.Context, l layout.Layout, r Record) error {
	if r.Phase == Replacing {
		// No second copy on the card. The watcher runs by this name.
		if err := link(r.Binary, previousOf(r.Binary)); err != nil {
			return fmt.Errorf("keeping the version before: %w", err)
		}
	}
	if err := r.write(l); err != nil {
		return err
	}
	if err := watcherOf(r).start(ctx); err != nil {
		return errors.Join(fmt.Errorf("starting the service that does the upgrade: %w", err), os.Remove(l.UpgradeState()))
	}
	return nil
}
