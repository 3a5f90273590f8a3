package datastore

import (
	"context"
	"database/sql/driver"
	"io"

	"github.com/mattn/go-sqlite3"
)

// connector makes SQLite connections that report errors to the disk's condition and to the
// request. database/sql has no other place that sees all of them.
type connector struct {
	dsn    string
	disk   *condition
	driver sqlite3.SQLiteDriver
}

func (c *connector) Driver() driver.Driver { return &c.driver }

func (c *connector) Connect(context.Context) (driver.Conn, error) {
	opened, err := c.driver.Open(c.dsn)
	if err != nil {
		c.disk.failed(err)
		return nil, err
	}
	return &conn{SQLiteConn: opened.(*sqlite3.SQLiteConn), disk: c.disk}, nil
}

type conn struct {
	*sqlite3.SQLiteConn
	disk *condition
}

func (c *conn) note(ctx context.Context, err error) {
	noteTrouble(ctx, err)
	c.disk.failed(err)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	found, err := c.SQLiteConn.QueryContext(context.WithoutCancel(ctx), query, args)
	if err != nil {
		c.note(ctx, err)
		return nil, err
	}
	return &rows{Rows: found, conn: c, ctx: ctx}, nil
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if query == insertSum.Query {
		args = withSum(args)
	}
	result, err := c.SQLiteConn.ExecContext(context.WithoutCancel(ctx), query, args)
	if err != nil {
		c.note(ctx, err)
	} else if c.AutoCommit() {
		c.disk.succeeded()
	}
	return result, err
}

type rows struct {
	driver.Rows
	conn *conn
	ctx  context.Context
}

func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err != nil && err != io.EOF {
		r.conn.note(r.ctx, err)
	}
	return err
}
