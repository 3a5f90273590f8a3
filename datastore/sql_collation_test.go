package datastore

import (
	"strings"
	"testing"

	"brink/internal/testdatabase"
)

// flawed are statements that make the column of names compare otherwise than by bytes.
var flawed = map[testdatabase.Kind][]string{
	testdatabase.Postgres: {
		`CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
			ALTER TABLE kine ALTER COLUMN name SET DATA TYPE text COLLATE folding`,
		`ALTER TABLE kine ALTER COLUMN name SET DATA TYPE text COLLATE "en-x-icu"`,
		`CREATE EXTENSION citext; ALTER TABLE kine ALTER COLUMN name SET DATA TYPE citext`,
	},
	testdatabase.MariaDB: {
		`ALTER TABLE kine MODIFY name VARCHAR(630) CHARACTER SET ascii`,
		`ALTER TABLE kine MODIFY name VARCHAR(630) CHARACTER SET latin1 COLLATE latin1_swedish_ci`,
		`ALTER TABLE kine MODIFY name VARCHAR(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci`,
	},
}

// A column that takes two names for one is refused with the statement that cures
// it, and is let in after that.
func TestCollation(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		r := start(t, cfg)
		mustCreate(t, r.durable, "/registry/pods/a", "1")
		r.stop()
		raw := openRaw(t, cfg.Endpoint)
		for _, make := range flawed[kind] {
			if _, err := raw.Exec(make); err != nil {
				if strings.Contains(err.Error(), "citext") {
					t.Log(err) // of a package that is not everywhere
					continue
				}
				t.Fatal(err)
			}
			second := launch(t, cfg)
			err := second.ended(t)
			if err == nil {
				t.Errorf("%s is let in", make)
				continue
			}
			t.Log(err)
			_, cure, found := strings.Cut(strings.TrimSuffix(err.Error(), ";"), "run there: ")
			if !found || strings.Contains(err.Error(), "\n") {
				t.Fatalf("no statement in %q", err)
			}
			if _, err := raw.Exec(cure); err != nil {
				t.Fatalf("%s: %v", cure, err)
			}
			r := start(t, cfg)
			if got := values(t, r.durable, "/registry/pods/"); got["/registry/pods/a"] != "1" {
				t.Errorf("after the cure there is %v", got)
			}
			r.stop()
		}
	})
}
