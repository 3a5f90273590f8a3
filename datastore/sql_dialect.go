package datastore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/server"

	"brink/internal/sleep"
)

const (
	// insertTries is how often an insert is made whose number is taken: kine fills
	// a gap in the revisions while the one that belongs there is still on its way.
	insertTries = 20
	insertPause = 5 * time.Millisecond
)

// externalDialect is kine's way to speak to PostgreSQL or MySQL over a link that
// may break. Statements are bounded in time and end when the database goes away;
// those of the background wait until it is back, so kine's loops neither fail nor
// write a line a second. Requests do not wait: see guard.
//
// Inserts are its own. A row is written only while this server holds the
// database, which the same statement checks: a server that was paused while
// another took over writes nothing more, whatever it still believes. And kine's
// logs an error for every conflict.
type externalDialect struct {
	checkedDialect
	link   *link
	hold   *hold
	insert string

	mu       sync.Mutex
	lastPoll context.CancelFunc
}

var _ server.Dialect = (*externalDialect)(nil)

func newExternalDialect(dialect *generic.Generic, l *link, h *hold) *externalDialect {
	insert := dialect.InsertSQL.Query
	if dialect.LastInsertID {
		insert = dialect.InsertLastInsertIDSQL.Query
	}
	return &externalDialect{checkedDialect: checkedDialect{dialect}, link: l, hold: h, insert: fenced(insert, h.name())}
}

// fenced makes an INSERT ... SELECT insert nothing unless holder holds the
// database. The holder's name is made of letters and digits only.
func fenced(insert, holder string) string {
	insert, returning, found := strings.Cut(insert, " RETURNING ")
	insert += " FROM " + ownerTable + " WHERE holder = '" + holder + "'"
	if found {
		insert += " RETURNING " + returning
	}
	return insert
}

// begin waits for the database unless ctx is a request's, and returns the
// context for a statement.
func (d *externalDialect) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if _, isRequest := ctx.Value(troubleKey{}).(*trouble); !isRequest {
		if err := d.link.wait(ctx); err != nil {
			return nil, nil, err
		}
	}
	statement, cancel := d.link.statement(ctx)
	return statement, cancel, nil
}

