package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := testContext(t)
		before := mustCreate(t, c, "/w/a", "1")
		fromPast := c.Watch(ctx, "/w/", clientv3.WithPrefix(), clientv3.WithRev(before), clientv3.WithPrevKV())
		fromNow := c.Watch(ctx, "/w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithPrevKV())
		if r := <-fromNow; !r.Created {
			t.Fatalf("first response is not the creation: %v", r)
		}
		second := mustUpdate(t, c, "/w/a", "2", before)
		mustCreate(t, c, "/elsewhere", "x")
		third, err := remove(ctx, c, "/w/a", second)
		if err != nil {
			t.Fatal(err)
		}
		wantNow := []string{fmt.Sprintf("PUT /w/a=2@%d was 1", second), fmt.Sprintf("DELETE /w/a=@%d was 2", third)}
		wantPast := append([]string{fmt.Sprintf("PUT /w/a=1@%d was ", before)}, wantNow...)
		expectEvents(t, "from now", fromNow, wantNow)
		expectEvents(t, "from the past", fromPast, wantPast)
	})
}

func expectEvents(t *testing.T, name string, w clientv3.WatchChan, want []string) {
	t.Helper()
	var got []string
	for len(got) < len(want) {
		r, ok := <-w
		if !ok || r.Err() != nil {
			t.Fatalf("%s: watch ended after %v: %v", name, got, r.Err())
		}
		for _, e := range r.Events {
			got = append(got, describeEvent((*mvccpb.Event)(e)))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func describeEvent(e *mvccpb.Event) string {
	was := ""
	if e.PrevKv != nil {
		was = string(e.PrevKv.Value)
	}
	return fmt.Sprintf("%s %s=%s@%d was %s", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.ModRevision, was)
}

// Every watch sees every event once and in order, also when it joins in the
// middle of the traffic.
func TestWatchesJoiningUnderTraffic(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		const writers, each, watches = 4, 100, 8
		ctx := testContext(t)
		first := mustCreate(t, c, "/t/first", "")
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					if _, err := create(ctx, c, fmt.Sprintf("/t/%d-%03d", w, i), "v"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range watches {
			wg.Go(func() {
				var last int64
				seen := 0
				for r := range c.Watch(ctx, "/t/", clientv3.WithPrefix(), clientv3.WithRev(first)) {
					for _, e := range r.Events {
						if e.Kv.ModRevision <= last {
							t.Errorf("revision %d after %d", e.Kv.ModRevision, last)
						}
						last = e.Kv.ModRevision
						seen++
					}
					if seen == writers*each+1 {
						return
					}
				}
				t.Errorf("watch ended after %d events", seen)
			})
			time.Sleep(5 * time.Millisecond)
		}
		wg.Wait()
	})
}

// A progress notification promises that everything up to its revision was sent.
func TestProgressComesAfterItsEvents(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := clientv3.WithRequireLeader(testContext(t))
		w := c.Watch(ctx, "/p/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-w
		for i := range 50 {
			var rev int64
			if i%2 == 0 {
				rev = mustCreate(t, c, fmt.Sprintf("/p/%d", i), "")
			} else {
				rev = mustCreate(t, c, fmt.Sprintf("/quiet/%d", i), "")
			}
			if err := c.RequestProgress(ctx); err != nil {
				t.Fatal(err)
			}
			sent := i%2 != 0
			for r := range w {
				sent = sent || len(r.Events) > 0
				if r.IsProgressNotify() && r.Header.Revision >= rev {
					break
				}
			}
			if !sent {
				t.Fatalf("round %d: progress to %d without the event", i, rev)
			}
		}
	})
}

// busyHistory is a log that moves on while a watch reads its past.
type busyHistory struct {
	*memoryStore
	meanwhile func()
	err       error
}

func (b *busyHistory) since(ctx context.Context, key, end string, from int64) ([]*server.Event, int64, error) {
	events, upTo, err := b.memoryStore.since(ctx, key, end, from)
	b.meanwhile()
	return events, upTo, errors.Join(err, b.err)
}

// Progress is for all watches of a stream: not before the one that joins has
// its past, and not never.
func TestWatchJoiningHoldsProgressBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"joins": {nil, []string{"created", "2 events", "progress 2"}},
		"fails": {errors.New("disk"), []string{"created", "canceled", "progress 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			log := &busyHistory{memoryStore: newMemoryStore(0, reserveAlways), err: c.err}
			log.Create(ctx, "/j/a", nil, 0)
			h, err := newHub(ctx, log)
			if err != nil {
				t.Fatal(err)
			}
			log.Create(ctx, "/j/b", nil, 0)
			published, _, err := log.memoryStore.since(ctx, "", "", 2)
			if err != nil {
				t.Fatal(err)
			}
			log.meanwhile = func() { h.publish(published) }
			st := newStream()
			h.streams[st] = struct{}{}

			h.requestProgress(ctx, st) // of revision 2, which was not handed out yet
			h.create(ctx, st, &etcdserverpb.WatchCreateRequest{Key: []byte("/j/"), RangeEnd: []byte("/j0"), StartRevision: 1})
			responses, _ := h.take(st)
			var got []string
			for _, r := range responses {
				got = append(got, describeResponse(r))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("sent %q, want %q", got, c.want)
			}
		})
	}
}

func describeResponse(r *etcdserverpb.WatchResponse) string {
	switch {
	case r.Created:
		return "created"
	case r.Canceled:
		return "canceled"
	case r.WatchId == noWatch:
		return fmt.Sprint("progress ", r.Header.Revision)
	}
	return fmt.Sprint(len(r.Events), " events")
}
