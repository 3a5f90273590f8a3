package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"brink/internal/atomicfile"
)

// rebuild makes a database of the rows of a damaged one, which is kept. A power cut
// leaves the one or the other under the name.
func (s *Store) rebuild(cause error) error {
	temporary := filepath.Join(s.cfg.Dir, newFile)
	for _, suffix := range sidecars {
		os.Remove(temporary + suffix)
	}
	// Without indexes: a row whose key is damaged may have that of another one.
	err := execAll(writerDSN(temporary, "rwc"), schema[0], sumColumn)
	if err == nil {
		err = s.copyRows(temporary)
	}
	if err == nil {
		err = s.indexRows(temporary, s.indexedKeys())
	}
	if err != nil {
		return damaged(s.database(), fmt.Sprintf("%v; making it again: %v", cause, err))
	}
	aside := s.database() + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
	err = errors.Join(os.Chmod(temporary, 0o600), os.Link(s.database(), aside))
	if err == nil {
		err = os.Rename(temporary, s.database())
	}
	if err == nil {
		err = atomicfile.SyncDir(s.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("rebuilding database %s: %w", s.database(), err)
	}
	s.unclean = true // what was read by a damaged index cannot be known
	s.log.Warn("indexes of the database were damaged and are made again from its rows", "kept", aside, "cause", cause)
	return nil
}

// indexedKeys are the keys of rows as an index has them, as far as it can be read.
func (s *Store) indexedKeys() map[int64]string {
	keys := map[int64]string{}
	db, err := sql.Open("sqlite3", dsn(s.database(), "ro"))
	if err != nil {
		return keys
	}
	defer db.Close()
	rows, err := db.Query(`SELECT id, name FROM kine INDEXED BY kine_name_index ORDER BY name`)
	if err != nil {
		return keys
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var key string
		if rows.Scan(&id, &key) == nil {
			keys[id] = key
		}
	}
	return keys
}

// indexRows moves aside what is damaged and makes the indexes of what is left.
func (s *Store) indexRows(path string, indexed map[int64]string) error {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", writerDSN(path, "rw"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	err = s.checkRows(ctx, db, indexed)
	for _, statement := range schema[1 : len(schema)-1] {
		if err == nil {
			_, err = db.ExecContext(ctx, statement)
		}
	}
	return errors.Join(err, db.Close())
}

// copyRows reads the table without an index. Closing merges the old one's WAL.
func (s *Store) copyRows(to string) error {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", writerDSN(s.database(), "rw"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	err = ensureSums(ctx, db)
	if err == nil {
		_, err = db.ExecContext(ctx, `ATTACH ? AS fresh`, to)
	}
	const columns = `id, name, created, deleted, create_revision, prev_revision, lease, value, old_value, sum`
	if err == nil {
		_, err = db.ExecContext(ctx, `INSERT INTO fresh.kine (`+columns+`) SELECT `+columns+` FROM main.kine NOT INDEXED ORDER BY id`)
	}
	if err == nil {
		var there []string
		if there, err = texts(ctx, db, `SELECT name FROM main.sqlite_master WHERE name = 'kine_damaged'`); len(there) > 0 {
			_, err = db.ExecContext(ctx, `CREATE TABLE fresh.kine_damaged AS SELECT * FROM main.kine_damaged`)
		}
	}
	return errors.Join(err, db.Close())
}
