package datastore

import (
	"context"
	"maps"
	"slices"
	"sort"

	"github.com/k3s-io/kine/pkg/server"
)

func (m *memoryStore) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	rev, kvs, err := m.List(ctx, key, "", 1, revision, keysOnly)
	if err != nil || len(kvs) == 0 {
		return rev, nil, err
	}
	return rev, kvs[0], nil
}

func (m *memoryStore) List(_ context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	keys, items, err := m.atLocked(key, end, revision)
	if err != nil {
		return m.revision, nil, err
	}
	if limit > 0 && int64(len(keys)) > limit {
		keys = keys[:limit]
	}
	kvs := make([]*server.KeyValue, len(keys))
	for i, k := range keys {
		kv := *items(k)
		if keysOnly {
			kv.Value = nil
		}
		kvs[i] = &kv
	}
	return m.revision, kvs, nil
}

func (m *memoryStore) Count(_ context.Context, key, end string, revision int64) (int64, int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	keys, _, err := m.atLocked(key, end, revision)
	return m.revision, int64(len(keys)), err
}

// atLocked returns the sorted keys of a range as they were at revision, 0 being
// now, and how to look one up.
func (m *memoryStore) atLocked(key, end string, revision int64) ([]string, func(string) *server.KeyValue, error) {
	switch {
	case revision > m.revision:
		return nil, nil, server.ErrFutureRev
	case revision > 0 && revision < m.compacted:
		return nil, nil, server.ErrCompacted
	}
	keys := m.keysLocked(key, end)
	if revision == 0 || revision == m.revision {
		return keys, func(k string) *server.KeyValue { return &m.items[k].KeyValue }, nil
	}
	past := m.undoLocked(keys, key, end, revision)
	return slices.Sorted(maps.Keys(past)), func(k string) *server.KeyValue { return past[k] }, nil
}

// keysLocked returns the sorted keys of a range as they are.
func (m *memoryStore) keysLocked(key, end string) []string {
	from := sort.SearchStrings(m.keys, key)
	to := from
	for to < len(m.keys) && inRange(m.keys[to], key, end) {
		to++
	}
	return m.keys[from:to]
}

// undoLocked takes the present state of a range back to revision.
func (m *memoryStore) undoLocked(keys []string, key, end string, revision int64) map[string]*server.KeyValue {
	past := make(map[string]*server.KeyValue, len(keys))
	for _, k := range keys {
		past[k] = &m.items[k].KeyValue
	}
	for i := len(m.log) - 1; i >= 0; i-- {
		event := m.log[i].event
		if event.KV.ModRevision <= revision {
			break
		}
		switch k := event.KV.Key; {
		case !inRange(k, key, end):
		case event.PrevKV == nil:
			delete(past, k)
		default:
			past[k] = event.PrevKV
		}
	}
	return past
}

// inRange follows kine: no end means one key, no key means all.
func inRange(k, key, end string) bool {
	return key == "" || k == key || (end != "" && k >= key && k < end)
}
