package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

const (
	// inUseFile exists while the database is open. Found at start, it says that
	// the last run did not end well: power cut, kill -9, crash.
	inUseFile = databaseFile + inUseSuffix
	// inUseSuffix makes the mark one of the sidecars.
	inUseSuffix = layout.InUseSuffix
	// checkIsLong is the size from which the log says what a start waits for.
	checkIsLong = 256 << 20
)

// sqliteMagic begins every SQLite database: https://sqlite.org/fileformat.html
var sqliteMagic = []byte("SQLite format 3\x00")

var errDamaged = errors.New("damaged")

// sidecars are the suffixes of the files that make up a database. The mark is
// last: setting aside that breaks off must not look like a fresh directory.
var sidecars = []string{"", "-wal", "-shm", inUseSuffix}

// prepareDatabase checks the database, repairs it or makes a new one, so that it can be opened.
// The error says why it cannot.
func (s *Store) prepareDatabase() error {
	if err := requireSpace(s.cfg.Dir); err != nil {
		return err
	}
	_, err := os.Stat(s.database())
	switch {
	case err == nil:
		if err = s.checkDatabase(); err == nil {
			err = s.inspect()
		}
	case errors.Is(err, fs.ErrNotExist):
		err = s.checkMissing(err)
	}
	if errors.Is(err, errDamaged) && s.cfg.SetAsideDamaged {
		err = s.setAside(err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = createDatabase(s.cfg.Dir)
		s.created = err == nil
	}
	if err != nil {
		return err
	}
	s.vacuum()
	return nil
}

// checkMissing tells a fresh directory, for which it returns missing, from one
// that lost its database: a WAL holds writes that were acknowledged, and
// beginning empty beside it would be a silent loss of the cluster.
func (s *Store) checkMissing(missing error) error {
	var left []string
	for _, suffix := range sidecars[1:] {
		if _, err := os.Lstat(s.database() + suffix); !errors.Is(err, fs.ErrNotExist) {
			left = append(left, databaseFile+suffix)
		}
	}
	if len(left) == 0 {
		return missing
	}
	return damaged(s.database(), "the file is missing, left of it: "+strings.Join(left, ", "))
}

// checkDatabase checks the structure of the database, and inspect then checks every row. Both
// do so at every start, whatever the size: nothing else shows that a card has lost bits of a
// file that nobody used, and an API server that cannot decode one object never becomes ready
// and does not say why. With the file in the kernel's cache both together take 0.15 s for
// 70 MiB and 0.5 s for 300 MiB of objects of 2 to 8 KiB on a server's core, and four times
// that on a board. The API server reads the same pages right after it.
func (s *Store) checkDatabase() error {
	if err := checkHeader(s.database()); err != nil {
		return err
	}
	info, err := os.Stat(s.database())
	if err != nil {
		return fmt.Errorf("checking the datastore: %w", err)
	}
	s.unclean = s.endedUncleanly()
	s.examineWAL()
	if info.Size() > checkIsLong {
		s.log.Info("checking the database", "path", s.database(), "bytes", info.Size())
	}
	readAhead(s.database())
	err = CheckIntegrity(s.database())
	if errors.Is(err, errIndexes) {
		if err = s.rebuild(err); err == nil {
			err = CheckIntegrity(s.database())
		}
	}
	return err
}

// readAhead has the kernel read a file from beginning to end. SQLite's check goes through it
// backwards, page by page, which took twenty times as long on a cold cache. Errors are left
// to that check.
func readAhead(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	for buffer := make([]byte, 1<<20); err == nil; {
		_, err = f.Read(buffer)
	}
}

// endedUncleanly reports whether the last run did not stop cleanly: its mark is still there, or
// a WAL, which the last connection removes.
func (s *Store) endedUncleanly() bool {
	_, err := os.Lstat(s.path(inUseFile))
	wal, walErr := os.Stat(s.database() + "-wal")
	return err == nil || (walErr == nil && wal.Size() > 0)
}

// damaged returns the error about a database that cannot be used, in one line.
func damaged(path, what string) error {
	return fmt.Errorf("database %s is %w (%s): restore a snapshot, or start once with --datastore-set-aside-damaged to keep it aside and begin empty",
		path, errDamaged, strings.Join(strings.Fields(what), " "))
}

// setAside renames a damaged database and the files that belong to it. If that succeeds it
// returns fs.ErrNotExist, because there is no database then.
func (s *Store) setAside(cause error) error {
	aside := s.database() + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
	for _, suffix := range sidecars {
		err := os.Rename(s.database()+suffix, aside+suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("setting the damaged database aside: %w", err)
		}
	}
	if err := atomicfile.SyncDir(s.cfg.Dir); err != nil {
		return fmt.Errorf("setting the damaged database aside: %w", err)
	}
	s.beganAnew = true
	s.log.Warn("damaged database set aside, beginning with an empty one", "kept", aside, "cause", cause)
	return fs.ErrNotExist
}

// markInUse marks the database as open, with the id of this boot. It is called after the first
// write to the WAL.
func (s *Store) markInUse() error {
	if err := atomicfile.Write(s.path(inUseFile), []byte(bootID()), 0o600); err != nil {
		return unusable(s.cfg.Dir, err)
	}
	return nil
}

// markClosed removes that mark. It is called after the database was closed.
func (s *Store) markClosed() error {
	if err := os.Remove(s.path(inUseFile)); err != nil {
		return fmt.Errorf("closing the datastore: %w", err)
	}
	return atomicfile.SyncDir(s.cfg.Dir)
}
