package datastore

import (
	"context"
	"time"
)

// expire deletes what has reached its end, until ctx is done. It looks at all
// items each time, at most once a second: events come in thousands and live an
// hour, and a queue of them would cost more memory than the loop costs time.
func (m *memoryStore) expire(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.rearm:
		case <-timer.C:
		}
		if wait, ok := m.expireNow(); ok {
			timer.Reset(max(wait, time.Second))
		}
	}
}

// expireNow returns how long until the next item ends.
func (m *memoryStore) expireNow() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.nextEnd.IsZero() || m.nextEnd.After(now) {
		return m.nextEnd.Sub(now), !m.nextEnd.IsZero()
	}
	m.nextEnd = time.Time{}
	for _, it := range m.items {
		if it.expires.IsZero() {
			continue
		}
		if !it.expires.After(now) {
			if _, err := m.deleteLocked(it); err == nil {
				continue
			}
		}
		if m.nextEnd.IsZero() || it.expires.Before(m.nextEnd) {
			m.nextEnd = it.expires
		}
	}
	return m.nextEnd.Sub(now), !m.nextEnd.IsZero()
}
