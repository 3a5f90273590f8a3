package datastore

import (
	"context"
	"sync/atomic"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
)

// checkedLog is kine's log over SQL with two corrections.
//
// Reads: kine never checks rows.Err. When a database fails in the middle of a result, the rows
// until then pass for all of them: a list lacks its end, and a watch the events in between.
//
// The current revision: kine keeps it in a variable, which a write raises only if no other
// write was acknowledged meanwhile. After writes that overlap it lags until one that overlaps
// with none. Meanwhile an empty list has a revision that is too low: a watch from there
// repeats events, progress is never reached, and a list at a revision that was acknowledged is
// refused as one of the future.
type checkedLog struct {
	*sqllog.SQLLog
	dialect server.Dialect
	db      *generic.Generic // beneath dialect, for what kine's log has no method for
	ceiling *ceiling         // revisions up to it may be handed out; nil for no limit
	head    atomic.Int64     // highest revision that was acknowledged or listed
}

var _ logstructured.Log = (*checkedLog)(nil)

// newCheckedLog returns the log of a database, with compaction as cfg says.
func newCheckedLog(dialect *generic.Generic, cfg *drivers.Config) *checkedLog {
	return newLogOver(checkedDialect{dialect}, dialect, cfg)
}

// newLogOver is newCheckedLog for a dialect over db that notes the rows it hands out.
func newLogOver(dialect server.Dialect, db *generic.Generic, cfg *drivers.Config) *checkedLog {
	log := sqllog.New(dialect, cfg.CompactInterval, cfg.CompactIntervalJitter, cfg.CompactTimeout,
		cfg.CompactMinRetain, cfg.CompactBatchSize, cfg.PollBatchSize)
	return &checkedLog{SQLLog: log, dialect: dialect, db: db}
}

// raise notes a revision up to which everything can be read.
func (l *checkedLog) raise(revision int64) {
	for {
		head := l.head.Load()
		if revision <= head || l.head.CompareAndSwap(head, revision) {
			return
		}
	}
}

func (l *checkedLog) CurrentRevision(ctx context.Context) (int64, error) {
	rev, err := l.SQLLog.CurrentRevision(ctx)
	return max(rev, l.head.Load()), err
}

func (l *checkedLog) Append(ctx context.Context, event *server.Event) (int64, error) {
	if err := l.ceiling.allow(l.head.Load()); err != nil {
		noteTrouble(ctx, err)
		return 0, err
	}
	rev, err := l.SQLLog.Append(ctx, event)
	if err == nil {
		l.raise(rev)
	}
	return rev, err
}

func (l *checkedLog) After(ctx context.Context, key, end string, revision, limit int64) (int64, server.Events, error) {
	ctx, read := withReads(ctx)
	defer read.end()
	rev, events, err := l.SQLLog.After(ctx, key, end, revision, limit)
	if broken := read.err(); broken != nil {
		return 0, nil, broken
	}
	return rev, events, err
}

// List asks for the revision of an empty list before it reads, not after as
// kine does: what is acknowledged in between is not in the list.
func (l *checkedLog) List(ctx context.Context, key, end string, limit, revision int64, includeDeleted, keysOnly bool) (int64, server.Events, error) {
	head, err := l.CurrentRevision(ctx)
	if err != nil {
		return 0, nil, err
	}
	ctx, read := withReads(ctx)
	defer read.end()
	rev, events, err := l.SQLLog.List(ctx, key, end, limit, revision, includeDeleted, keysOnly)
	if broken := read.err(); broken != nil {
		return 0, nil, broken
	}
	if err == server.ErrFutureRev && revision <= head {
		err = l.ifCompacted(ctx, revision)
	}
	if len(events) == 0 {
		return head, nil, err
	}
	l.raise(rev)
	return rev, events, err
}

// ifCompacted returns ErrCompacted if revision was removed.
func (l *checkedLog) ifCompacted(ctx context.Context, revision int64) error {
	compacted, err := l.dialect.GetCompactRevision(ctx)
	if err == nil && revision < compacted {
		err = server.ErrCompacted
	}
	return err
}

// Watch never returns nil. kine's does when the log cannot be followed, and kine then waits for
// events for ever. A closed channel makes it try again.
func (l *checkedLog) Watch(ctx context.Context, key, end string) <-chan server.Events {
	if events := l.SQLLog.Watch(ctx, key, end); events != nil {
		return events
	}
	ended := make(chan server.Events)
	close(ended)
	return ended
}

// withoutGap leaves only the error of a watch whose past could not be read. kine goes on to
// send new events until the watch has ended. Publishing these would skip the missing ones.
func withoutGap(result server.WatchResult) server.WatchResult {
	select {
	case err := <-result.Errorc:
		go func(unwanted <-chan []*server.Event) {
			for range unwanted { // until kine has ended it
			}
		}(result.Events)
		events, failed := make(chan []*server.Event), make(chan error, 1)
		close(events)
		failed <- err
		result.Events, result.Errorc = events, failed
	default:
	}
	return result
}
