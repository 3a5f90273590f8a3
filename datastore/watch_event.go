package datastore

import (
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	// noWatch is etcd's clientv3.InvalidWatchID: the response is for all
	// watches of a stream, or for none.
	noWatch = -1
)

// response is nil when w asked for none of the events. size is in bytes.
func (w *watch) response(events []*server.Event, converted []*mvccpb.Event) (response *etcdserverpb.WatchResponse, size int) {
	var matching []*mvccpb.Event
	for i, e := range events {
		if e.KV.ModRevision <= w.after || !inRange(e.KV.Key, w.key, w.end) || (e.Delete && w.noDelete) || (!e.Delete && w.noPut) {
			continue
		}
		out := converted[i]
		if !w.prevKV && out.PrevKv != nil {
			out = &mvccpb.Event{Type: out.Type, Kv: out.Kv}
		}
		matching = append(matching, out)
		size += entryOverhead + len(e.KV.Value)
	}
	if len(matching) == 0 {
		return nil, 0
	}
	last := matching[len(matching)-1].Kv.ModRevision
	return &etcdserverpb.WatchResponse{Header: header(last), WatchId: w.id, Events: matching}, size
}

func header(revision int64) *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: revision}
}

func toEvent(e *server.Event) *mvccpb.Event {
	out := &mvccpb.Event{Kv: toKeyValue(e.KV)}
	if e.Delete {
		out.Type = mvccpb.DELETE
	}
	if !e.Create {
		out.PrevKv = toKeyValue(e.PrevKV)
	}
	return out
}

func toKeyValue(kv *server.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return &mvccpb.KeyValue{
		Key: []byte(kv.Key), Value: kv.Value, Version: kv.Version, Lease: kv.Lease,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}
