package datastore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// brokenHistory cannot read what a follower missed, the first times.
type brokenHistory struct {
	*memoryStore
	failures atomic.Int32
}

func (b *brokenHistory) Watch(ctx context.Context, key, end string, start int64) server.WatchResult {
	if b.failures.Add(-1) < 0 {
		return b.memoryStore.Watch(ctx, key, end, start)
	}
	// As kine does: the error beside what happened since.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	failed <- errors.New("disk")
	events := make(chan []*server.Event, 1)
	events <- b.afterLocked("", "", b.revision-1)
	close(events)
	return server.WatchResult{Events: events, Errorc: failed}
}

// Events that could not be read while the log was followed again come later;
// newer ones do not pass them.
func TestFollowingAgainLosesNothing(t *testing.T) {
	t.Parallel()
	for range 20 { // the order in which the hub looks is random
		ctx, cancel := context.WithCancel(testContext(t))
		log := &brokenHistory{memoryStore: newMemoryStore(0, reserveAlways)}
		log.failures.Store(1)
		h, err := newHub(ctx, log)
		if err != nil {
			t.Fatal(err)
		}
		st := newStream()
		h.streams[st] = struct{}{}
		h.create(ctx, st, &etcdserverpb.WatchCreateRequest{Key: []byte("/"), RangeEnd: []byte("0")})
		for i := range 3 {
			if _, err := log.Create(ctx, fmt.Sprint("/", i), nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		go h.run(ctx)
		var got []string
		for len(got) < 3 && ctx.Err() == nil {
			<-st.wake
			responses, _ := h.take(st)
			for _, r := range responses {
				for _, e := range r.Events {
					got = append(got, string(e.Kv.Key))
				}
			}
			if len(got) > 0 && got[0] != "/0" {
				break
			}
		}
		if strings.Join(got, " ") != "/0 /1 /2" {
			t.Errorf("got %v, want /0 /1 /2", got)
		}
		cancel()
	}
}

// A client that leaves, or was dropped, ends what is done for its watch.
func TestJoiningEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *hub, leave func()){
		"client leaves":  func(_ *hub, leave func()) { leave() },
		"stream dropped": func(h *hub, _ func()) { h.dropAll() },
	} {
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		log := &busyHistory{memoryStore: newMemoryStore(0, reserveAlways)}
		h, err := newHub(ctx, log)
		if err != nil {
			t.Fatal(err)
		}
		st := newStream()
		h.streams[st] = struct{}{}
		rounds := 0
		// A log that always has more than a watch has read.
		log.meanwhile = func() {
			if rounds++; rounds == 3 {
				end(h, cancel)
			}
			log.Create(ctx, fmt.Sprint("/", rounds), nil, 0)
			h.publish(log.afterLocked("", "", log.revision-1))
			h.take(st)
		}
		log.Create(ctx, "/first", nil, 0)
		h.publish(log.afterLocked("", "", 0))
		if err := h.join(ctx, st, &watch{key: "/", end: "0"}, 1); err == nil || rounds != 3 {
			t.Errorf("%s: joined with %v after %d rounds, want an end in the third", name, err, rounds)
		}
	}
}

// More history than may wait for a client reaches it all the same.
func TestWatchOfLongHistory(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	const size, events = 400_000, 110
	if size*events < maxQueued*5/4 {
		t.Fatal("the history is too short to show anything")
	}
	value := strings.Repeat("x", size)
	first := mustCreate(t, r.durable, "/big/0", value)
	for i := range events - 1 {
		mustCreate(t, r.durable, fmt.Sprint("/big/", i+1), value)
	}
	w := r.durable.Watch(testContext(t), "/big/", clientv3.WithPrefix(), clientv3.WithRev(first))
	next := 0
	for next < events {
		resp, ok := <-w
		if !ok || resp.Err() != nil {
			t.Fatalf("ended after %d events: %v", next, resp.Err())
		}
		for _, e := range resp.Events {
			if want := fmt.Sprint("/big/", next); string(e.Kv.Key) != want {
				t.Fatalf("got %s, want %s", e.Kv.Key, want)
			}
			next++
		}
	}
}
