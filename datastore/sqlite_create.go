package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

const (
	// newFile is a database being made. It takes its name only when complete,
	// so that an empty state.db is always one that lost its content.
	newFile = layout.NewDatabase
	// A file that is mostly empty pages, and big, is worth being rewritten.
	vacuumFree = 64 << 20
)

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
