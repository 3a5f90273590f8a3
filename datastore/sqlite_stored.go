package datastore

import (
	"context"
	"database/sql"
	"fmt"
)

// storedRow is a row of kine's table without old_value, the value before it. The checksum
// leaves that one out: SQLite copies it from another row during the insert, and knowing it
// here would cost each write a read. It needs no checksum, because only the events of
// watches show it, and a watch begins at a list of this run. So the old values of earlier
// runs are never read again, and those of this run are copies of rows that the start has
// checked.
type storedRow struct {
	id                                                    int64
	name                                                  string
	created, deleted, createRevision, prevRevision, lease int64
	value                                                 []byte
	sum                                                   sql.NullInt64
	typed                                                 bool // every column had the type that it must have
}

const rowColumns = `id, name, created, deleted, create_revision, prev_revision, lease, value, sum`

// scanRow reads a row whose columns may hold anything.
func scanRow(rows *sql.Rows) (r storedRow, err error) {
	var name, value, sum any
	var numbers [5]any
	if err := rows.Scan(&r.id, &name, &numbers[0], &numbers[1], &numbers[2], &numbers[3], &numbers[4], &value, &sum); err != nil {
		return r, err
	}
	r.name, r.typed = name.(string)
	for i, field := range []*int64{&r.created, &r.deleted, &r.createRevision, &r.prevRevision, &r.lease} {
		number, ok := numbers[i].(int64)
		*field, r.typed = number, r.typed && ok
	}
	if value != nil {
		var ok bool
		if r.value, ok = value.([]byte); !ok { // another type is not no value: that would be a deletion
			r.value = fmt.Append(nil, value)
		}
		r.typed = r.typed && ok
	}
	if sum != nil {
		number, ok := sum.(int64)
		r.sum, r.typed = sql.NullInt64{Int64: number, Valid: true}, r.typed && ok
	}
	return r, nil
}

// queryer is a database or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// eachRow calls visit for the rows of a query of rowColumns.
func eachRow(ctx context.Context, db queryer, visit func(r *storedRow), query string, args ...any) error {
	rows, err := db.QueryContext(ctx, `SELECT `+rowColumns+` FROM kine `+query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return err
		}
		visit(&r)
	}
	return rows.Err()
}
