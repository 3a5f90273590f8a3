package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"brink/internal/atomicfile"
)

const (
	// revisionStep is how many revisions one write of the revision file
	// reserves: a day's worth at ten a second.
	revisionStep = 1 << 20
	// revisionLost is added to the newest revision known when the revision
	// file is lost: more than a run can use between two snapshots.
	revisionLost = 1 << 40
)

// firstRevision returns one that nobody has seen more of. It is 0 only beside a
// database that was made just now, without a snapshot found. Without its file
// what was saved tells how much had been reserved then; without both only the
// clock is left, in microseconds because no store writes as fast as that. It
// may be wrong, so it counts only where it leads further.
func (s *Store) firstRevision(found bool, states ...savedState) int64 {
	var newest, reserved int64
	for _, saved := range states {
		reserved = max(reserved, saved.Ceiling)
		for _, it := range saved.Items {
			newest = max(newest, it.ModRevision)
		}
	}
	start, err := readRevision(s.path(revisionFile))
	if errors.Is(err, fs.ErrNotExist) && s.created && !found {
		return 0
	}
	if err != nil {
		s.log.Warn("volatile revision file is lost, jumping ahead", "error", err)
		return max(max(newest, reserved)+revisionLost, time.Now().UnixMicro())
	}
	return max(start, newest)
}

// reserveRevisions makes revisions from next on usable and returns the last.
func (s *Store) reserveRevisions(next int64) (int64, error) {
	ceiling := next + revisionStep
	err := writeRevision(s.path(revisionFile), ceiling)
	s.noteSave(err)
	return ceiling, err
}

func writeRevision(path string, revision int64) error {
	return atomicfile.Write(path, []byte(strconv.FormatInt(revision, 10)+"\n"), 0o600)
}

func readRevision(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	revision, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || revision < 0 {
		return 0, fmt.Errorf("reading %s: not a revision: %.20q", path, data)
	}
	return revision, nil
}
