package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// asideTable keeps the rows that were moved aside, whole, with the key that they are
// believed to be of, and whether an object of that key was there since. An older brink
// does not look at it.
const asideTable = `
	CREATE TABLE IF NOT EXISTS kine_damaged (
		key TEXT, found TEXT DEFAULT CURRENT_TIMESTAMP, settled INTEGER DEFAULT 0,
		id INTEGER, name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER,
		prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB, sum INTEGER)`

// A damaged row is not an object: the API server would list none of the kind and
// never become ready, with no word about which. It is moved aside, and
//   - where only its key is damaged, which the row before it or an index tells and the
//     checksum proves, put right;
//   - where the object's revision before is still there, that takes its place: for a
//     Namespace, a Deployment or a Secret the state of minutes ago is the smaller harm,
//     since what belongs to an object that is gone is deleted after it. It comes as a
//     new revision, so that it is nobody's old one. Roles and bindings are the exception:
//     an update may have withdrawn rights, which must not return, so they are gone and
//     named; those of the start are made again by the API server. Secrets are none, since
//     nodes are known by keys in them, nor webhooks, which withdraw rights by being there;
//   - else the object is gone, and named as long as nobody has made it again.

// repaired is what was done about one key.
type repaired struct {
	key      string
	revision int64 // of the damaged row
	used     int64 // the revision that took its place, 0 for none
	old      bool  // it was not the current one
	mended   bool  // only the key was damaged
	gone     bool  // it grants rights: nothing older took its place
}

func (r repaired) String() string {
	what := fmt.Sprintf("%s (revision %d) was damaged and moved aside", r.key, r.revision)
	if r.used != 0 {
		return fmt.Sprintf("%s, its revision %d is used instead", what, r.used)
	}
	if r.gone {
		return what + ", no older one is used as it may grant rights that were withdrawn: make it again"
	}
	return what
}

// checkRows reads every row, moves those aside that are damaged and gives those a
// checksum that have none. indexed are keys as an index has them that does not fit the
// rows, nil where they fit.
func (s *Store) checkRows(ctx context.Context, db *sql.DB, indexed map[int64]string) error {
	var damaged, bare []storedRow
	err := eachRow(ctx, db, func(r *storedRow) {
		switch {
		case !r.isSound():
			damaged = append(damaged, *r)
		case !r.sum.Valid && !r.isHousekeeping():
			bare = append(bare, storedRow{id: r.id, sum: sql.NullInt64{Int64: r.checksum(), Valid: true}})
		}
	}, `ORDER BY id`)
	if err == nil {
		err = inTransaction(ctx, db, func(tx *sql.Tx) error { return addSums(ctx, tx, bare) })
	}
	if err != nil || len(damaged) == 0 {
		return err
	}
	var done []repaired
	err = inTransaction(ctx, db, func(tx *sql.Tx) error {
		done, err = repairRows(ctx, tx, damaged, indexed)
		return err
	})
	if err == nil {
		s.tellRepaired(done)
	}
	return err
}

// inTransaction keeps everything of do or nothing.
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

// repairRows moves all of them aside before it looks for what is left of each key.
func repairRows(ctx context.Context, tx *sql.Tx, damaged []storedRow, indexed map[int64]string) ([]repaired, error) {
	if _, err := tx.ExecContext(ctx, asideTable); err != nil {
		return nil, err
	}
	var done, left []repaired
	deletions := map[string]bool{}
	for _, r := range damaged {
		one, err := moveAside(ctx, tx, &r, indexed[r.id])
		if err != nil {
			return nil, err
		}
		deletions[one.key] = r.isDeletion()
		if one.mended {
			done = append(done, one)
			continue
		}
		left = slices.DeleteFunc(left, func(before repaired) bool { return before.key == one.key })
		left = append(left, one)
	}
	for _, one := range left {
		if err := replace(ctx, tx, &one, deletions[one.key]); err != nil {
			return nil, err
		}
		done = append(done, one)
	}
	return done, nil
}

// moveAside moves a row into the table of damaged ones. If only the row's key is damaged, it
// corrects the key instead: the index may have the right one, and so may the row before.
func moveAside(ctx context.Context, tx *sql.Tx, r *storedRow, indexed string) (repaired, error) {
	one := repaired{key: r.name, revision: r.id}
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
			one.mended = true
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

// replace writes a new revision of an object whose current one was moved aside: the one
// before it, or a deletion where the damaged row looks like one.
func replace(ctx context.Context, tx *sql.Tx, one *repaired, deletion bool) error {
	last, err := oneRow(ctx, tx, `WHERE name = ? ORDER BY id DESC LIMIT 1`, one.key)
	if err != nil || last == nil {
		return err
	}
	one.old = last.id > one.revision
	if one.old || last.deleted != 0 || !last.isSound() {
		return nil
	}
	again := storedRow{name: last.name, createRevision: last.createRevision, prevRevision: last.id, lease: last.lease, value: last.value}
	if last.created != 0 {
		again.createRevision = last.id
	}
	one.gone = !deletion && grantsRights(one.key)
	if deletion || one.gone {
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

// grantsRights reports whether key is that of a role or a binding.
func grantsRights(key string) bool {
	for _, kind := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		if strings.HasPrefix(key, "/registry/"+kind+"/") {
			return true
		}
	}
	return false
}

// oneRow returns the row that a query finds, nil when it finds none.
func oneRow(ctx context.Context, db queryer, query string, args ...any) (found *storedRow, err error) {
	err = eachRow(ctx, db, func(r *storedRow) { found = r }, query, args...)
	return found, err
}

// tellRepaired logs a line for each object, and records that what clients have read
// may have changed.
func (s *Store) tellRepaired(done []repaired) {
	s.repaired = true
	for _, one := range done {
		log := s.log.With("key", one.key, "revision", one.revision)
		switch {
		case one.mended:
			log.Warn("the key of a row in the database was damaged and is put right")
		case one.old:
			log.Warn("an old revision of an object was damaged and is moved aside, the object is not affected")
		case one.used != 0:
			log.Warn("an object in the database was damaged and is moved aside, its revision before is used", "used", one.used)
			s.notes.add(one.String())
		case one.gone:
			log.Warn("a role or binding in the database was damaged and is moved aside, no older one is used: make it again")
			s.notes.add(one.String())
		default:
			log.Warn("an object in the database was damaged and is moved aside: make it again")
		}
	}
}

// missingKeys returns the keys of objects that were moved aside and have not been made
// again. A row of the key that is newer than the damaged one shows that the object was made
// again, also one that marks a deletion. An older row shows nothing: the key may have been
// deleted and made again before the damage.
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

// texts returns the values of a query's one column.
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