// rows runs a query whose result is read later. Its context ends when the
// request has read it; of kine's poll, which has no request, when it asks again.
func (d *externalDialect) rows(ctx context.Context, query func(context.Context) (*sql.Rows, error)) (*sql.Rows, error) {
	statement, cancel, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := query(statement)
	if err != nil {
		cancel()
		return nil, d.link.explain(err)
	}
	if r, ok := ctx.Value(readsKey{}).(*reads); ok {
		r.ends = append(r.ends, cancel)
		return rows, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lastPoll != nil {
		d.lastPoll()
	}
	d.lastPoll = cancel
	return rows, nil
}

func (d *externalDialect) ListCurrent(ctx context.Context, key, end string, limit int64, includeDeleted, keysOnly bool) (*sql.Rows, error) {
	return d.rows(ctx, func(ctx context.Context) (*sql.Rows, error) {
		return d.checkedDialect.ListCurrent(ctx, key, end, limit, includeDeleted, keysOnly)
	})
}

func (d *externalDialect) List(ctx context.Context, key, end string, limit, revision int64, includeDeleted, keysOnly bool) (*sql.Rows, error) {
	return d.rows(ctx, func(ctx context.Context) (*sql.Rows, error) {
		return d.checkedDialect.List(ctx, key, end, limit, revision, includeDeleted, keysOnly)
	})
}

func (d *externalDialect) After(ctx context.Context, key, end string, rev, limit int64) (*sql.Rows, error) {
	return d.rows(ctx, func(ctx context.Context) (*sql.Rows, error) {
		return d.checkedDialect.After(ctx, key, end, rev, limit)
	})
}

// one runs a statement that returns no rows.
func (d *externalDialect) one(ctx context.Context, statement func(context.Context) error) error {
	bounded, cancel, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return d.link.explain(statement(bounded))
}

func (d *externalDialect) CountCurrent(ctx context.Context, key, end string) (rev, count int64, err error) {
	err = d.one(ctx, func(ctx context.Context) (err error) {
		rev, count, err = d.Generic.CountCurrent(ctx, key, end)
		return err
	})
	return rev, count, err
}

func (d *externalDialect) Count(ctx context.Context, key, end string, revision int64) (rev, compact, count int64, err error) {
	err = d.one(ctx, func(ctx context.Context) (err error) {
		rev, compact, count, err = d.Generic.Count(ctx, key, end, revision)
		return err
	})
	return rev, compact, count, err
}

func (d *externalDialect) CurrentRevision(ctx context.Context) (rev int64, err error) {
	err = d.one(ctx, func(ctx context.Context) (err error) {
		rev, err = d.Generic.CurrentRevision(ctx)
		return err
	})
	return rev, err
}

func (d *externalDialect) GetCompactRevision(ctx context.Context) (rev int64, err error) {
	err = d.one(ctx, func(ctx context.Context) (err error) {
		rev, err = d.Generic.GetCompactRevision(ctx)
		return err
	})
	return rev, err
}

func (d *externalDialect) GetSize(ctx context.Context) (size int64, err error) {
	err = d.one(ctx, func(ctx context.Context) (err error) {
		size, err = d.Generic.GetSize(ctx)
		return err
	})
	return size, err
}

func (d *externalDialect) Fill(ctx context.Context, revision int64) error {
	return d.one(ctx, func(ctx context.Context) error { return d.checkedDialect.Fill(ctx, revision) })
}

func (d *externalDialect) DeleteRevision(ctx context.Context, revision int64) error {
	return d.one(ctx, func(ctx context.Context) error { return d.Generic.DeleteRevision(ctx, revision) })
}

// Insert notes in the request what failed: kine's callers take every error for
// a conflict.
func (d *externalDialect) Insert(ctx context.Context, key string, create, remove bool, createRevision, previousRevision, ttl int64, value []byte) (id int64, err error) {
	args := []any{key, bit(create), bit(remove), createRevision, previousRevision, ttl, value, previousRevision}
	err = d.one(ctx, func(ctx context.Context) error {
		for range insertTries {
			id, err = d.insertOnce(ctx, args)
			if err == nil || d.InsertRetry == nil || !d.InsertRetry(err) {
				break
			}
			sleep.For(ctx, insertPause)
		}
		return err
	})
	if err == nil {
		return id, nil
	}
	if translated := d.TranslateErr(err); translated == server.ErrKeyExists {
		return 0, translated
	}
	noteTrouble(ctx, err)
	return 0, err
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// insertOnce returns errTaken when the fence let nothing through.
func (d *externalDialect) insertOnce(ctx context.Context, args []any) (id int64, err error) {
	if d.LastInsertID {
		result, err := d.DB.ExecContext(ctx, d.insert, args...)
		if err != nil {
			return 0, err
		}
		if id, err = result.LastInsertId(); err == nil && id == 0 {
			err = d.fencedOff()
		}
		return id, err
	}
	err = d.DB.QueryRowContext(ctx, d.insert, args...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = d.fencedOff()
	}
	return id, err
}

// fencedOff has the hold looked at, which then ends the server.
func (d *externalDialect) fencedOff() error {
	d.link.suspect()
	return awayError{"is held by another server"}
}

// BeginTx returns a transaction whose failing does not end the process, as that
// of kine does.
func (d *externalDialect) BeginTx(ctx context.Context, opts *sql.TxOptions) (server.Transaction, error) {
	tx, err := d.Generic.BeginTx(ctx, opts)
	if err != nil {
		return nil, d.link.explain(err)
	}
	return survivable{tx}, nil
}

type survivable struct{ server.Transaction }

func (t survivable) MustCommit()   { _ = t.Commit() }
func (t survivable) MustRollback() { _ = t.Rollback() }
