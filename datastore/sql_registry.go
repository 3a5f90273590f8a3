package datastore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

// ownerTable has one row. It is no part of the log: writing it makes no revision.
const ownerTable = "brink_owner"

// sqlRegistry is the claim on a PostgreSQL or MySQL. Its statements have the
// form of PostgreSQL and of MySQL with :now for the database's clock in seconds.
type sqlRegistry struct {
	db    *sql.DB
	mysql bool
}

func (r sqlRegistry) query(q string) string {
	if r.mysql {
		q = strings.ReplaceAll(q, ":now", "UNIX_TIMESTAMP()")
		for _, p := range []string{"$1", "$2", "$3", "$4"} {
			q = strings.ReplaceAll(q, p, "?")
		}
		return q
	}
	return strings.ReplaceAll(q, ":now", "CAST(EXTRACT(EPOCH FROM now()) AS BIGINT)")
}

// changed runs an update of the row and reports whether it matched.
func (r sqlRegistry) changed(ctx context.Context, q string, args ...any) (bool, error) {
	result, err := r.db.ExecContext(ctx, r.query(q), args...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

func (r sqlRegistry) read(ctx context.Context) (claim, error) {
	c, err := r.readRow(ctx)
	if err == nil || !errors.Is(err, sql.ErrNoRows) && !answered(err, []string{"42P01"}, []uint16{1146}) {
		return c, err
	}
	insert := `INSERT INTO ` + ownerTable + ` (id, cluster, holder, node, counter, renewed) VALUES (1, '', '', '', 0, :now) ON CONFLICT DO NOTHING`
	if r.mysql {
		insert = `INSERT IGNORE INTO ` + ownerTable + ` (id, cluster, holder, node, counter, renewed) VALUES (1, '', '', '', 0, :now)`
	}
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS ` + ownerTable + ` (id INTEGER PRIMARY KEY, cluster VARCHAR(128) NOT NULL, holder VARCHAR(128) NOT NULL,
			node VARCHAR(255) NOT NULL, counter BIGINT NOT NULL, renewed BIGINT NOT NULL)`,
		insert,
	} {
		if _, err := r.db.ExecContext(ctx, r.query(statement)); err != nil {
			return claim{}, err
		}
	}
	return r.readRow(ctx)
}

func (r sqlRegistry) readRow(ctx context.Context) (c claim, err error) {
	var age int64
	row := r.db.QueryRowContext(ctx, r.query(`SELECT cluster, holder, node, counter, :now - renewed FROM `+ownerTable+` WHERE id = 1`))
	err = row.Scan(&c.cluster, &c.holder, &c.node, &c.counter, &age)
	c.age = time.Duration(age) * time.Second
	return c, err
}

func (r sqlRegistry) take(ctx context.Context, seen claim, holder, node string) (bool, error) {
	return r.changed(ctx, `UPDATE `+ownerTable+` SET counter = counter + 1, renewed = :now, holder = $1, node = $2 WHERE holder = $3 AND counter = $4`,
		holder, node, seen.holder, seen.counter)
}

func (r sqlRegistry) renew(ctx context.Context, holder string) (bool, error) {
	return r.changed(ctx, `UPDATE `+ownerTable+` SET counter = counter + 1, renewed = :now WHERE holder = $1`, holder)
}

func (r sqlRegistry) release(ctx context.Context, holder string) error {
	_, err := r.changed(ctx, `UPDATE `+ownerTable+` SET counter = counter + 1, holder = '' WHERE holder = $1`, holder)
	return err
}

func (r sqlRegistry) belong(ctx context.Context, holder, cluster string) (bool, error) {
	return r.changed(ctx, `UPDATE `+ownerTable+` SET counter = counter + 1, cluster = $1 WHERE holder = $2`, cluster, holder)
}

// rootCA returns the newest object that names the cluster's CA, something empty
// when there are objects but not that one, and nil when there are none.
func (r sqlRegistry) rootCA(ctx context.Context) ([]byte, error) {
	var value []byte
	row := r.db.QueryRowContext(ctx, r.query(`SELECT value FROM kine WHERE name = $1 AND deleted = 0 ORDER BY id DESC LIMIT 1`), rootCAKey)
	switch err := row.Scan(&value); {
	case err == nil:
		return append([]byte{}, value...), nil
	case !errors.Is(err, sql.ErrNoRows):
		return nil, err
	}
	var found int64
	// Any server's first write is the health key.
	row = r.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT id FROM kine WHERE name LIKE '/registry/%' AND name <> '/registry/health' LIMIT 1) AS found`)
	if err := row.Scan(&found); err != nil || found == 0 {
		return nil, err
	}
	return []byte{}, nil
}
