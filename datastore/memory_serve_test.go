package datastore

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func prefixRange(prefix string) clientv3.OpOption {
	return clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix))
}

func TestVolatileSurvivesCleanRestart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	var last int64
	for round := range 3 {
		r := start(t, cfg)
		if got := values(t, r.volatile, "/lease/"); len(got) != round {
			t.Fatalf("round %d: %v", round, got)
		}
		if last > 0 {
			// A watch that saw everything goes on as if nothing had happened.
			w := r.volatile.Watch(testContext(t), "/lease/", clientv3.WithPrefix(), clientv3.WithRev(last+1))
			rev := mustCreate(t, r.volatile, fmt.Sprintf("/lease/%d", round), "holder")
			expectEvents(t, "resumed", w, []string{fmt.Sprintf("PUT /lease/%d=holder@%d was ", round, rev)})
			if rev <= last || rev > last+10 {
				t.Errorf("round %d: revision %d after %d", round, rev, last)
			}
			last = rev
			old := r.volatile.Watch(testContext(t), "/lease/", clientv3.WithPrefix(), clientv3.WithRev(1))
			if resp := <-old; resp.CompactRevision == 0 {
				t.Errorf("watch from 1: %+v, want compacted", resp)
			}
		} else {
			last = mustCreate(t, r.volatile, "/lease/0", "holder")
		}
		r.stop()
	}
}

func TestVolatileKeepsWhatClientsCompare(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	rev := mustCreate(t, r.volatile, "/lease/a", "1")
	r.stop()
	r = start(t, cfg)
	resp, err := r.volatile.Get(testContext(t), "/lease/a")
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != rev || resp.Kvs[0].CreateRevision != rev {
		t.Fatalf("got %v, %v; want revision %d", resp, err, rev)
	}
	mustUpdate(t, r.volatile, "/lease/a", "2", rev)
}

func TestVolatileFilesDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"snapshot overwritten": func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, volatileFile), 40, "xxxx") },
		"snapshot cut":         func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, volatileFile), 60) },
		"snapshot empty":       func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, volatileFile), 0) },
		"revision unreadable":  func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, revisionFile), 0, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			r := start(t, cfg)
			rev := mustCreate(t, r.volatile, "/lease/a", strings.Repeat("holder", 100))
			r.stop()
			damage(t, cfg.Dir)
			r = start(t, cfg)
			if n := r.log.count("level=WARN"); n != 1 {
				t.Errorf("%d warnings, want 1", n)
			}
			if next := mustCreate(t, r.volatile, "/lease/b", ""); next <= rev {
				t.Errorf("revision %d after %d", next, rev)
			}
		})
	}
}
