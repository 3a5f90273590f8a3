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

// checkedLog is kine's log over SQL with two things put right.
//
// Reads: kine never asks rows.Err, so rows that broke off pass for all there
// are: a list without its end, a watch without the events in between.
//
// The current revision: kine keeps it in a variable that each write raises only
// if no other was acknowledged meanwhile. After writes that overlapped it stays
// behind until one that does not, and with it what an empty list has for its
// revision: a watch from there repeats events, progress is never reached, and
// a list at an acknowledged revision is told that it lies in the future.
type checkedLog struct {
	*sqllog.SQLLog
	dialect server.Dialect
	db      *generic.Generic // beneath dialect, for what kine's log has no word for
	ceiling *ceiling         // of what may be handed out; nil: there is none
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

// ifCompacted is ErrCompacted when there is nothing left of a revision.
func (l *checkedLog) ifCompacted(ctx context.Context, revision int64) error {
	compacted, err := l.dialect.GetCompactRevision(ctx)
	if err == nil && revision < compacted {
		err = server.ErrCompacted
	}
	return err
}

// Watch never returns nil, which kine does when the log cannot be followed and
// then waits on for ever.
func (l *checkedLog) Watch(ctx context.Context, key, end string) <-chan server.Events {
	if events := l.SQLLog.Watch(ctx, key, end); events != nil {
		return events
	}
	ended := make(chan server.Events)
	close(ended)
	return ended
}

// withoutGap leaves only the error of a watch whose past could not be read. kine
// goes on with what is new, for as long as its own end takes: whoever handed
// that out would pass over the missing events.
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
