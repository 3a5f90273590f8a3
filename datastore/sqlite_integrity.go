package datastore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// errIndexes is damage to indexes only, which can be made again from the rows.
var errIndexes = errors.New("only what can be made again is damaged")

// Lines of integrity_check: https://sqlite.org/pragma.html#pragma_integrity_check. One
// that is about a tree begins with the page that is its root.
var (
	ofTree  = regexp.MustCompile(`^(?:On t|T)ree (?:page )?(\d+) `)
	ofIndex = regexp.MustCompile(`^(row \d+ (missing from|values differ from)|wrong # of entries in|non-unique entry in|rowid not at end-of-record for row \d+ of) index `)
	ofNone  = regexp.MustCompile(`^(Page \d+: never used|Freelist: |Main freelist: |Failed to read ptrmap)`)
)

// isCurable reports whether all lines are about indexes, or pages of nothing. SQLite names a
// tree by the number of its root page; indexes has those of the indexes.
func isCurable(lines []string, indexes map[string]bool) bool {
	for _, line := range lines {
		tree := ofTree.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "***"), ofIndex.MatchString(line), ofNone.MatchString(line):
		case tree != nil && indexes[tree[1]]:
		default:
			return false
		}
	}
	return true
}

// maxLines is enough to know of each tree whether something is wrong with it.
const maxLines = 10000

// findDamage returns what SQLite finds wrong with the structure and with the indexes,
// nil for nothing. A structure that only has to be made again is errIndexes.
func findDamage(ctx context.Context, db *sql.DB) error {
	found, err := texts(ctx, db, fmt.Sprintf(`PRAGMA integrity_check(%d)`, maxLines))
	if err != nil || (len(found) == 1 && found[0] == "ok") {
		return err
	}
	lines := strings.Split(strings.Join(found, "\n"), "\n")
	roots, err := texts(ctx, db, `SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'kine'`)
	if err != nil {
		return err
	}
	indexes := map[string]bool{}
	for _, root := range roots {
		indexes[root] = true
	}
	first := strings.TrimSpace(strings.TrimPrefix(lines[0], "*** in database main ***"))
	if first == "" && len(lines) > 1 {
		first = lines[1]
	}
	if isCurable(lines, indexes) {
		return fmt.Errorf("%w: %s", errIndexes, first)
	}
	return errors.New(first)
}

func checkHeader(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("checking the datastore: %w", err)
	}
	defer f.Close()
	header := make([]byte, len(sqliteMagic))
	n, err := io.ReadFull(f, header)
	switch {
	case n == 0:
		return damaged(path, "the file is empty")
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("checking the datastore: %w", err)
	case !bytes.Equal(header, sqliteMagic):
		return damaged(path, "it does not begin like an SQLite file")
	}
	return nil
}

// CheckIntegrity reads the whole SQLite database at path and returns nil, or
// one line that says what is wrong. It opens the file read-only: the database
// and what its WAL holds stay as they are, for whoever wants to rescue it.
func CheckIntegrity(path string) error {
	if err := checkHeader(path); err != nil {
		return err
	}
	settings := []string{"_cache_size=-4096"}
	if _, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		// Nobody has it open. Else SQLite would leave an empty WAL behind.
		settings = append(settings, "immutable=1")
	}
	db, err := sql.Open("sqlite3", dsn(path, "ro", settings...))
	if err != nil {
		return fmt.Errorf("checking database %s: %w", path, err)
	}
	defer db.Close()
	found := findDamage(context.Background(), db)
	switch {
	case errors.Is(found, errIndexes):
		return found
	case found != nil && classify(found) == faultNone:
		return damaged(path, found.Error())
	case found != nil:
		return verdictError(path, "", found)
	}
	_, err = db.Exec(`SELECT MAX(id), name, value FROM kine`)
	if err == nil {
		return nil
	}
	return verdictError(path, "it has no table named kine", err)
}

func verdictError(path, verdict string, err error) error {
	var sqliteErr sqlite3.Error
	switch f := classify(err); {
	case f == faultDamaged:
		return damaged(path, err.Error())
	case f != faultNone:
		return errors.New(f.describe(path, err))
	case err == nil, errors.As(err, &sqliteErr) && sqliteErr.Code == sqlite3.ErrError && verdict != "":
		return damaged(path, verdict)
	}
	return fmt.Errorf("checking database %s: %w", path, err)
}
