package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// asideTable holds damaged rows, whole. key is the key of the row's object, as far as it is
// known. settled is 1 once nothing is missing: the object was made again, or was deleted. An
// older brink ignores the table.
const asideTable = `
	CREATE TABLE IF NOT EXISTS kine_damaged (
		key TEXT, found TEXT DEFAULT CURRENT_TIMESTAMP, settled INTEGER DEFAULT 0,
		id INTEGER, name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER,
		prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB, sum INTEGER)`

// Each row of the table kine is one revision of one object: its state after one write. The
// API server cannot decode a damaged row. It would list no object of that kind, would never
// become ready, and would not say which row is to blame. So a start repairs what it finds:
//
//   - If only the key is damaged, it is corrected. The right key comes from an index or from
//     the object's earlier row, and the checksum proves that it is right.
//   - Otherwise the row is moved to asideTable. If the object's earlier revision is still
//     there, it is used again, written as a new revision, so that no client takes it for one
//     that it has seen. The state of minutes ago does less harm than none: when a Namespace or
//     a Deployment is gone, Kubernetes deletes everything that belongs to it.
//   - Roles and their bindings are the exception, because the damaged revision may have
//     withdrawn rights that the earlier one grants. They count as deleted, and a warning
//     names them. The API server makes its own ones again at each start. Secrets are no
//     exception, although nodes are known by keys in them, nor are webhooks: they take rights
//     away by being there.
//   - If there is no earlier revision, the object is lost. A warning names it until somebody
//     has made it again.

// repair is what was done about one damaged row.
type repair struct {
	key          string
	revision     int64 // of the damaged row
	used         int64 // the earlier revision that is used instead, 0 for none
	superseded   bool  // a newer row of the object is sound: nothing is lost
	keyCorrected bool  // only the key was damaged
	withheld     bool  // there is an earlier revision, which may grant too much
}

func (r repair) String() string {
	what := fmt.Sprintf("%s (revision %d) was damaged and moved aside", r.key, r.revision)
	if r.used != 0 {
		return fmt.Sprintf("%s, its revision %d is used instead", what, r.used)
	}
	if r.withheld {
		return what + ", no older one is used as it may grant rights that were withdrawn: make it again"
	}
	return what
}

// checkRows reads every row, repairs the damaged ones and adds the checksums that are
// missing. indexed has the keys in an index, by row, if they differ from those in the rows.
func (s *Store) checkRows(ctx context.Context, db *sql.DB, indexed map[int64]string) error {
	var damaged, withoutSum []storedRow
	err := eachRow(ctx, db, func(r *storedRow) {
		switch {
		case !r.isSound():
			damaged = append(damaged, *r)
		case !r.sum.Valid && !r.isHousekeeping():
			withoutSum = append(withoutSum, storedRow{id: r.id, sum: sql.NullInt64{Int64: r.checksum(), Valid: true}})
		}
	}, `ORDER BY id`)
	if err == nil {
		err = inTransaction(ctx, db, func(tx *sql.Tx) error { return addSums(ctx, tx, withoutSum) })
	}
	if err != nil || len(damaged) == 0 {
		return err
	}
	var done []repair
	err = inTransaction(ctx, db, func(tx *sql.Tx) error {
		done, err = repairRows(ctx, tx, damaged, indexed)
		return err
	})
	if err == nil {
		s.logRepairs(done)
	}
	return err
}

