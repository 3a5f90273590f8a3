package datastore

import (
	"context"
	"maps"
	"os"
	"strconv"
	"testing"

	"brink/internal/testdisk"
)

const leaseKey = leasesPrefix + "kube-system/holder"

// memoryConfig has its sockets on a tmpfs, as /run is.
func memoryConfig(t *testing.T) Config {
	t.Helper()
	cfg := testConfig(t)
	testdisk.MountAt(t, cfg.SocketDir, "tmpfs", 0, "size=4m")
	return cfg
}

// copied returns the value of the lease in the copy, -1 when there is none.
func copied(t *testing.T, cfg Config) int {
	t.Helper()
	saved, err := newLeaseCopy(cfg.SocketDir+"/"+leasesFile, cfg.SocketDir).load()
	if err != nil {
		return -1
	}
	for _, it := range saved.Items {
		if string(it.Key) == leaseKey {
			n, err := strconv.Atoi(string(it.Value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// The holders of leases live on when brink is killed: what they find must not be
// from before the last snapshot, which is minutes old or was never made.
func TestLeasesSurviveKill(t *testing.T) {
	t.Parallel()
	cfg := memoryConfig(t)
	const renewals = 50
	acks := killChildWhen(t, cfg, "renew-lease", func([]ack) bool { return copied(t, cfg) >= renewals })
	if _, err := os.Stat(cfg.Dir + "/" + volatileFile); err == nil {
		t.Fatal("there is a snapshot: the copy is not what is tried here")
	}
	r := start(t, cfg)
	resp, err := r.volatile.Get(testContext(t), leaseKey)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("the lease is gone: %v, %v", resp, err)
	}
	kv := resp.Kvs[0]
	if n, err := strconv.Atoi(string(kv.Value)); err != nil || n < renewals {
		t.Errorf("renewed %s times, want at least %d", kv.Value, renewals)
	}
	last := acks[len(acks)-1].revision
	if next := mustUpdate(t, r.volatile, leaseKey, "again", kv.ModRevision); next <= last {
		t.Errorf("revision %d after %d", next, last)
	}
	r.stop()
	if _, err := os.Stat(r.leases.path); err == nil {
		t.Error("the copy is still there after the snapshot was saved")
	}
	if got := values(t, start(t, cfg).volatile, leasesPrefix); got[leaseKey] != "again" {
		t.Errorf("after a clean stop: %v", got)
	}
}

func TestLeasesAreNotCopiedToDisk(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	testdisk.MountAt(t, cfg.SocketDir, "overlay", 0, overlayOptions(t))
	r := start(t, cfg)
	rev := mustCreate(t, r.volatile, leaseKey, "0")
	for range 10 {
		rev = mustUpdate(t, r.volatile, leaseKey, "1", rev)
	}
	r.stop()
	if entries, err := os.ReadDir(cfg.SocketDir); err != nil || len(entries) != 0 {
		t.Errorf("left in the socket directory: %v, %v", entries, err)
	}
	if r.leases.path != "" {
		t.Error("leases are copied to a file system that may be on flash")
	}
}

func overlayOptions(t *testing.T) string {
	return "lowerdir=" + t.TempDir() + ",upperdir=" + t.TempDir() + ",workdir=" + t.TempDir()
}

// A copy counts only where it is newer than the snapshot and of this boot and
// this cluster.
func TestWhichLeasesCount(t *testing.T) {
	t.Parallel()
	snapshot, newer := map[string]string{leaseKey: "saved", "/registry/events/e": "saved"}, map[string]string{leaseKey: "copied", "/registry/events/e": "saved"}
	for name, c := range map[string]leaseCase{
		"newer":            {func(*testing.T, *Store, *savedState) {}, newer, 0},
		"older":            {func(_ *testing.T, _ *Store, c *savedState) { c.Revision = 1 }, snapshot, 0},
		"another boot":     {func(_ *testing.T, s *Store, _ *savedState) { s.leases.boot = "another" }, snapshot, 0},
		"another database": {func(_ *testing.T, s *Store, _ *savedState) { s.created = true }, snapshot, 0},
		"damaged": {func(t *testing.T, s *Store, _ *savedState) {
			if err := os.WriteFile(s.leases.path, []byte(leasesMagic+"xxxxxxxx"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, snapshot, 1},
		"a lease released": {func(_ *testing.T, _ *Store, c *savedState) { c.Items = nil }, map[string]string{"/registry/events/e": "saved"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, snapshot)
		})
	}
}

// leaseCase is a change of what a start finds, and the leases and events that it then has.
type leaseCase struct {
	change func(t *testing.T, s *Store, copied *savedState)
	want   map[string]string
	warns  int
}

// check starts a store with a snapshot and a newer copy of the leases.
func (c leaseCase) check(t *testing.T, snapshot map[string]string) {
	cfg := memoryConfig(t)
	start(t, cfg).stop()
	log := new(logBuffer)
	cfg.Logger = log.logger()
	s, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	store := newMemoryStore(100, reserveAlways)
	for key, value := range snapshot {
		if _, err := store.Create(context.Background(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.save(store); err != nil {
		t.Fatal(err)
	}
	copied := savedState{Revision: 200, Items: []savedItem{{Key: []byte(leaseKey), Value: []byte("copied"), ModRevision: 200}}}
	boot := s.leases
	c.change(t, s, &copied)
	if c.warns == 0 {
		if err := boot.save(copied); err != nil {
			t.Fatal(err)
		}
	}
	r := startStore(t, s, log)
	got := values(t, r.volatile, "/registry/")
	delete(got, "/registry/health")
	if !maps.Equal(got, c.want) {
		t.Errorf("got %v, want %v", got, c.want)
	}
	if n := log.count("copied leases cannot be read"); n != c.warns {
		t.Errorf("%d warnings, want %d", n, c.warns)
	}
}
