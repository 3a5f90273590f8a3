package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unsafe"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
)

// reads collects the results that one request has read, so that their errors can be asked
// for afterwards.
type reads struct {
	rows []*sql.Rows
	ends []context.CancelFunc // of the contexts in which they were read
}

type readsKey struct{}

func withReads(ctx context.Context) (context.Context, *reads) {
	r := new(reads)
	return context.WithValue(ctx, readsKey{}, r), r
}

func (r *reads) end() {
	for _, cancel := range r.ends {
		cancel()
	}
}

// err returns why rows ended early. It is known after they were closed, too.
func (r *reads) err() error {
	for _, rows := range r.rows {
		if err := rows.Err(); err != nil {
			return err
		}
	}
	return nil
}

// checkedDialect adds the rows that it returns to the reads of the request.
type checkedDialect struct{ *generic.Generic }

func noted(ctx context.Context, rows *sql.Rows, err error) (*sql.Rows, error) {
	if r, ok := ctx.Value(readsKey{}).(*reads); ok && err == nil {
		r.rows = append(r.rows, rows)
	}
	return rows, err
}

func (d checkedDialect) ListCurrent(ctx context.Context, key, end string, limit int64, includeDeleted, keysOnly bool) (*sql.Rows, error) {
	rows, err := d.Generic.ListCurrent(ctx, key, end, limit, includeDeleted, keysOnly)
	return noted(ctx, rows, err)
}

func (d checkedDialect) List(ctx context.Context, key, end string, limit, revision int64, includeDeleted, keysOnly bool) (*sql.Rows, error) {
	rows, err := d.Generic.List(ctx, key, end, limit, revision, includeDeleted, keysOnly)
	return noted(ctx, rows, err)
}

func (d checkedDialect) After(ctx context.Context, key, end string, rev, limit int64) (*sql.Rows, error) {
	rows, err := d.Generic.After(ctx, key, end, rev, limit)
	return noted(ctx, rows, err)
}

// dialectOf takes the dialect out of a backend that one of kine's drivers has
// made. They return it wrapped twice in private fields, and the connector,
// where errors could be noted as for SQLite, is made inside. The other ways are
// a patched kine or a copy of its drivers.
func dialectOf(backend server.Backend) (*generic.Generic, error) {
	log, _ := privateField(backend, "log").(*sqllog.SQLLog)
	if log != nil {
		if dialect, ok := privateField(log, "d").(*generic.Generic); ok {
			return dialect, nil
		}
	}
	return nil, fmt.Errorf("kine's %T is not made as it was when this was written", backend)
}

// privateField returns the value of an interface field of the struct that
// pointer points to, nil when there is no such field.
func privateField(pointer any, name string) any {
	v := reflect.ValueOf(pointer)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	field := v.Elem().FieldByName(name)
	if !field.IsValid() || field.Kind() != reflect.Interface {
		return nil
	}
	return reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Interface()
}

// errRaised tells kine not to fill a range of revisions that was skipped, with a row for each.
var errRaised = errors.New("datastore: revisions were skipped on purpose")

// isRaised reports whether the row after a gap marks the gap as intended.
func (d checkedDialect) isRaised(ctx context.Context, revision int64) bool {
	var name string
	err := d.DB.QueryRowContext(ctx, fmt.Sprintf(`SELECT name FROM kine WHERE id >= %d ORDER BY id LIMIT 1`, revision)).Scan(&name)
	return err == nil && strings.HasPrefix(name, raisedPrefix)
}

// Fill leaves intended gaps: kine passes over them after a second.
func (d checkedDialect) Fill(ctx context.Context, revision int64) error {
	if d.isRaised(ctx, revision) {
		return errRaised
	}
	return d.Generic.Fill(ctx, revision)
}
