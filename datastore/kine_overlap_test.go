package datastore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// overlappingCreates writes from several clients at once and returns the
// highest revision that was acknowledged.
func overlappingCreates(t *testing.T, c *clientv3.Client, prefix string) int64 {
	t.Helper()
	const writers, each = 16, 10
	acked := make([]int64, writers)
	ctx := testContext(t)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				rev, err := create(ctx, c, fmt.Sprintf("%s%d-%d", prefix, w, i), "v")
				if err != nil {
					t.Error(err)
				}
				acked[w] = max(acked[w], rev)
			}
		})
	}
	wg.Wait()
	var last int64
	for _, rev := range acked {
		last = max(last, rev)
	}
	return last
}

// Nothing is written after writes that overlapped: what they left is what a
// quiet range, a watch of it and its progress have to go by.
func TestQuietRangeAfterOverlappingWrites(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		for round := range 20 {
			last := overlappingCreates(t, c, fmt.Sprintf("/a/%d/", round))
			ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(testContext(t)), patience)
			list, err := c.Get(ctx, "/quiet/", clientv3.WithPrefix())
			if err != nil || list.Header.Revision < last {
				t.Fatalf("round %d: empty list at revision %v, %v; want at least the acknowledged %d", round, list.Header, err, last)
			}
			if _, err := c.Get(ctx, "/quiet/", clientv3.WithPrefix(), clientv3.WithRev(last)); err != nil {
				t.Fatalf("round %d: empty list at the acknowledged revision %d: %v", round, last, err)
			}
			for _, from := range []int64{last, list.Header.Revision + 1} {
				w := c.Watch(ctx, "/quiet/", clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify())
				<-w
				if got := progressTo(ctx, t, c, w, last); got < last {
					t.Fatalf("round %d: progress of a watch from %d to %d, want %d", round, from, got, last)
				}
			}
			cancel()
		}
	})
}

// progressTo asks once a second until the progress reaches revision.
func progressTo(ctx context.Context, t *testing.T, c *clientv3.Client, w clientv3.WatchChan, revision int64) (got int64) {
	t.Helper()
	for got < revision {
		if err := c.RequestProgress(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-w:
			got = r.Header.Revision
		case <-time.After(time.Second):
		case <-ctx.Done():
			return got
		}
	}
	return got
}
