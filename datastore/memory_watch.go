package datastore

import (
	"context"

	"github.com/k3s-io/kine/pkg/server"
)

// afterLocked returns the events of a range with revisions above rev.
func (m *memoryStore) afterLocked(key, end string, rev int64) []*server.Event {
	var events []*server.Event
	for _, l := range m.log[min(max(rev-m.compacted, 0), int64(len(m.log))):] {
		if inRange(l.event.KV.Key, key, end) {
			events = append(events, l.event)
		}
	}
	return events
}

// since implements history.
func (m *memoryStore) since(_ context.Context, key, end string, from int64) ([]*server.Event, int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if from <= m.compacted {
		return nil, m.compacted, server.ErrCompacted
	}
	return m.afterLocked(key, end, from-1), m.revision, nil
}

// Watch follows a range from startRevision on, from now on when that is 0.
// A watcher that falls behind history finds its channel closed.
func (m *memoryStore) Watch(ctx context.Context, key, end string, startRevision int64) server.WatchResult {
	m.mu.RLock()
	defer m.mu.RUnlock()
	events := make(chan []*server.Event, 16)
	result := server.WatchResult{CurrentRevision: m.revision, Events: events}
	if startRevision == 0 {
		startRevision = m.revision + 1
	}
	if startRevision <= m.compacted {
		close(events)
		result.CompactRevision = m.compacted
		return result
	}
	go m.follow(ctx, key, end, startRevision-1, events)
	return result
}

func (m *memoryStore) follow(ctx context.Context, key, end string, seen int64, events chan<- []*server.Event) {
	defer close(events)
	for {
		m.mu.RLock()
		changed, lost := m.changed, seen < m.compacted
		batch := m.afterLocked(key, end, seen)
		seen = max(seen, m.revision)
		m.mu.RUnlock()
		if lost {
			return
		}
		if len(batch) > 0 {
			select {
			case events <- batch:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// waitChange returns true when something in a range was written after revision
// rev, false when ctx is done.
func (m *memoryStore) waitChange(ctx context.Context, key, end string, rev int64) bool {
	for ctx.Err() == nil {
		m.mu.RLock()
		changed := m.changed
		found := rev < m.compacted || len(m.afterLocked(key, end, rev)) > 0
		rev = m.revision
		m.mu.RUnlock()
		if found {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return false
}
