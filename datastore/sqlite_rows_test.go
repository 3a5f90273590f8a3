package datastore

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"brink/internal/testerror"
)

// objects are keys and values as the API server writes them, one of each kind of object
// without which a server never became ready.
var objects = map[string]string{
	"/registry/configmaps/default/a":                            envelope("v1", "ConfigMap", "a=b"),
	"/registry/secrets/default/a":                               envelope("v1", "Secret", "token"),
	"/registry/clusterroles/view":                               envelope("rbac.authorization.k8s.io/v1", "ClusterRole", "rules"),
	"/registry/namespaces/default":                              envelope("v1", "Namespace", "default"),
	"/registry/flowschemas/exempt":                              envelope("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "exempt"),
	"/registry/apiregistration.k8s.io/apiservices/v1.":          `{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1"}`,
	"/registry/services/specs/default/kubernetes":               envelope("v1", "Service", "10.43.0.1"),
	"/registry/example.com/widgets/default/w":                   `{"kind":"Widget","spec":{"size":3}}`,
	"/registry/apiextensions.k8s.io/customresourcedefinitions/": `{"kind":"CustomResourceDefinition"}`,
}

// envelope is runtime.Unknown in protobuf: the type, and the object.
func envelope(version, kind, object string) string {
	field := func(number byte, content string) string {
		return string([]byte{number<<3 | 2, byte(len(content))}) + content
	}
	return "k8s\x00" + field(1, field(1, version)+field(2, kind)) + field(2, field(1, object)) + field(3, "") + field(4, "")
}

// edit changes a stopped database behind brink's back.
func edit(t *testing.T, path, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite3", dsn(path, "rw"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.Exec(statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := result.RowsAffected(); n == 0 && !strings.HasPrefix(statement, "ALTER") {
		t.Fatalf("%s has changed nothing", statement)
	}
}

// filledWithKinds is a stopped database with all kinds; each was changed once.
func filledWithKinds(t *testing.T, cfg Config) string {
	t.Helper()
	r := start(t, cfg)
	for key, value := range objects {
		mustUpdate(t, r.durable, key, value, mustCreate(t, r.durable, key, strings.ReplaceAll(value, "v1", "v0")))
	}
	r.stop()
	edit(t, r.database(), `DELETE FROM kine WHERE id IN (SELECT prev_revision FROM kine)`) // as a compaction does
	return r.database()
}

// Two bytes of a value, of each kind: the object is gone and named, all others and
// the server work, and who makes it again ends the warning.
func TestDamagedObjectIsMovedAside(t *testing.T) {
	t.Parallel()
	for key, value := range objects {
		t.Run(strings.Split(key, "/")[2], func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			path := filledWithKinds(t, cfg)
			edit(t, path, `UPDATE kine SET value = CAST(x'fefe' || substr(value, 3) AS BLOB) WHERE name = ?`, key)
			r := start(t, cfg)
			got := values(t, r.durable, "/registry/")
			delete(got, "/registry/health")
			if len(got) != len(objects)-1 || got[key] != "" {
				t.Errorf("%d objects of %d, the damaged one is %q", len(got), len(objects), got[key])
			}
			testerror.OneLine(t, r.Warning(), key)
			if r.log.count(key) != 1 {
				t.Errorf("named %d times in the log", r.log.count(key))
			}
			if strings.Contains(r.Warning().Error(), "token") {
				t.Error("the warning shows the content")
			}
			mustCreate(t, r.durable, key, value)
			if err := r.Warning(); err != nil {
				t.Errorf("after it was made again: %v", err)
			}
			r.stop()
			r = start(t, cfg)
			if got := values(t, r.durable, key); got[key] != value || r.Warning() != nil {
				t.Errorf("after a restart: %v, warning %v", got, r.Warning())
			}
		})
	}
}

