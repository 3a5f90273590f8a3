package datastore

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// atRest is a database of some size after a clean stop, of keys 0 to count-1.
func atRest(t testing.TB, cfg Config, bytes int) (path string, count int) {
	t.Helper()
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path = store.database()
	db, err := sql.Open("sqlite3", writerDSN(path, "rw"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	value := []byte("k8s:enc:" + strings.Repeat("0123456789abcdef", 200))
	for ; count*2*len(value) < bytes; count++ {
		r := storedRow{name: atRestKey(count), created: 1, value: value}
		if _, err := tx.Exec(`INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value, sum)
			VALUES (?, 1, 0, 0, 0, 0, ?, ?, ?)`, r.name, value, value, r.checksum()); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return path, count
}

func atRestKey(i int) string { return fmt.Sprintf("/registry/pods/default/pod-%07d", i) }

// A card forgets while nobody writes: a database is looked at whatever its size and
// however the run before has ended.
func TestDamageAtRest(t *testing.T) {
	t.Parallel()
	const size = 40 << 20
	origin := testConfig(t)
	path, count := atRest(t, origin, size)
	if got := sizeOf(t, path); got < size {
		t.Fatalf("a database of %d bytes", got)
	}
	key := atRestKey(count / 2)
	for name, c := range map[string]restCase{
		"value": {func(t *testing.T, path string) {
			edit(t, path, `UPDATE kine SET value = CAST(substr(value, 1, 99) || 'X' || substr(value, 101) AS BLOB) WHERE name = ?`, key)
		}, 1, key},
		"index": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := strings.LastIndex(string(data), key)
			overwrite(t, path, int64(at+len(key)-1), "x")
		}, 0, "are made again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, origin.Dir, count)
		})
	}
}

// restCase is damage to a database that nobody uses: how many objects are gone after the
// next start, and what the log says.
type restCase struct {
	damage func(t *testing.T, path string)
	gone   int
	told   string
}

// check starts a store on a damaged copy of a directory with count objects.
func (c restCase) check(t *testing.T, origin string, count int) {
	cfg, _ := copyOf(t, origin)
	c.damage(t, cfg.Dir+"/"+databaseFile)
	log := new(logBuffer)
	cfg.Logger = log.logger()
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if log.count(c.told) == 0 {
		t.Errorf("nothing is told of %s", c.told)
	}
	there, gone := stored(t, store), 0
	for i := range count {
		if _, ok := there[atRestKey(i)]; !ok {
			gone++
		}
	}
	if gone != c.gone {
		t.Errorf("%d objects are gone, want %d", gone, c.gone)
	}
}

// What each start costs, with the file in the kernel's cache and without.
func BenchmarkStartCheck(b *testing.B) {
	for _, mib := range []int{16, 64, 256} {
		cfg := testConfig(b)
		path, _ := atRest(b, cfg, mib<<20)
		for _, cached := range []bool{true, false} {
			b.Run(fmt.Sprintf("%dMiB/cached=%v", mib, cached), func(b *testing.B) {
				for b.Loop() {
					if !cached {
						b.StopTimer()
						forget(b, path)
						b.StartTimer()
					}
					if _, err := prepared(cfg); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// forget has the kernel drop a file from its cache.
func forget(b *testing.B, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}
