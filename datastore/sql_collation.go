package datastore

import (
	"context"
	"database/sql"
	"fmt"
)

// comparisons are pairs of names with the answers that the column for names must give: it
// has to compare and sort names by their bytes. A database that takes two names for the
// same, or sorts them in another order, mixes objects up.
var comparisons = []struct {
	one, operator, other string
	want                 int64
	flaw                 string
}{
	{"A", "=", "a", 0, "does not tell upper from lower case in names"},
	{"B", "<", "a", 1, "does not sort names by their bytes"},
	{"a-b", "<", "a/b", 1, "does not sort names by their bytes"},
	{"a/b", "<", "aa", 1, "does not sort names by their bytes"},
}

const (
	curePostgres = `ALTER TABLE kine ALTER COLUMN name SET DATA TYPE text COLLATE "C"`
	cureMySQL    = `ALTER TABLE kine MODIFY name VARCHAR(630) CHARACTER SET ascii COLLATE ascii_bin`
)

// checkCollation requires a column for names that compares bytes. It asks the database
// itself how the column compares, since that depends on the defaults of server, database,
// table and column, and on extensions such as citext. It corrects a table without rows,
// because kine makes a wrong one on every MySQL: the default of its character set there
// ignores case.
func checkCollation(ctx context.Context, db *sql.DB, isMySQL bool, place string) error {
	flaw, err := collationFlaw(ctx, db, isMySQL)
	if err != nil || flaw == "" {
		return err
	}
	cure := curePostgres
	if isMySQL {
		cure = cureMySQL
	}
	var rows int64
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT id FROM kine LIMIT 1) AS found`).Scan(&rows); err != nil {
		return err
	}
	if rows == 0 {
		if _, err := db.ExecContext(ctx, cure); err == nil {
			flaw, err = collationFlaw(ctx, db, isMySQL)
			if err != nil || flaw == "" {
				return err
			}
		}
	}
	return fmt.Errorf("the database at %s %s, so objects would be taken for each other: stop all servers on it and run there: %s;", place, flaw, cure)
}

// collationFlaw is empty for a column that compares bytes.
func collationFlaw(ctx context.Context, db *sql.DB, isMySQL bool) (string, error) {
	// The union gives the strings the column's type and collation.
	q := `SELECT COUNT(*) FROM (SELECT name FROM kine WHERE 1 = 0 UNION ALL SELECT $1) AS one WHERE name %s $2`
	if isMySQL {
		q = `SELECT COUNT(*) FROM (SELECT name FROM kine WHERE 1 = 0 UNION ALL SELECT ?) AS one WHERE name %s ?`
	}
	for _, c := range comparisons {
		var holds int64
		if err := db.QueryRowContext(ctx, fmt.Sprintf(q, c.operator), c.one, c.other).Scan(&holds); err != nil {
			return "", fmt.Errorf("asking how the database compares names: %w", err)
		}
		if holds != c.want {
			return c.flaw, nil
		}
	}
	return "", nil
}