// inTransaction calls do, and keeps all of its changes or, after an error, none.
func inTransaction(ctx context.Context, db *sql.DB, do func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func addSums(ctx context.Context, tx *sql.Tx, rows []storedRow) error {
	for _, r := range rows {
		if _, err := tx.ExecContext(ctx, `UPDATE kine SET sum = ? WHERE id = ?`, r.sum.Int64, r.id); err != nil {
			return err
		}
	}
	return nil
}

// repairRows first moves all damaged rows aside, and then looks for the earlier revisions:
// one of these may be damaged too.
func repairRows(ctx context.Context, tx *sql.Tx, damaged []storedRow, indexed map[int64]string) ([]repair, error) {
	if _, err := tx.ExecContext(ctx, asideTable); err != nil {
		return nil, err
	}
	var done, lost []repair
	deletions := map[string]bool{}
	for _, r := range damaged {
		one, err := moveAside(ctx, tx, &r, indexed[r.id])
		if err != nil {
			return nil, err
		}
		deletions[one.key] = r.isDeletion()
		if one.keyCorrected {
			done = append(done, one)
			continue
		}
		lost = slices.DeleteFunc(lost, func(earlier repair) bool { return earlier.key == one.key })
		lost = append(lost, one)
	}
	for _, one := range lost {
		if err := replace(ctx, tx, &one, deletions[one.key]); err != nil {
			return nil, err
		}
		done = append(done, one)
	}
	return done, nil
}

// moveAside moves a row to asideTable. If only the row's key is damaged, it corrects the key
// instead. indexed is the key in an index, "" where that is the row's.
func moveAside(ctx context.Context, tx *sql.Tx, r *storedRow, indexed string) (repair, error) {
	one := repair{key: r.name, revision: r.id}
	before, err := oneRow(ctx, tx, `WHERE id = ? AND id > 0`, r.prevRevision)
	if err != nil {
		return one, err
	}
	candidates := []string{indexed}
	if before != nil && before.isSound() && !before.isHousekeeping() {
		candidates = append(candidates, before.name)
	}
	for _, key := range candidates {
		if key == "" || key == r.name {
			continue
		}
		one.key = key
		right := *r
		right.name = key
		if right.typed && right.sum.Valid && right.isSound() {
			one.keyCorrected = true
			_, err := tx.ExecContext(ctx, `UPDATE kine SET name = ? WHERE id = ?`, key, right.id)
			return one, err
		}
	}
	one.key = strings.ToValidUTF8(one.key, "?")
	_, err = tx.ExecContext(ctx, `
		INSERT INTO kine_damaged (key, settled, id, name, created, deleted, create_revision, prev_revision, lease, value, old_value, sum)
		SELECT ?, ?, id, name, created, deleted, create_revision, prev_revision, lease, value, old_value, sum FROM kine WHERE id = ?`,
		one.key, r.isDeletion(), r.id) // what was deleted is not missing
	if err == nil {
		_, err = tx.ExecContext(ctx, `DELETE FROM kine WHERE id = ?`, r.id)
	}
	return one, err
}

// replace writes a new revision of an object whose current one was moved aside: its earlier
// state, or a deletion if the damaged row looked like one.
func replace(ctx context.Context, tx *sql.Tx, one *repair, deletion bool) error {
	last, err := oneRow(ctx, tx, `WHERE name = ? ORDER BY id DESC LIMIT 1`, one.key)
	if err != nil || last == nil {
		return err
	}
	one.superseded = last.id > one.revision
	if one.superseded || last.deleted != 0 || !last.isSound() {
		return nil
	}
	again := storedRow{name: last.name, createRevision: last.createRevision, prevRevision: last.id, lease: last.lease, value: last.value}
	if last.created != 0 {
		again.createRevision = last.id
	}
	one.withheld = !deletion && grantsRights(one.key)
	if deletion || one.withheld {
		again.deleted, again.createRevision, again.lease, again.value = 1, 0, 0, nil
	} else {
		one.used = last.id
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value, sum)
		VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?)`,
		again.name, again.deleted, again.createRevision, again.prevRevision, again.lease, again.value, last.value, again.checksum())
	return err
}

// grantsRights reports whether key is that of a role, which is a list of rights, or of a
// binding, which gives a role to a user.
func grantsRights(key string) bool {
	for _, kind := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		if strings.HasPrefix(key, "/registry/"+kind+"/") {
			return true
		}
	}
	return false
}

// oneRow returns the row that a query finds, or nil.
func oneRow(ctx context.Context, db queryer, query string, args ...any) (found *storedRow, err error) {
	err = eachRow(ctx, db, func(r *storedRow) { found = r }, query, args...)
	return found, err
}

// logRepairs logs a line for each object. It also records that there were repairs, because
// what clients have read before may be different now.
func (s *Store) logRepairs(done []repair) {
	s.repaired = true
	for _, one := range done {
		log := s.log.With("key", one.key, "revision", one.revision)
		switch {
		case one.keyCorrected:
			log.Warn("the key of a row in the database was damaged and is put right")
		case one.superseded:
			log.Warn("an old revision of an object was damaged and is moved aside, the object is not affected")
		case one.used != 0:
			log.Warn("an object in the database was damaged and is moved aside, its revision before is used", "used", one.used)
			s.notes.add(one.String())
		case one.withheld:
			log.Warn("a role or binding in the database was damaged and is moved aside, no older one is used: make it again")
			s.notes.add(one.String())
		default:
			log.Warn("an object in the database was damaged and is moved aside: make it again")
		}
	}
}

// missingKeys returns the keys of objects that were lost and have not been made again. Any
// row of the key that is newer than the damaged one shows that the object was made again: it
// may mark a later deletion. An older row proves nothing: the object may have been deleted
// and made again before the damage.
func missingKeys(ctx context.Context, db queryer) ([]string, error) {
	if there, err := texts(ctx, db, `SELECT name FROM sqlite_master WHERE name = 'kine_damaged'`); err != nil || len(there) == 0 {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, `
		UPDATE kine_damaged SET settled = 1 WHERE settled = 0
		AND EXISTS (SELECT 1 FROM kine WHERE kine.name = kine_damaged.key AND kine.id > kine_damaged.id)`); err != nil {
		return nil, err
	}
	return texts(ctx, db, `SELECT DISTINCT key FROM kine_damaged WHERE settled = 0 ORDER BY key`)
}

// texts returns the values of a query that has one column.
func texts(ctx context.Context, db queryer, query string) (out []string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}
