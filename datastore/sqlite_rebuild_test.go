package datastore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/testerror"
)

// places are where a key stands in a database file: in its row, before the value,
// and in indexes.
func places(t *testing.T, path, key string) (row int64, indexes []int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; ; at++ {
		next := bytes.Index(data[at:], []byte(key))
		if next < 0 {
			break
		}
		at += next
		if bytes.Contains(data[at:min(at+len(key)+20, len(data))], []byte("data ")) {
			row = int64(at)
		} else {
			indexes = append(indexes, int64(at))
		}
	}
	if row == 0 || len(indexes) < 2 {
		t.Fatalf("%s is at %d and %v", key, row, indexes)
	}
	return row, indexes
}

// A damaged index is made again; a damaged key, here that of another object, is put
// right by what the index has. No object is lost.
func TestDamagedIndexIsMadeAgain(t *testing.T) {
	t.Parallel()
	const key = "/registry/configmaps/default/cm-150"
	for name, c := range map[string]struct {
		place func(row int64, indexes []int64) int64
		left  int
	}{
		"one index":     {func(_ int64, indexes []int64) int64 { return indexes[0] }, 200},
		"another index": {func(_ int64, indexes []int64) int64 { return indexes[1] }, 200},
		"the row":       {func(row int64, _ []int64) int64 { return row }, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			path := filled(t, cfg)
			overwrite(t, path, c.place(places(t, path, key))+int64(len(key))-2, "9")
			r := start(t, cfg)
			if got := values(t, r.durable, "/registry/configmaps/"); len(got) != c.left {
				t.Errorf("%d objects, want %d of 200", len(got), c.left)
			}
			if (r.Warning() != nil) != (c.left != 200) {
				t.Errorf("warning: %v", r.Warning())
			}
			if kept, _ := filepath.Glob(path + ".damaged-*Z"); len(kept) != 1 || r.log.count("are made again") != 1 {
				t.Errorf("kept %v, told %d times", kept, r.log.count("are made again"))
			}
			mustGoOn(t, r.durable, mustCreate(t, r.durable, "/registry/pods/x", "x"))
			r.stop()
			if r = start(t, cfg); r.log.count("are made again") != 0 {
				t.Error("it is made again each time")
			}
		})
	}
}

// A hundred flipped bytes anywhere in a database: each start is refused in one line,
// or names what is damaged, or loses nothing. None passes damage for content.
func TestFlippedBytesInDatabase(t *testing.T) {
	t.Parallel()
	origin := testConfig(t)
	size := sizeOf(t, filled(t, origin))
	want := strings.Repeat("data ", 200)
	refused, named, whole := 0, 0, 0
	for i := range 150 {
		at := rand.Int64N(size)
		if i < 20 {
			at = rand.Int64N(200) // the header and the schema's page
		}
		cfg, _ := copyOf(t, origin.Dir)
		path := filepath.Join(cfg.Dir, databaseFile)
		flip(t, path, at)
		log := new(logBuffer)
		cfg.Logger = log.logger()
		store, err := prepared(cfg)
		if err != nil {
			testerror.OneLine(t, err, path, "damaged")
			refused++
			continue
		}
		there := stored(t, store)
		lost := 0
		for j := range 200 {
			key := fmt.Sprintf("/registry/configmaps/default/cm-%03d", j)
			if got := there[key]; got != want {
				lost++
				if log.count(key) == 0 && log.count("damaged") == 0 || got != "" {
					t.Errorf("byte %d: %s is %.20q and nothing is told", at, key, got)
				}
			}
		}
		if lost > 1 {
			t.Errorf("byte %d: one flipped byte has cost %d objects", at, lost)
		}
		if lost == 1 {
			named++
		} else {
			whole++
		}
	}
	t.Logf("refused %d, one object named %d, nothing lost %d", refused, named, whole)
}
