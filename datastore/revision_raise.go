package datastore

import (
	"context"
	"fmt"

	"github.com/k3s-io/kine/pkg/drivers/generic"
)

// raisedPrefix begins the name of the row that raiseTo writes. kine's own names for rows that
// fill a gap begin with "gap-" too: nobody is shown such a row, and a compaction removes it.
const raisedPrefix = "gap-raised-"

// lastRevision returns the highest revision, 0 for an empty table. kine's own query fails on
// one.
func lastRevision(ctx context.Context, dialect *generic.Generic) (head int64, err error) {
	err = dialect.DB.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM kine`).Scan(&head)
	return head, err
}

// markedRevision returns the revision up to which old ones were removed, as the table says.
// If it is damaged and higher than the last revision, the server would refuse every read as
// too old.
func markedRevision(ctx context.Context, dialect *generic.Generic) (compacted int64, err error) {
	err = dialect.DB.QueryRowContext(ctx, `SELECT COALESCE(MAX(prev_revision), 0) FROM kine WHERE name = 'compact_rev_key'`).Scan(&compacted)
	return compacted, err
}

// raiseTo marks everything up to target as compacted, and makes the revision after it the
// current one, in one transaction. etcd does the same with --bump-revision and
// --mark-compacted when a snapshot is restored. From then on watches and lists of older
// revisions are refused as compacted, and their clients read everything again. It works on
// every database that kine knows.
func raiseTo(ctx context.Context, dialect *generic.Generic, target int64) error {
	if dialect.LockWrites {
		dialect.Lock()
		defer dialect.Unlock()
	}
	tx, err := dialect.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, statement := range raiseStatements(dialect, target) {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// raiseStatements returns the statements of raiseTo, into which only numbers are put. The
// last one is for a table that was made just now: it has no row yet for the mark of the
// compaction.
func raiseStatements(dialect *generic.Generic, target int64) []string {
	head := target + 1
	out := []string{fmt.Sprintf(`
		INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease)
		VALUES (%d, '%s%d', 0, 1, 0, 0, 0)`, head, raisedPrefix, head)}
	if !dialect.LastInsertID { // PostgreSQL, whose sequence knows nothing of ids that were given
		out = append(out, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence('kine', 'id'), %d)`, head))
	}
	return append(out,
		fmt.Sprintf(`UPDATE kine SET prev_revision = %d WHERE name = 'compact_rev_key'`, target),
		fmt.Sprintf(`
			INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease)
			SELECT 'compact_rev_key', 1, 0, 0, %d, 0
			FROM (SELECT 1 AS one) AS single
			WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM kine WHERE name = 'compact_rev_key') AS mark)`, target))
}

// firstTarget returns the revision after which this run begins. It is head unless state was
// lost or may have been lost: a disk may report writes as done that are not, and after an
// unclean end nobody knows which of them it has kept. Then it is one more than all that was
// handed out, so that clients which have seen all of it read again as well.
func (s *Store) firstTarget(head int64) int64 {
	known, found := s.ceiling.load()
	switch {
	case !found && s.beganAnew:
		return max(head, revisionLost)
	case !found && s.unclean:
		return head + ceilingStep
	case s.unclean, s.repaired, known > head:
		return max(head, known) + 1
	}
	return head
}

// beginRevisions makes the revisions of this run begin above all that were ever handed out.
// Until ctx is done it also listens to nodes that have seen later ones. It comes before the
// log is started.
func (s *Store) beginRevisions(ctx context.Context, log *checkedLog) error {
	head, err := lastRevision(ctx, log.db)
	if err != nil {
		return err
	}
	target := s.firstTarget(head)
	if compacted, err := markedRevision(ctx, log.db); err != nil {
		return err
	} else if compacted > head {
		s.log.Warn("the mark of the last compaction is damaged and is put right", "says", compacted, "last", head)
		target = max(target, head+1)
	}
	if target > head {
		if err := s.ceiling.allow(target); err != nil {
			return err
		}
		if err := raiseTo(ctx, log.db, target); err != nil {
			return err
		}
		s.logRaised(head, target)
		head = target + 1
	}
	log.raise(head)
	s.revisions.Store(log)
	go s.hearWitnesses(ctx, log)
	return nil
}

// endRevisions lowers the ceiling to the last revision at a clean stop, when no request runs
// any more.
func (s *Store) endRevisions() {
	log := s.revisions.Swap(nil)
	if log == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	head, err := lastRevision(ctx, log.db)
	if err == nil {
		err = s.ceiling.settle(head)
	}
	s.settled = err == nil
	if err != nil {
		s.log.Warn("the last revision was not written down, the next start goes on further up", "error", err)
	}
}

// logRaised logs that revisions were raised. After an unclean end or a repair that is no
// surprise. Otherwise the database is older than what clients have seen.
func (s *Store) logRaised(head, target int64) {
	const effect = "revisions go on above all that were handed out, clients read anew"
	if s.unclean || s.repaired {
		s.log.Info(effect, "last", head, "after", target)
		return
	}
	s.log.Warn("the database is older than what was handed out, as after a restore: "+effect, "last", head, "after", target)
}

// cutWith sets the function that ends the watches of the durable store.
func (s *Store) cutWith(socket string, cut func(revision int64)) {
	if socket == durableSocket {
		s.cutWatches.Store(&cut)
	}
}
