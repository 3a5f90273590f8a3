package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
)

const (
	// inUseFile exists while the database is open. Found at start, it says that
	// the last run did not end well: power cut, kill -9, crash.
	inUseFile = databaseFile + inUseSuffix
	// inUseSuffix makes the mark one of the sidecars.
	inUseSuffix = ".in-use"
	// newFile is a database being made. It takes its name only when complete,
	// so that an empty state.db is always one that lost its content.
	newFile = "state.db.new"
	// checkIsLong is the size from which the log says what a start waits for.
	checkIsLong = 256 << 20
	// spaceNeeded at start: less, and the first minute would end it anyway.
	spaceNeeded = 4 << 20
	// A file that is mostly empty pages, and big, is worth being rewritten.
	vacuumFree = 64 << 20
)

// sqliteMagic begins every SQLite database: https://sqlite.org/fileformat.html
var sqliteMagic = []byte("SQLite format 3\x00")

var errDamaged = errors.New("damaged")

// writtenFiles are replaced as a whole, in whichever directory they are: a
// write that broke off leaves a temporary file.
var writtenFiles = []string{volatileFile, revisionFile, inUseFile, leasesFile, ceilingFile}

// sidecars are the suffixes of the files that make up a database. The mark is
// last: setting aside that breaks off must not look like a fresh directory.
var sidecars = []string{"", "-wal", "-shm", inUseSuffix}

// prepareDir makes dir, clears it of what writes that broke off have left, and
// tells whether it can hold files.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unusable(dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return unusable(dir, err)
	}
	if err := atomicfile.Clean(dir, writtenFiles...); err != nil {
		return unusable(dir, err)
	}
	probe, err := openProbe(dir)
	if err != nil {
		return unusable(dir, err)
	}
	return probe.Close()
}

// openProbe opens a new file that has no name already: a process that dies
// leaves none behind.
func openProbe(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unusable names the cause that the user can do something about.
func unusable(path string, err error) error {
	hint := "check its owner and permissions"
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = "the file system is read-only: remount it, and check the kernel log for the cause"
	case classify(err) == faultFull:
		hint = "the disk is full: free some space"
	case errors.Is(err, syscall.ENOTDIR):
		hint = "a file is in the way"
	case errors.Is(err, syscall.EIO):
		hint = "the disk fails: check the kernel log"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("datastore directory %s cannot be written (%w): %s", path, err, hint)
}

// requireSpace reserves blocks without writing to them, then gives them back.
func requireSpace(dir string) error {
	f, err := openProbe(dir)
	if err != nil {
		return unusable(dir, err)
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, spaceNeeded)
	if classify(err) == faultFull {
		return fmt.Errorf("datastore directory %s: the disk is full (less than %d MiB left): free some space and start again", dir, spaceNeeded>>20)
	}
	return nil // other file systems cannot reserve; they will tell when written
}

// prepareDatabase leaves a database that can be opened, or says why there is none.
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

// checkDatabase checks the structure, at every start and of any size, as inspect then
// does the rows: what a card has done to a file at rest leaves no mark, and an API
// server that cannot decode one object is never ready, without a word. With the pages
// in the kernel's cache both together take 0.15 s for 70 MiB and 0.5 s for 300 MiB of
// objects of 2 to 8 KiB on a server's core, four times that on a board; the API server
// reads the same pages right after it.
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

// readAhead has the kernel read a file from its begin to its end. SQLite's check goes
// through it backwards, page by page, which took twenty times as long on a cold cache.
// What cannot be read is SQLite's to tell.
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

// endedUncleanly tells by the mark, or by a WAL, which the last connection removes.
func (s *Store) endedUncleanly() bool {
	_, err := os.Lstat(s.path(inUseFile))
	wal, walErr := os.Stat(s.database() + "-wal")
	return err == nil || (walErr == nil && wal.Size() > 0)
}

// damaged makes the one line about a database that makes no sense.
func damaged(path, what string) error {
	return fmt.Errorf("database %s is %w (%s): restore a snapshot, or start once with --datastore-set-aside-damaged to keep it aside and begin empty",
		path, errDamaged, strings.Join(strings.Fields(what), " "))
}

// setAside renames a damaged database with all that belongs to it. It returns
// fs.ErrNotExist, as after it there is no database, or what went wrong.
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

// createDatabase makes an empty database under a temporary name and renames
// it, so that a power cut leaves a whole one or none.
func createDatabase(dir string) error {
	temporary, final := filepath.Join(dir, newFile), filepath.Join(dir, databaseFile)
	for _, suffix := range sidecars {
		// Left by a power cut: its WAL would be played into the new one.
		os.Remove(temporary + suffix)
	}
	if err := execAll(writerDSN(temporary, "rwc"), schema...); err != nil {
		return fmt.Errorf("creating database %s: %w", final, err)
	}
	if err := os.Chmod(temporary, 0o600); err != nil {
		return fmt.Errorf("creating database %s: %w", final, err)
	}
	if err := os.Rename(temporary, final); err != nil {
		return fmt.Errorf("creating database %s: %w", final, err)
	}
	return atomicfile.SyncDir(dir)
}

// execAll runs statements on a connection of its own. Closing it checkpoints
// and removes the WAL.
func execAll(dsn string, statements ...string) error {
	db, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	return db.Close()
}

// vacuum gives back the space of a database that is big and mostly empty.
// kine does it at every start, which rewrites the whole file each time.
func (s *Store) vacuum() {
	db, err := sql.Open("sqlite3", writerDSN(s.database(), "rw"))
	if err != nil {
		return
	}
	defer db.Close()
	var pages, free, size int64
	err = db.QueryRowContext(context.Background(),
		`SELECT page_count, freelist_count, page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()`).
		Scan(&pages, &free, &size)
	if err != nil || free*size < vacuumFree || free < pages/2 {
		return
	}
	s.log.Info("giving unused space of the database back", "path", s.database(), "bytes", free*size)
	if _, err := db.Exec(`VACUUM`); err != nil {
		s.log.Warn("unused space of the database stays", "path", s.database(), "error", err)
	}
}

// markInUse is called after the first write to the WAL, with the boot that this is,
// and markClosed after the database was closed in order.
func (s *Store) markInUse() error {
	if err := atomicfile.Write(s.path(inUseFile), []byte(bootID()), 0o600); err != nil {
		return unusable(s.cfg.Dir, err)
	}
	return nil
}

func (s *Store) markClosed() error {
	if err := os.Remove(s.path(inUseFile)); err != nil {
		return fmt.Errorf("closing the datastore: %w", err)
	}
	return atomicfile.SyncDir(s.cfg.Dir)
}
