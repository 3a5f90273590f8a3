package datastore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestVolatileTTL(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	ctx := testContext(t)
	lease, err := r.volatile.Grant(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	w := r.volatile.Watch(ctx, "/events/", clientv3.WithPrefix())
	mustCreate(t, r.volatile, "/events/stays", "x")
	mustCreate(t, r.volatile, "/events/goes", "x", clientv3.WithLease(lease.ID))
	for resp := range w {
		for _, e := range resp.Events {
			if e.Type == clientv3.EventTypeDelete {
				if got := values(t, r.volatile, "/events/"); string(e.Kv.Key) != "/events/goes" || got["/events/stays"] == "" || len(got) != 1 {
					t.Errorf("%s was deleted, left: %v", e.Kv.Key, got)
				}
				return
			}
		}
	}
	t.Error("no delete seen")
}

func TestTTLCountsAcrossRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		first := newMemoryStore(0, reserveAlways)
		for key, ttl := range map[string]int64{"/short": 60, "/long": 3600, "/ever": 0} {
			if _, err := first.Create(ctx, key, nil, ttl); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Second)
		saved := first.state("", "")
		time.Sleep(20 * time.Minute) // off

		second := newMemoryStore(saved.Revision, reserveAlways)
		saved.restore(second)
		if _, n, _ := second.Count(ctx, "", "", 0); n != 2 {
			t.Errorf("%d keys after 20 minutes off, want 2", n)
		}
		running, stop := context.WithCancel(ctx)
		go second.expire(running)
		time.Sleep(39 * time.Minute)
		if _, n, _ := second.Count(ctx, "", "", 0); n != 2 {
			t.Errorf("%d keys a minute before the end, want 2", n)
		}
		time.Sleep(2 * time.Minute)
		if _, n, _ := second.Count(ctx, "", "", 0); n != 1 {
			t.Errorf("%d keys after the end, want 1", n)
		}
		stop()
		synctest.Wait()
	})
}

func TestTTLWithClockSetBack(t *testing.T) {
	t.Parallel()
	saved := savedState{
		Saved: time.Now().Add(24 * time.Hour), // from before the clock was set back
		Items: []savedItem{{Key: []byte("/a"), Left: time.Minute}},
	}
	store := newMemoryStore(0, reserveAlways)
	saved.restore(store)
	if left := time.Until(store.items["/a"].expires); left > time.Minute {
		t.Errorf("%s left, had a minute", left)
	}
}
