package datastore

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdatabase"
)

func TestExternal(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		r := start(t, externalConfig(t, sharedEndpoint(t, kind)))
		c := r.durable
		rev := mustCreate(t, c, "/registry/pods/a", "1")
		w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
		next := mustUpdate(t, c, "/registry/pods/a", "2", rev)
		if r := <-w; r.Err() != nil || len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "2" {
			t.Errorf("watch: %+v", r)
		}
		if got := values(t, c, "/registry/pods/"); got["/registry/pods/a"] != "2" {
			t.Errorf("got %v", got)
		}
		if _, err := create(testContext(t), c, "/registry/pods/a", "3"); err == nil {
			t.Error("what exists was created again")
		}
		if _, err := update(testContext(t), c, "/registry/pods/a", "3", rev); err != errConflict {
			t.Errorf("update of an old revision: %v", err)
		}
		mustCreate(t, c, "/registry/pods/A", "another")
		if _, err := remove(testContext(t), c, "/registry/pods/a", next); err != nil {
			t.Error(err)
		}
		if got := values(t, c, "/registry/pods/"); len(got) != 1 || got["/registry/pods/A"] != "another" {
			t.Errorf("after deleting a there is %v", got)
		}
		if n := r.log.count("level=WARN") + r.log.count("level=ERROR"); n != 0 {
			t.Errorf("%d complaints", n)
		}
	})
}