// What is kept aside is the whole row.
func TestDamagedRowIsKept(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	path := filledWithKinds(t, cfg)
	const key = "/registry/namespaces/default"
	edit(t, path, `UPDATE kine SET value = 'garbled' WHERE name = ?`, key)
	if _, err := prepared(cfg); err != nil {
		t.Fatal(err)
	}
	store, err := prepared(cfg) // it is told again as long as it is not there
	if err != nil {
		t.Fatal(err)
	}
	testerror.OneLine(t, store.Warning(), key)
	db, err := sql.Open("sqlite3", dsn(path, "ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var name, value string
	if err := db.QueryRow(`SELECT name, value FROM kine_damaged WHERE key = ?`, key).Scan(&name, &value); err != nil || name != key || value != "garbled" {
		t.Errorf("kept: %s = %q, %v", name, value, err)
	}
}

// The object's revision before takes the place of a damaged one, as a new one.
func TestRevisionBeforeIsUsed(t *testing.T) {
	t.Parallel()
	const key = "/registry/configmaps/default/a"
	for name, c := range map[string]struct {
		damage string
		want   string // empty: the object is gone
	}{
		"value":        {`UPDATE kine SET value = CAST(substr(value, 1, 8) || 'X' || substr(value, 10) AS BLOB) WHERE id = ?`, "second"},
		"key":          {`UPDATE kine SET name = name || 'x' WHERE id = ?`, "third"}, // put right
		"other type":   {`UPDATE kine SET value = 'text' WHERE id = ?`, "second"},
		"no number":    {`UPDATE kine SET lease = 'x' WHERE id = ?`, "second"},
		"checksum":     {`UPDATE kine SET sum = sum + 1 WHERE id = ?`, "second"},
		"flag":         {`UPDATE kine SET deleted = 1 WHERE id = ?`, "second"},
		"key and more": {`UPDATE kine SET name = name || 'x', value = 'text' WHERE id = ?`, "second"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			r := start(t, cfg)
			rev := mustCreate(t, r.durable, key, envelope("v1", "ConfigMap", "first"))
			rev = mustUpdate(t, r.durable, key, envelope("v1", "ConfigMap", "second"), rev)
			rev = mustUpdate(t, r.durable, key, envelope("v1", "ConfigMap", "third"), rev)
			r.stop()
			edit(t, r.database(), c.damage, rev)
			r = start(t, cfg)
			resp, err := r.durable.Get(testContext(t), "/registry/configmaps/", prefixRange("/registry/configmaps/"))
			if err != nil || len(resp.Kvs) != 1 {
				t.Fatalf("%v, %v", resp, err)
			}
			kv := resp.Kvs[0]
			if string(kv.Key) != key || string(kv.Value) != envelope("v1", "ConfigMap", c.want) {
				t.Errorf("got %s = %q, want that of %s", kv.Key, kv.Value, c.want)
			}
			if c.want != "third" {
				testerror.OneLine(t, r.Warning(), key, fmt.Sprint(rev))
				if kv.ModRevision <= rev {
					t.Errorf("the revision %d is an old one, %d was there", kv.ModRevision, rev)
				}
			}
			mustBeAbove(t, r.durable, rev)
			next := mustUpdate(t, r.durable, key, "{}", kv.ModRevision)
			if _, err := remove(testContext(t), r.durable, key, next); err != nil {
				t.Errorf("removing it: %v", err)
			}
		})
	}
}

// An object is missing until a row of its key is newer than the damaged one: what is
// older, here a deletion before it was made again, says nothing.
func TestMissingUntilItIsMadeAgain(t *testing.T) {
	t.Parallel()
	const key = "/registry/configmaps/default/a"
	value := envelope("v1", "ConfigMap", "a=b")
	cfg := testConfig(t)
	r := start(t, cfg)
	rev := mustCreate(t, r.durable, key, value)
	if _, err := remove(testContext(t), r.durable, key, rev); err != nil {
		t.Fatal(err)
	}
	rev = mustCreate(t, r.durable, key, value)
	r.stop()
	edit(t, r.database(), `UPDATE kine SET value = CAST(x'fefe' || substr(value, 3) AS BLOB) WHERE id = ?`, rev)
	for range 2 {
		r = start(t, cfg)
		testerror.OneLine(t, r.Warning(), key)
		r.stop()
	}
	r = start(t, cfg)
	rev = mustCreate(t, r.durable, key, value)
	if _, err := remove(testContext(t), r.durable, key, rev); err != nil {
		t.Fatal(err)
	}
	store, _ := r.reopen(t)
	compactAll(t, r, store)
	if err := r.Warning(); err != nil {
		t.Errorf("it was made again and deleted, and the warning stays: %v", err)
	}
}

// compactAll leaves nothing but the present.
func compactAll(t *testing.T, r *running, store *sqliteStore) {
	t.Helper()
	head := mustCreate(t, r.durable, "/registry/pods/last", "{}")
	r.settleBefore(store)
	if err := store.compactTo(testContext(t), head-1); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", dsn(r.database(), "ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows int
	if err := db.QueryRow(`SELECT COUNT(*) FROM kine WHERE name LIKE '/registry/configmaps/%'`).Scan(&rows); err != nil || rows != 0 {
		t.Fatalf("%d rows are left, %v", rows, err)
	}
}

// A deletion whose row is damaged stays one, and nobody is asked to make it again.
func TestDamagedDeletion(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	rev := mustCreate(t, r.durable, "/registry/secrets/default/a", envelope("v1", "Secret", "x"))
	if _, err := remove(testContext(t), r.durable, "/registry/secrets/default/a", rev); err != nil {
		t.Fatal(err)
	}
	r.stop()
	edit(t, r.database(), `UPDATE kine SET create_revision = 77 WHERE deleted = 1 AND name = '/registry/secrets/default/a'`)
	r = start(t, cfg)
	if got := values(t, r.durable, "/registry/secrets/"); len(got) != 0 {
		t.Errorf("what was deleted is back: %v", got)
	}
	if err := r.Warning(); err != nil {
		t.Errorf("warning: %v", err)
	}
}

// A database of the brink before has no checksums: they are added, what cannot be an
// object is found without, and the brink before can go on with the result.
func TestDatabaseWithoutSums(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	path := filledWithKinds(t, cfg)
	edit(t, path, `UPDATE kine SET sum = NULL WHERE sum IS NOT NULL`)
	edit(t, path, `UPDATE kine SET value = CAST(x'fefe' || substr(value, 3) AS BLOB) WHERE name LIKE '/registry/n%'`)
	edit(t, path, `ALTER TABLE kine DROP COLUMN sum`)
	r := start(t, cfg)
	testerror.OneLine(t, r.Warning(), "/registry/namespaces/default")
	if got := values(t, r.durable, "/registry/"); len(got) != len(objects) { // one is gone, the health key is there
		t.Errorf("%d objects", len(got))
	}
	r.stop()
	edit(t, path, `INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value)
		SELECT '/registry/pods/a', 1, 0, 0, 0, 0, x'7b7d', (SELECT value FROM kine WHERE id = 0)`)
	r = start(t, cfg)
	if got := values(t, r.durable, "/registry/pods/"); got["/registry/pods/a"] != "{}" {
		t.Errorf("what an older brink wrote: %v", got)
	}
	r.stop()
	edit(t, path, `UPDATE kine SET value = x'7b207d' WHERE name = '/registry/pods/a'`)
	r = start(t, cfg)
	testerror.OneLine(t, r.Warning(), "/registry/pods/a", "/registry/namespaces/default")
}

// A hundred flipped bytes in values, each in one of many objects: none passes for
// content, each is named, and nothing else is missing.
func TestFlippedBytesInValues(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	const count, flips = 300, 100
	value := func(i int) string { return envelope("v1", "ConfigMap", fmt.Sprintf("value-%03d", i)) }
	key := func(i int) string { return fmt.Sprintf("/registry/configmaps/default/cm-%03d", i) }
	for i := range count {
		mustCreate(t, r.durable, key(i), value(i))
	}
	r.stop()
	hit := map[string]bool{}
	for _, i := range rand.Perm(count)[:flips] {
		flipped := []byte(value(i))
		flipped[rand.IntN(len(flipped))] ^= 1 << rand.IntN(8)
		edit(t, r.database(), `UPDATE kine SET value = ? WHERE name = ?`, flipped, key(i))
		hit[key(i)] = true
	}
	r = start(t, cfg)
	got := values(t, r.durable, "/registry/configmaps/")
	for i := range count {
		want := value(i)
		if hit[key(i)] {
			want = ""
			if r.log.count(key(i)) != 1 {
				t.Errorf("%s is named %d times", key(i), r.log.count(key(i)))
			}
		}
		if got[key(i)] != want {
			t.Errorf("%s is %q, want %q", key(i), got[key(i)], want)
		}
	}
	testerror.OneLine(t, r.Warning(), fmt.Sprintf("and %d more", flips-maxNamed))
}

// stored reads a database that is not being served.
func stored(t *testing.T, store *Store) map[string]string {
	t.Helper()
	db, err := sql.Open("sqlite3", dsn(store.database(), "ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT name, value FROM kine WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			t.Fatal(err)
		}
		out[name] = value
	}
	return out
}

// A mark of the compaction that is beyond everything would make all watches too old.
func TestDamagedCompactionMark(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"beyond": `UPDATE kine SET prev_revision = 1 << 40 WHERE name = 'compact_rev_key'`,
		"gone":   `UPDATE kine SET name = 'compact_sev_key' WHERE name = 'compact_rev_key'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			path := filledWithKinds(t, cfg)
			edit(t, path, damage)
			r := start(t, cfg)
			if got := values(t, r.durable, "/registry/"); len(got) != len(objects)+1 {
				t.Errorf("%d objects", len(got))
			}
			mustGoOn(t, r.durable, mustCreate(t, r.durable, "/registry/pods/x", "x"))
		})
	}
}
