package datastore

import (
	"context"
	"database/sql"
	"fmt"
	"os"
)

// inspect reads every row of a database whose structure is sound. Afterwards the content of the
// WAL is in the database, and the mark of an unclean end is removed: otherwise the next start
// would think that a WAL was lost.
func (s *Store) inspect() (err error) {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", writerDSN(s.database(), "rw"))
	if err != nil {
		return fmt.Errorf("checking the datastore: %w", err)
	}
	db.SetMaxOpenConns(1)
	err = ensureSums(ctx, db)
	if err == nil {
		err = s.checkRows(ctx, db, nil)
	}
	if err == nil {
		s.aside.keys, err = missingKeys(ctx, db)
	}
	if closing := db.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return verdictError(s.database(), "", err)
	}
	if _, err := os.Lstat(s.path(inUseFile)); err == nil {
		return s.markClosed()
	}
	return nil
}

// lastIn returns the last revision in a database that nobody has open.
func lastIn(path string) (head int64, err error) {
	db, err := sql.Open("sqlite3", dsn(path, "ro", "immutable=1"))
	if err != nil {
		return 0, err
	}
	defer db.Close()
	err = db.QueryRow(`SELECT COALESCE(MAX(id), 0) FROM kine`).Scan(&head)
	return head, err
}

// ensureSums adds the column to a table that an older brink has made.
func ensureSums(ctx context.Context, db *sql.DB) error {
	var columns int
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM pragma_table_info('kine') WHERE name = 'sum'`).Scan(&columns); err != nil || columns > 0 {
		return err
	}
	_, err := db.ExecContext(ctx, sumColumn)
	return err
}
