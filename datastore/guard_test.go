package datastore

import (
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The API server's health check and compactor.
func TestAPIServerHousekeeping(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := testContext(t)
		if health, err := c.Get(ctx, "/registry/health"); err != nil || len(health.Kvs) != 1 {
			t.Errorf("health key: %v, %v", health, err)
		}
		rev := mustCreate(t, c, "/x", "")
		for version := range int64(3) {
			resp, err := c.Txn(ctx).
				If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version)).
				Then(clientv3.OpPut("compact_rev_key", fmt.Sprint(version))).
				Else(clientv3.OpGet("compact_rev_key")).Commit()
			if err != nil || !resp.Succeeded || resp.Header.Revision != rev {
				t.Fatalf("version %d: %v, %v; want success at revision %d", version, resp, err, rev)
			}
		}
		resp, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", 0)).
			Then(clientv3.OpPut("compact_rev_key", "0")).
			Else(clientv3.OpGet("compact_rev_key")).Commit()
		if err != nil || resp.Succeeded {
			t.Fatalf("stale version: %v, %v", resp, err)
		}
		if kv := resp.Responses[0].GetResponseRange().Kvs[0]; kv.Version != 3 || string(kv.Value) != "2" {
			t.Errorf("got %v, want version 3 and value 2", kv)
		}
		if _, err := c.Compact(ctx, rev); err != nil {
			t.Errorf("compact: %v", err)
		}
		if _, err := c.Compact(ctx, rev+1000); err == nil {
			t.Error("compacted the future")
		}
		if status, err := c.Status(ctx, c.Endpoints()[0]); err != nil || !strings.HasPrefix(status.Version, "3.") {
			t.Errorf("status: %v, %v", status, err)
		}
	})
}
