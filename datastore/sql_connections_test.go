package datastore

import (
	"fmt"
	"sync"
	"testing"

	"brink/internal/testdatabase"
)

func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		cfg.MaxOpenConnections = 3
		r := start(t, cfg)
		raw := openRaw(t, cfg.Endpoint)
		count := "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
		if kind == testdatabase.MariaDB {
			count = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
		}
		var writes sync.WaitGroup
		for i := range 40 {
			writes.Go(func() {
				if _, err := create(testContext(t), r.durable, fmt.Sprint("/registry/pods/", i), "x"); err != nil {
					t.Error(err)
				}
			})
		}
		most, n := 0, 0
		for range 50 {
			if err := raw.QueryRow(count).Scan(&n); err != nil {
				t.Fatal(err)
			}
			most = max(most, n)
		}
		writes.Wait()
		if most > 3+1 {
			t.Errorf("%d connections, want 3 and the one that watches", most)
		}
	})
}
