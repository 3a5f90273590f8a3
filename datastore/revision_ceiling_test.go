package datastore

import (
	"os"
	"path/filepath"
	"testing"
)

// What belongs to another cluster counts for nothing, and a clean restart skips
// nothing.
func TestCeilingIsOfOneCluster(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.CeilingFile = filepath.Join(t.TempDir(), "revision")
	cfg.Cluster = func() string { return "one" }
	if err := writeCeiling(cfg.CeilingFile, 1<<40, "another", 0o755); err != nil {
		t.Fatal(err)
	}
	r := start(t, cfg)
	last := mustCreate(t, r.durable, "/registry/pods/a", "x")
	r.stop()
	if last > 100 {
		t.Errorf("a new cluster begins at %d", last)
	}
	for _, path := range []string{cfg.CeilingFile, filepath.Join(cfg.Dir, ceilingFile)} {
		if got, of, err := readCeiling(path); got != last || of != "one" || err != nil {
			t.Errorf("%s: %d of %q, %v; want %d of one", path, got, of, err, last)
		}
	}
	if next := mustCreate(t, start(t, cfg).durable, "/registry/pods/b", "x"); next != last+1 {
		t.Errorf("revision %d after a clean restart, %d before", next, last)
	}
}

// Garbled copies are no numbers.
func TestReadCeiling(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revision")
	if err := writeCeiling(path, 123456, "abc", 0o755); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range len(good) - 1 {
		for bit := range 8 {
			bad := append([]byte{}, good...)
			bad[at] ^= 1 << bit
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if value, cluster, err := readCeiling(path); err == nil {
				t.Errorf("%q is read as %d of %s", bad, value, cluster)
			}
		}
	}
}

// A reservation is written before it is used, and seldom.
func TestCeilingIsWrittenAhead(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	c := newCeiling(cfg, new(logBuffer).logger())
	written, before := 0, int64(-1)
	for head := int64(0); head < 3*ceilingStep; head += 100 {
		if err := c.allow(head); err != nil {
			t.Fatal(err)
		}
		value, found := c.load()
		if !found || value < head+ceilingAhead {
			t.Fatalf("at %d: %d is written, %v", head, value, found)
		}
		if value != before {
			written++
		}
		before = value
	}
	if written > 7 {
		t.Errorf("written %d times for %d revisions", written, 3*ceilingStep)
	}
	blocked := filepath.Join(cfg.Dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.inside = filepath.Join(blocked, "x")
	if err := c.allow(c.upTo.Load() - ceilingStep/3); err != nil {
		t.Errorf("with revisions left: %v", err)
	}
	if err := c.allow(c.upTo.Load()); err == nil {
		t.Error("revisions were handed out that nothing remembers")
	}
}
