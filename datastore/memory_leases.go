package datastore

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/once"
)

const (
	// leasesFile in Config.SocketDir is a copy of the leases alone.
	leasesFile = layout.LeasesCopy
	// leasesPrefix and leasesEnd are the range in which the API server keeps leases.
	leasesPrefix = "/registry/leases/"
	leasesEnd    = "/registry/leases0"
	// leasesPause is the least time between two copies: how far they may lag.
	leasesPause = time.Second
	// bootIDFile names this boot: proc_sys_kernel(5).
	bootIDFile = "/proc/sys/kernel/random/boot_id"
)

// leasesMagic begins a copy, which is not compressed: a compressor needs more
// memory each time than the leases of a big cluster.
const leasesMagic = "brink leases 1\n"

// leaseCopy keeps the leases where a killed process leaves them and a power cut
// does not: in memory, as a file. The holders of leases, pods above all, live on
// when brink is killed and must find themselves holding them when it is back: a
// snapshot that is an hour old would give a lease to whom it was taken from, and
// there would be two leaders. After a power cut there are no holders.
type leaseCopy struct {
	path string // empty: the directory is on a disk, which this would wear out
	boot string
}

func newLeaseCopy(path, dir string) leaseCopy {
	boot := bootID()
	if boot == "" || !inMemory(dir) {
		return leaseCopy{}
	}
	return leaseCopy{path: path, boot: strings.TrimSpace(boot)}
}

// inMemory reports whether files in dir are kept in memory and cost no write to a disk.
func inMemory(dir string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return false
	}
	switch uint32(stat.Type) { // a signed word of the machine's size
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return true
	}
	return false
}

// load returns the copy if it was made during this boot. Without one the error
// is fs.ErrNotExist.
func (c leaseCopy) load() (savedState, error) {
	if c.path == "" {
		return savedState{}, fs.ErrNotExist
	}
	data, err := os.ReadFile(c.path)
	if err != nil {
		return savedState{}, err
	}
	body, err := unseal(leasesMagic, data)
	if err != nil {
		return savedState{}, err
	}
	var saved savedState
	if err := gob.NewDecoder(bytes.NewReader(body)).Decode(&saved); err != nil {
		return savedState{}, err
	}
	if saved.Boot != c.boot {
		return savedState{}, fs.ErrNotExist
	}
	return saved, nil
}

func (c leaseCopy) save(saved savedState) error {
	saved.Boot = c.boot
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(saved); err != nil {
		return err
	}
	return atomicfile.Write(c.path, seal(leasesMagic, body.Bytes()), 0o600)
}

// remove is for when the copy is of no more use. One that stays does no harm
// beside a newer snapshot.
func (c leaseCopy) remove() {
	if c.path != "" {
		os.Remove(c.path)
	}
}

// loadLeases returns the copied leases if they are newer than those of the
// snapshot. A database that was made just now is that of another cluster.
func (s *Store) loadLeases(snapshot savedState) (savedState, bool) {
	if s.created {
		s.leases.remove()
		return savedState{}, false
	}
	saved, err := s.leases.load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("copied leases cannot be read, taking those last saved", "path", s.leases.path, "error", err)
	}
	return saved, err == nil && saved.Revision > snapshot.Revision
}

// withoutLeases returns saved with everything else that is in it.
func (saved savedState) withoutLeases() savedState {
	saved.Items = slices.DeleteFunc(slices.Clone(saved.Items), func(it savedItem) bool {
		return inRange(string(it.Key), leasesPrefix, leasesEnd)
	})
	return saved
}

// copyLeases makes a copy whenever leases have changed, until ctx is done.
func (s *Store) copyLeases(ctx context.Context, store *memoryStore) {
	if s.leases.path == "" {
		return
	}
	var warned once.Reporter
	copied, _ := store.CurrentRevision(ctx)
	for store.waitChange(ctx, leasesPrefix, leasesEnd, copied) {
		saved := store.state(leasesPrefix, leasesEnd)
		err := s.leases.save(saved)
		if err == nil {
			warned.Cleared(s.leases.path)
		} else if warned.Changed(s.leases.path, "") {
			s.log.Warn("leases cannot be copied: after a crash older ones count", "error", err)
		}
		copied = saved.Revision
		select {
		case <-ctx.Done():
		case <-time.After(leasesPause):
		}
	}
}
