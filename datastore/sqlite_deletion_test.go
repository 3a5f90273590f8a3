package datastore

import (
	"strings"
	"testing"

	"brink/internal/testerror"
)

// A damaged deletion stays one whichever part of its row was hit, and so do rights
// that an update has withdrawn.
func TestDamageGivesNoRightsBack(t *testing.T) {
	t.Parallel()
	const key = "/registry/clusterrolebindings/gone"
	for what, set := range map[string]string{
		"flag":      `deleted = 0`,
		"value":     `value = x'00'`,
		"both":      `deleted = 0, value = x'00'`,
		"created":   `created = 1`,
		"flag, sum": `deleted = 0, sum = 1`,
		"value sum": `value = x'00', sum = 1`,
	} {
		for _, deleted := range []bool{true, false} {
			name := what + " of an update"
			if deleted {
				name = what + " of a deletion"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := testConfig(t)
				r := start(t, cfg)
				revision := mustCreate(t, r.durable, key, envelope("rbac", "ClusterRoleBinding", "admin"))
				statement := set
				if deleted {
					if _, err := remove(testContext(t), r.durable, key, revision); err != nil {
						t.Fatal(err)
					}
				} else {
					mustUpdate(t, r.durable, key, envelope("rbac", "ClusterRoleBinding", "nobody"), revision)
					statement = strings.Replace(set, "deleted = 0", "deleted = 1", 1)
				}
				r.stop()
				edit(t, r.database(), `UPDATE kine SET `+statement+` WHERE id = (SELECT max(id) FROM kine WHERE name = ?)`, key)
				r = start(t, cfg)
				if got := values(t, r.durable, key); got[key] != "" {
					t.Errorf("it is there again: %q", got[key])
				}
				if r.log.count(key) != 1 {
					t.Errorf("named %d times in the log", r.log.count(key))
				}
				if !deleted && what != "both" && what != "flag, sum" { // there the flag is all that is left to believe
					testerror.OneLine(t, r.Warning(), key)
				}
			})
		}
	}
}
