// Package upgrade exchanges the brink of a machine for another version, and brings the one
// before back when the new one fails.
//
// Two processes take part. `brink upgrade` (Prepare) resolves, downloads, verifies and tries
// the new binary beside the old one, and refuses what cannot go well, all while brink runs.
// Then a watcher (Continue) does the rest as a service of its own, NAME-upgrade: stop, snapshot,
// rename, start, and judge. The watcher is the old binary, by a hard link of its own, so
// nothing depends on what the new one can still do. It is a service, so that it survives a
// terminal that is closed and goes on after a power cut: what has been decided is in a file
// (Record), written before each step, and every step can be done again.
//
// The new brink is good once the node has been Ready for a while. It is bad when it has ended
// several times, or has not become Ready in the time that it was given. What it waits for and
// cannot help does not count: no address on the machine, no server that answers an agent, a
// database elsewhere that is away, a service that somebody has stopped. Then time stands still.
//
// Going back puts the old binary back, and the snapshot only where the old binary could not
// read what the new one has used (snapshot.State.CanRead): else what was written since would be
// lost for nothing. The state that is given up is kept beside it. Where the old binary could not
// start, because there is no snapshot or no room for it, the new one stays (Failed).
//
// Not used: OnFailure= of systemd. With Restart=always a unit fails only through
// StartLimitBurst, which RestartSec=5s never reaches, a start that hangs is never a failure, and
// OpenRC has nothing like it.
//
// Read in this order: record.go, hold.go, prepare.go and rules.go, fetch.go, service.go; then
// watcher.go, judge.go, outside.go, back.go, stopped.go.
package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/initsystem"
	"brink/internal/layout"
)

// Files beside the binary.
const (
	newSuffix      = ".new"      // of a hidden name: what has been downloaded
	previousSuffix = ".previous" // the version before, a hard link
	watcherSuffix  = ".watcher"  // of a hidden name: what the watcher runs, a hard link
)

// previousOf returns the link to the version before.
func previousOf(binary string) string { return binary + previousSuffix }

// newOf returns where the next binary waits. It is beside the old one: a rename must not cross
// file systems, and /tmp is in memory on boards.
func newOf(binary string) string {
	return filepath.Join(filepath.Dir(binary), "."+filepath.Base(binary)+newSuffix)
}

// programOf returns the watcher's own link to what it runs: the version that comes back if the
// new one fails. It is there while an upgrade is under way.
func programOf(binary string) string {
	return filepath.Join(filepath.Dir(binary), "."+filepath.Base(binary)+watcherSuffix)
}

// isSame reports whether two names are of one file.
func isSame(a, b string) bool {
	one, err := os.Stat(a)
	other, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(one, other)
}

// remove removes a file that may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// link makes a second name for a file, in the place of what has that name.
func link(from, to string) error {
	temporary := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".link")
	if err := remove(temporary); err != nil {
		return err
	}
	if err := os.Link(from, temporary); err != nil {
		return err
	}
	// rename(2) does nothing if both are names of one file already, and leaves both.
	if err := os.Rename(temporary, to); err != nil {
		return err
	}
	if err := remove(temporary); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}

// Abandon ends an upgrade that is under way, for who takes brink off the machine: the watcher
// would start it again. It removes what upgrades keep outside of the data directory, but not the
// link to the version before, which lies beside a binary that stays too.
func Abandon(ctx context.Context, l layout.Layout) error {
	r, err := Read(l)
	if err != nil || r.Service.Name == "" {
		return nil // none, or nobody's
	}
	if err := watcherOf(r).remove(ctx, true); err != nil {
		return fmt.Errorf("ending an upgrade that is under way: %w", err)
	}
	return errors.Join(remove(newOf(r.Binary)), r.abandon(l))
}

// abandon ends the record, which may stay with the data: the next brink can be upgraded.
func (r Record) abandon(l layout.Layout) error {
	if !r.IsUnderWay() {
		return nil
	}
	was := r.Phase
	r.Phase, r.Reason, r.Ended = Failed, "brink was taken off the machine", time.Now().UTC().Round(time.Second)
	if was == Replacing && isSame(r.Binary, programOf(r.Binary)) {
		r.Phase = Refused
	}
	return errors.Join(r.write(l), remove(programOf(r.Binary)))
}

// watcherOf returns the watcher of an upgrade.
func watcherOf(r Record) watcherService {
	return watcherService{service: r.Service, program: programOf(r.Binary), dataDir: r.DataDir, root: "/", run: initsystem.Run}
}
