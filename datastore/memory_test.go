package datastore

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

// reserveAlways is a revision file that cannot fail.
func reserveAlways(next int64) (int64, error) { return next + revisionStep, nil }

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		store := newMemoryStore(0, reserveAlways)
		running, stop := context.WithCancel(ctx)
		go store.expire(running)
		value := make([]byte, 500)
		lease, _ := store.Create(ctx, "/lease", value, 0)
		var most int64
		for i := range 100_000 {
			var err error
			if lease, _, _, err = store.Update(ctx, "/lease", value, lease, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Create(ctx, fmt.Sprint("/event/", i), value, 60); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			size, _ := store.DbSize(ctx)
			most = max(most, size)
		}
		stop()
		synctest.Wait()
		// 1,200 events live at a time.
		if limit := int64(historyBytes + 1300*2*entryOverhead + 1300*1000); most > limit {
			t.Errorf("%d bytes at most, want below %d", most, limit)
		}
		if n := len(store.log); n > historyEntries {
			t.Errorf("%d entries in the log", n)
		}
		if first := store.log[0].event.KV.ModRevision; first != store.compacted+1 {
			t.Errorf("log begins at %d but is compacted to %d", first, store.compacted)
		}
		// kine's memory driver repeats events after compactions.
		events, _, err := store.since(ctx, "", "", store.revision-2)
		if err != nil || len(events) != 3 {
			t.Errorf("last three revisions: %d events, %v", len(events), err)
		}
		if _, _, err := store.since(ctx, "", "", store.compacted); !errors.Is(err, server.ErrCompacted) {
			t.Errorf("before the log: %v", err)
		}
		if _, _, err := store.List(ctx, "/", "0", 0, store.compacted-1, false); !errors.Is(err, server.ErrCompacted) {
			t.Errorf("list before the log: %v", err)
		}
	})
}
