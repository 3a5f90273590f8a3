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
	"time"

	"github.com/mattn/go-sqlite3"

	"brink/internal/atomicfile"
)

const (
	// restoredAhead is how far the revisions of a restored copy go on above its last one, where
	// nothing else tells how many were handed out since: etcd's documentation raises them by as
	// much (--bump-revision). At thirty writes a second it is a year's.
	restoredAhead = 1 << 30
	// busyPause is the wait before a backup that met a lock goes on.
	busyPause = 20 * time.Millisecond
)

// ErrNoDatabase is returned where no database of SQLite is.
var ErrNoDatabase = errors.New("there is no SQLite database")

// Copied is what Backup found in the copy that it made.
type Copied struct {
	Revision int64 // the last one
	Damage   error // nil, or what is wrong with the copy and so with the database
}

// Backup copies the database in dir to a new file, as it is at one moment, and checks the
// copy: its structure, and the checksum of every row. inUse says that a server has the
// database open: it goes on writing meanwhile. Otherwise the caller holds the data directory,
// and the database and its WAL stay byte for byte as they are, for the next start to judge.
// The copy is one file without a WAL. With an error it does not exist.
func Backup(ctx context.Context, dir, to string, inUse bool) (c Copied, err error) {
	from := filepath.Join(dir, databaseFile)
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%w in %s", ErrNoDatabase, dir)
	} else if err != nil {
		return c, err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return c, fmt.Errorf("copying the database: %w", err)
	}
	defer f.Close()
	defer func() {
		if err != nil {
			os.Remove(to)
			os.Remove(to + "-journal")
		}
	}()
	if err := copyDatabase(ctx, sourceDSN(from, inUse), dsn(to, "rw", "_journal_mode=OFF", "_synchronous=OFF")); err != nil {
		return c, copyError(from, err)
	}
	if c, err = examineCopy(ctx, to); err != nil {
		return c, copyError(from, err)
	}
	return c, f.Sync()
}

// sourceDSN reads the database without changing it, as CheckIntegrity does.
func sourceDSN(from string, inUse bool) string {
	settings := []string{fmt.Sprintf("_busy_timeout=%d", busyTimeout)}
	if _, err := os.Stat(from + "-wal"); !inUse && errors.Is(err, fs.ErrNotExist) {
		settings = append(settings, "immutable=1")
	}
	return dsn(from, "ro", settings...)
}

// IsDamaged reports whether an error of this package is about a database that makes no sense,
// and not about a disk that is full or fails.
func IsDamaged(err error) bool { return errors.Is(err, errDamaged) }

func copyError(from string, err error) error {
	switch classify(err) {
	case faultFull:
		return fmt.Errorf("copying database %s: the disk is full: free some space", from)
	case faultDamaged:
		return fmt.Errorf("copying database %s, which is %w: %w", from, errDamaged, err)
	}
	return fmt.Errorf("copying database %s: %w", from, err)
}

// copyDatabase copies all pages in one step: SQLite holds one state of the source for as long,
// which in its WAL mode keeps no writer waiting. Copied in several steps, a database that is
// written to would be begun anew with each.
func copyDatabase(ctx context.Context, from, to string) (err error) {
	var driver sqlite3.SQLiteDriver
	source, err := driver.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := driver.Open(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	backup, err := target.(*sqlite3.SQLiteConn).Backup("main", source.(*sqlite3.SQLiteConn), "main")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backup.Finish()) }()
	for {
		done, err := backup.Step(-1)
		if err != nil || done {
			return err
		}
		select { // locked
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

// examineCopy checks a copy and makes one file of it: a database in WAL mode may get two more
// when it is read.
func examineCopy(ctx context.Context, path string) (c Copied, err error) {
	db, err := sql.Open("sqlite3", dsn(path, "rw", "_journal_mode=DELETE", "_synchronous=OFF"))
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if err := findDamage(ctx, db); err != nil {
		if f := classify(err); f != faultNone && f != faultDamaged {
			return c, err
		}
		c.Damage = err
	}
	if err = c.readRows(ctx, db); classify(err) == faultDamaged || c.Damage != nil {
		return Copied{Revision: c.Revision, Damage: errors.Join(c.Damage, err)}, nil
	}
	return c, err
}

// readRows looks at each row, and adds the checksums of rows that an older brink has written.
func (c *Copied) readRows(ctx context.Context, db *sql.DB) error {
	if err := ensureSums(ctx, db); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM kine`).Scan(&c.Revision); err != nil {
		return err
	}
	unsound, err := unsoundRows(ctx, db)
	if len(unsound) > 0 {
		c.Damage = errors.Join(c.Damage, fmt.Errorf("%d damaged: %s", len(unsound), strings.Join(unsound[:min(len(unsound), maxNamed)], ", ")))
	}
	return err
}

// unsoundRows names the rows whose content does not fit their checksum.
func unsoundRows(ctx context.Context, db queryer) (unsound []string, _ error) {
	err := eachRow(ctx, db, func(r *storedRow) {
		if !r.isSound() {
			unsound = append(unsound, fmt.Sprintf("%.200q (revision %d)", r.name, r.id))
		}
	}, `ORDER BY id`)
	return unsound, err
}

// CheckCopy checks a copy that Backup has made, which may have been carried around since.
func CheckCopy(ctx context.Context, path string) (Copied, error) {
	c, err := examineCopy(ctx, path)
	if err != nil {
		return c, fmt.Errorf("checking database %s: %w", path, err)
	}
	return c, nil
}

// LastRevision returns the last revision in the database in dir, which nobody may have open.
// Rows in a WAL that the next start plays count.
func LastRevision(dir string) (int64, error) {
	path := filepath.Join(dir, databaseFile)
	db, err := sql.Open("sqlite3", sourceDSN(path, false))
	if err != nil {
		return 0, err
	}
	defer db.Close()
	var head int64
	err = db.QueryRow(`SELECT COALESCE(MAX(id), 0) FROM kine`).Scan(&head)
	return head, err
}

// PrepareRestored makes a directory that has a copy of the database one that a start goes on
// from as after any restore: above all revisions that were handed out since the copy was made,
// for durable and for volatile objects. cluster is the hash of the CA. All files are synced.
func PrepareRestored(dir string, c Copied, cluster string) error {
	if err := writeCeiling(filepath.Join(dir, ceilingFile), c.Revision+restoredAhead, cluster, 0o700); err != nil {
		return err
	}
	volatile, err := readRevision(filepath.Join(dir, revisionFile))
	if err != nil {
		volatile = 0 // damaged or not in the copy: the clock helps
	}
	volatile = max(volatile+revisionLost, time.Now().UnixMicro())
	if err := writeRevision(filepath.Join(dir, revisionFile), volatile); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}
