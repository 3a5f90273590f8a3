package datastore

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/query"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/mattn/go-sqlite3"
)

const (
	// maxConnections: readers must not wait for a writer's fsync, but every
	// connection has a page cache of its own. kine keeps 20.
	maxConnections = 4
	// pageCache is KiB a connection. The kernel caches the file as well.
	pageCache = 1024
	// pollBatch is kine's default number of rows in one read of the log.
	pollBatch = 500
	// historyPage is how many events a watch that joins reads at a time. Each
	// may have two values of up to 1.5 MB.
	historyPage = 100
	// busyTimeout is how long a connection waits for another's lock, in ms.
	// Writers take turns on a mutex, so only a checkpoint can make one wait.
	busyTimeout = 10000
)

// schema is kine's table, so that its queries work on it, with the indexes that
// they use and no others. An index costs a page, 4 KiB to the WAL and again to
// the file, with every single write. Of kine's six, (name,id) repeats (name),
// because each index ends in the row's id; (prev_revision) is used by no query;
// (id,deleted) serves the compaction, for which a partial index is enough that
// only deletions touch.
var schema = []string{
	`CREATE TABLE IF NOT EXISTS kine (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		name TEXT,
		created INTEGER,
		deleted INTEGER,
		create_revision INTEGER,
		prev_revision INTEGER,
		lease INTEGER,
		value BLOB,
		old_value BLOB)`,
	`CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name)`,
	`CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision)`,
	`CREATE INDEX IF NOT EXISTS kine_deleted_index ON kine (deleted) WHERE deleted != 0`,
	`CREATE INDEX IF NOT EXISTS kine_id_compact_rev_key_with_prev_revision_index ON kine (id, name, prev_revision)
		WHERE name != 'compact_rev_key' AND prev_revision != 0`,
	sumColumn,
}

// compactSQL removes what a later row replaced and what marks a deletion, up
// to a revision.
const compactSQL = `
	DELETE FROM kine WHERE id IN (
		SELECT prev_revision FROM kine
		WHERE name != 'compact_rev_key' AND prev_revision != 0 AND id <= ?
		UNION
		SELECT id FROM kine WHERE deleted != 0 AND id <= ?)`

const sizeSQL = `
	SELECT (page_count - freelist_count) * page_size
	FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()`

// dsn names the database for go-sqlite3. mode is rw, rwc or ro: with rw a
// database that vanished is an error and not an empty cluster.
func dsn(path, mode string, settings ...string) string {
	u := url.URL{Scheme: "file", Path: path, OmitHost: true}
	return u.String() + "?" + strings.Join(append(settings, "mode="+mode), "&")
}

func writerDSN(path, mode string) string {
	return dsn(path, mode,
		"_journal_mode=WAL", "_synchronous=FULL", "_txlock=immediate",
		fmt.Sprintf("_busy_timeout=%d", busyTimeout),
		fmt.Sprintf("_cache_size=-%d", pageCache),
		"_stmt_cache_size=24")
}

// sqliteStore is kine's log over SQLite.
type sqliteStore struct {
	server.Backend
	dialect *generic.Generic
	log     *checkedLog
	disk    *condition
	// beforeCompact sees what a compaction takes away; nil: nobody does.
	beforeCompact func()
}

// openSQLite opens a database that was checked before. It is closed some time
// after ctx is done; wg waits for that.
func openSQLite(ctx context.Context, wg *sync.WaitGroup, path string, disk *condition) (*sqliteStore, error) {
	connector := &connector{dsn: writerDSN(path, "rw"), disk: disk}
	pool := generic.ConnectionPoolConfig{MaxIdle: maxConnections, MaxOpen: maxConnections}
	dialect, err := generic.OpenDB(ctx, wg, "sqlite3", connector, pool, "?", false, nil)
	if err != nil {
		return nil, err
	}
	dialect.LastInsertID = true
	dialect.InsertLastInsertIDSQL = insertSum
	dialect.LockWrites = true
	dialect.GetSizeSQL = query.New(sizeSQL, "?", false, "GetSize")
	dialect.CompactSQL = query.New(compactSQL, "?", false, "Compact")
	dialect.TranslateErr = translateConflict
	dialect.ErrCode = errorCode
	// Without an interval kine compacts nothing, but it checks the batch.
	log := newCheckedLog(dialect, &drivers.Config{CompactBatchSize: 1000, PollBatchSize: pollBatch})
	return &sqliteStore{Backend: logstructured.New(log), dialect: dialect, log: log, disk: disk}, nil
}

func translateConflict(err error) error {
	if isConflict(err) {
		return server.ErrKeyExists
	}
	return err
}

// errorCode is the label of kine's metrics.
func errorCode(err error) string {
	if err == nil {
		return ""
	}
	if err, ok := err.(sqlite3.Error); ok {
		return fmt.Sprint(int(err.ExtendedCode))
	}
	return "error"
}

// since implements history. It asks the database how far the log is and not
// the variable of checkedLog, which a write raises only after it was committed:
// the hub may have handed out an event by then.
func (s *sqliteStore) since(ctx context.Context, key, end string, from int64) ([]*server.Event, int64, error) {
	ctx, trouble := withTrouble(ctx)
	upTo, err := s.dialect.CurrentRevision(ctx)
	if err != nil {
		return nil, 0, trouble.result(err)
	}
	rows, err := s.dialect.After(ctx, key, end, from-1, historyPage)
	if err != nil {
		return nil, 0, trouble.result(err)
	}
	_, _, events, err := sqllog.RowsToEvents(rows, true, true)
	if err = trouble.result(err); err != nil {
		return nil, 0, err
	}
	if n := len(events); n > 0 {
		if last := events[n-1].KV.ModRevision; n == historyPage || last > upTo {
			upTo = last
		}
	}
	// Asked last: a compaction before the read is seen, one after it is harmless.
	compacted, err := s.dialect.GetCompactRevision(ctx)
	if err != nil {
		return nil, 0, trouble.result(err)
	}
	if from <= compacted {
		return nil, compacted, server.ErrCompacted
	}
	return events, upTo, nil
}
