package datastore

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// That an acknowledged write survives a power cut cannot be tried here, only
// that SQLite is told so on every connection.
func TestEveryCommitIsSynced(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	if _, err := prepared(cfg); err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(&connector{dsn: writerDSN(cfg.Dir+"/"+databaseFile, "rw"), disk: newCondition(nil, "")})
	defer db.Close()
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal"} {
		var got string
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
}

// The mark is how the next start knows that the run before ended badly.
func TestInUseMark(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	marked := func() bool {
		_, err := os.Stat(filepath.Join(cfg.Dir, inUseFile))
		return err == nil
	}
	r := start(t, cfg)
	if !marked() {
		t.Error("no mark while running")
	}
	r.stop()
	if marked() {
		t.Error("a mark after a clean stop")
	}
	killChild(t, cfg, "m", 10)
	if !marked() {
		t.Error("no mark after kill -9")
	}
}

// The indexes that were left out must not turn a query of kine into a scan of
// the table.
func TestQueriesUseIndexes(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	mustCreate(t, r.durable, "/a", "x")
	store, _ := r.reopen(t)
	d := store.dialect
	for name, q := range map[string]string{
		"get": d.GetSingleValSQL.Query, "list": d.ListCurrentValSQL.Query, "list at": d.GetRevisionAfterValSQL.Query,
		"count": d.CountCurrentSQL.Query, "after": d.AfterSingleOldValSQL.Query, "after all": d.AfterAllOldValSQL.Query,
		"current": d.CurrentRevSQL.Query, "compact rev": d.CompactRevSQL.Query, "compact": d.CompactSQL.Query,
	} {
		plan := queryPlan(t, d.DB, q)
		if strings.Contains(plan, "SCAN kine\n") || strings.Contains(plan, "SCAN kv") {
			t.Errorf("%s scans the table:\n%s", name, plan)
		}
	}
}

func queryPlan(t *testing.T, db *sql.DB, q string) string {
	t.Helper()
	args := make([]any, strings.Count(q, "?"))
	for i := range args {
		args[i] = 1
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+q, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(detail + "\n")
	}
	return plan.String()
}
