package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"brink/internal/lifecycle"
)

// Directory keeps the images of a directory of archives and lists on the node, while the
// node runs.
//
// Archives are large, and reading all of them at each start would take minutes on a board,
// so the file Layout.ImportedImages records what was imported. The images are pinned,
// because the archive may be their only source. When an archive was removed, its images
// are unpinned.
//
// A damaged archive is logged and not read again until it changes: the node is worth more
// than one image.
type Directory struct {
	store Store
	path  string
	// imported is called after archives have brought something; it may be nil.
	imported func(ctx context.Context)

	arrived chan struct{}      // closed when the archives that lay there at the start were read
	again   chan chan struct{} // asks for a look at everything; closed when that is done

	// What follows belongs to Run.
	record  *record
	seen    map[string]stamp
	named   map[string]string // why a name is passed over, as it was logged
	faults  map[string]fault
	cleared bool // imports that an earlier run left were dropped

	mu       sync.Mutex
	warnings error
}

// fault is why a file could not be taken though it may be good, and when it is tried
// again.
type fault struct {
	stamp stamp
	text  string
	next  time.Time
	after time.Duration
}

const (
	// firstRetry and LastRetry bound the time between tries of what failed for a reason of
	// the node or the network.
	firstRetry, LastRetry = 30 * time.Second, 30 * time.Minute
	// lookEvery is for what inotify does not see, such as a disk mounted over the
	// directory.
	lookEvery = time.Minute
)

// NewDirectory returns the directory at path. imported is called after archives have
// brought images; it may be nil.
func NewDirectory(store Store, path string, imported func(ctx context.Context)) *Directory {
	return &Directory{
		store: store, path: path, imported: imported,
		arrived: make(chan struct{}), again: make(chan chan struct{}),
		record: &record{stamps: map[string]stamp{}}, seen: map[string]stamp{}, named: map[string]string{}, faults: map[string]fault{},
	}
}

// Arrived returns a channel that is closed when the archives that lay in the directory at
// the start have been read.
func (d *Directory) Arrived() <-chan struct{} { return d.arrived }

// Warnings returns which files of the directory could not be used as they are.
func (d *Directory) Warnings() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.warnings
}

// ImportAgain looks at everything once more, as somebody may have removed images, and
// returns when Run has done so.
func (d *Directory) ImportAgain(ctx context.Context) {
	done := make(chan struct{})
	select {
	case <-ctx.Done():
	case d.again <- done:
		select {
		case <-ctx.Done():
		case <-done:
		}
	}
}

// Run takes what is in the directory, and what comes into it, until ctx ends. It makes the
// directory, so that it can be watched.
func (d *Directory) Run(ctx context.Context) {
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		lifecycle.Logger(ctx).Warn("no image archives are imported", "error", err)
	}
	changed := watch(ctx, d.path)
	d.record = readRecord(d.store.Layout.ImportedImages())
	there, verify, asked := d.look(ctx), true, (chan struct{})(nil)
	for ctx.Err() == nil {
		d.takeArchives(ctx, there, verify)
		if asked != nil {
			close(asked)
		} else if verify {
			close(d.arrived)
		}
		there, asked = d.untilChanged(ctx, there, verify, changed)
		verify = asked != nil
	}
}

// untilChanged pulls what lists name, which needs a network and may take long, until
// something else has to be done.
func (d *Directory) untilChanged(ctx context.Context, there entries, verify bool, changed <-chan struct{}) (entries, chan struct{}) {
	within, cancel := context.WithCancel(ctx)
	pulled := d.startPulls(within, d.takeLists(ctx, there, verify, nil))
	defer func() {
		cancel()
		if pulled != nil {
			<-pulled
		}
	}()
	for {
		wait := settleTime
		if pulled == nil {
			wait = d.nextLook(there)
		}
		select {
		case <-ctx.Done():
			return there, nil
		case asked := <-d.again:
			return d.look(ctx), asked
		case failed := <-pulled:
			pulled = nil
			d.takeLists(ctx, there, verify, failed)
			continue
		case <-changed:
		case <-time.After(wait):
		}
		if there = d.look(ctx); d.hasWork(there, pulled == nil) {
			return there, nil
		}
	}
}

// look reads the directory and logs each name that is passed over, once.
func (d *Directory) look(ctx context.Context) entries {
	there, seen, err := scan(d.path, d.seen, time.Now())
	d.seen = seen
	if err != nil {
		there.unknown[d.path] = err.Error()
		there.failed = true
	}
	for path, why := range there.unknown {
		if d.named[path] != why {
			d.named[path] = why
			lifecycle.Logger(ctx).Warn("a file among the image archives is not used", "file", path, "reason", why)
		}
	}
	return there
}

// nextLook returns when to look again without having been told of a change.
func (d *Directory) nextLook(there entries) time.Duration {
	wait := lookEvery
	if len(there.writing) > 0 {
		wait = settleTime
	}
	for _, f := range d.faults {
		wait = min(wait, max(time.Second, time.Until(f.next)))
	}
	return wait
}

// hasWork reports whether there is something to take or to release. Lists that are being
// pulled are in work.
func (d *Directory) hasWork(there entries, lists bool) bool {
	isNew := func(f found) bool { return (lists || !f.list) && d.isNew(f) }
	return slices.ContainsFunc(there.files, isNew) || len(d.removed(there)) > 0
}

// isNew reports whether a file is not in the record, and may be tried now.
func (d *Directory) isNew(f found) bool { return !d.record.stamps[f.path].same(f.stamp) && d.isDue(f) }

// isDue reports whether a file that failed may be tried now, as it has changed or some time
// has passed.
func (d *Directory) isDue(f found) bool {
	last, failed := d.faults[f.path]
	return !failed || !last.stamp.same(f.stamp) || !time.Now().Before(last.next)
}

// removed returns the files of the record that are no longer in the directory. When that
// cannot be read nothing counts as removed.
func (d *Directory) removed(there entries) []string {
	var out []string
	for path := range d.record.stamps {
		if !there.failed && !slices.Contains(there.paths(), path) {
			out = append(out, path)
		}
	}
	return out
}

// fail logs why a file was not taken, unless it was the same the last time, and sets when
// it is tried again.
func (d *Directory) fail(ctx context.Context, f found, err error) {
	last := d.faults[f.path]
	after := min(max(firstRetry, 2*last.after), LastRetry)
	if last.text != err.Error() {
		lifecycle.Logger(ctx).Error("image archive not imported, it is tried again", "archive", f.path, "error", err)
	}
	d.faults[f.path] = fault{f.stamp, err.Error(), time.Now().Add(after), after}
}

// setWarnings keeps what `brink status` shows, and forgets the faults of files that went.
func (d *Directory) setWarnings(there entries) {
	var errs []error
	for path := range d.faults {
		if !slices.Contains(there.paths(), path) {
			delete(d.faults, path)
		}
	}
	for _, f := range there.files {
		why := d.record.stamps[f.path].problem()
		if failed, ok := d.faults[f.path]; ok {
			why = failed.text
		}
		if why != "" {
			errs = append(errs, fmt.Errorf("image archive %s: %s", f.path, why))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warnings = errors.Join(errs...)
}
