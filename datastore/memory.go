package datastore

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// historyAge, historyEntries and historyBytes bound what the memory store
	// keeps of the past. Watches resume and paged lists go on within it, and
	// are told "compacted" beyond it. Five minutes is what etcd keeps under an
	// API server; the other two bound memory when many things happen at once.
	historyAge     = 5 * time.Minute
	historyEntries = 10000
	historyBytes   = 8 << 20
	// entryOverhead is the bookkeeping of one entry, roughly.
	entryOverhead = 256
)

// memoryStore is a server.Backend without a disk. kine has one, but its
// Compact leaves one entry too many in the log each time: memory grows for as
// long as the process lives, and watchers see old events again. This one knows
// the absolute time at which a key expires, so that it survives a restart, and
// hands out revisions from a given start, below a ceiling that reserve raises.
//
// The past is a log of events, each with the value before it. A read at an old
// revision takes the present and undoes the log backwards.
type memoryStore struct {
	reserve func(next int64) (ceiling int64, err error)

	mu        sync.RWMutex
	revision  int64
	compacted int64 // history reaches back to here, exclusively
	ceiling   int64
	items     map[string]*item
	keys      []string // of items, sorted
	log       []logged // revisions rise by one from compacted+1 on
	logBytes  int
	changed   chan struct{} // closed and replaced by every write
	nextEnd   time.Time     // no item expires before; zero when none does
	rearm     chan struct{} // tells expire that nextEnd moved closer
}

type item struct {
	server.KeyValue
	expires time.Time // zero: never
}

type logged struct {
	event *server.Event
	at    time.Time
	size  int
}

var _ server.Backend = (*memoryStore)(nil)

// newMemoryStore begins after revision start, which nobody may have seen more of.
func newMemoryStore(start int64, reserve func(int64) (int64, error)) *memoryStore {
	return &memoryStore{
		reserve:  reserve,
		revision: start, compacted: start, ceiling: start,
		items:   map[string]*item{},
		changed: make(chan struct{}), rearm: make(chan struct{}, 1),
	}
}

// Start makes the key that the API server's health check reads. It writes also
// when the key was restored: the API server watches from the current revision
// on, inclusive, and the revision at which history begins is not in it.
func (m *memoryStore) Start(ctx context.Context) error {
	_, err := m.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0)
	if err != server.ErrKeyExists {
		return err
	}
	_, kv, err := m.Get(ctx, server.HealthKey, 0, false)
	if err == nil {
		_, _, _, err = m.Update(ctx, server.HealthKey, kv.Value, kv.ModRevision, 0)
	}
	return err
}

// load puts an item back that was saved. left is zero when it never expires.
func (m *memoryStore) load(kv server.KeyValue, left time.Duration) {
	it := &item{KeyValue: kv}
	if left > 0 {
		it.expires = time.Now().Add(left)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.putLocked(it)
}

func (m *memoryStore) putLocked(it *item) {
	if _, ok := m.items[it.Key]; !ok {
		at, _ := slices.BinarySearch(m.keys, it.Key)
		m.keys = slices.Insert(m.keys, at, it.Key)
	}
	m.items[it.Key] = it
	if !it.expires.IsZero() && (m.nextEnd.IsZero() || it.expires.Before(m.nextEnd)) {
		m.nextEnd = it.expires
		select {
		case m.rearm <- struct{}{}:
		default:
		}
	}
}

// skip raises the current revision by a number of revisions and forgets the past. It writes
// afterwards, for the same reason as Start. It changes nothing if the new revisions cannot be
// reserved: readers see the current one.
func (m *memoryStore) skip(ctx context.Context, revisions int64) error {
	if err := m.raise(revisions); err != nil {
		return err
	}
	return m.Start(ctx)
}

func (m *memoryStore) raise(revisions int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ceiling, err := m.reserve(m.revision + revisions)
	if err != nil {
		return err
	}
	m.ceiling = ceiling
	m.revision += revisions
	m.compacted, m.log, m.logBytes = m.revision, nil, 0
	return nil
}

func (m *memoryStore) removeLocked(key string) {
	delete(m.items, key)
	if at, ok := slices.BinarySearch(m.keys, key); ok {
		m.keys = slices.Delete(m.keys, at, at+1)
	}
}

// nextLocked hands out a revision. Half of a reservation ahead it tries to get
// the next one, so that a full disk hurts only much later.
func (m *memoryStore) nextLocked() (int64, error) {
	next := m.revision + 1
	if next > m.ceiling-revisionStep/2 && (next > m.ceiling || next%1024 == 0) {
		ceiling, err := m.reserve(next)
		if err == nil {
			m.ceiling = ceiling
		} else if next > m.ceiling {
			return 0, err
		}
	}
	m.revision = next
	return next, nil
}

func (m *memoryStore) appendLocked(event *server.Event) {
	size := entryOverhead + len(event.KV.Value)
	if event.PrevKV != nil {
		size += len(event.PrevKV.Value)
	}
	m.log = append(m.log, logged{event: event, at: time.Now(), size: size})
	m.logBytes += size
	m.trimLocked()
	close(m.changed)
	m.changed = make(chan struct{})
}

// trimLocked is this store's compaction.
func (m *memoryStore) trimLocked() {
	oldest := time.Now().Add(-historyAge)
	n := 0
	for n < len(m.log) && (len(m.log)-n > historyEntries || m.logBytes > historyBytes || m.log[n].at.Before(oldest)) {
		m.logBytes -= m.log[n].size
		n++
	}
	if n == 0 {
		return
	}
	m.compacted = m.log[n-1].event.KV.ModRevision
	clear(m.log[:n]) // the slice's array outlives the cut
	m.log = m.log[n:]
}

func (m *memoryStore) Create(_ context.Context, key string, value []byte, lease int64) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.items[key] != nil {
		return m.revision, server.ErrKeyExists
	}
	it, err := m.writeLocked(key, value, lease, nil)
	if err != nil {
		return m.revision, err
	}
	return it.ModRevision, nil
}

func (m *memoryStore) Update(_ context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.items[key]
	if before == nil {
		return m.revision, nil, false, nil
	}
	if before.ModRevision != revision {
		return m.revision, before.copy(), false, nil
	}
	it, err := m.writeLocked(key, value, lease, before)
	if err != nil {
		return m.revision, nil, false, err
	}
	return it.ModRevision, it.copy(), true, nil
}

// writeLocked stores a value over before, which is nil for a new key.
func (m *memoryStore) writeLocked(key string, value []byte, lease int64, before *item) (*item, error) {
	rev, err := m.nextLocked()
	if err != nil {
		return nil, err
	}
	it := &item{KeyValue: server.KeyValue{Key: key, Value: value, Version: 1, CreateRevision: rev, ModRevision: rev, Lease: lease}}
	event := &server.Event{Create: before == nil, KV: &it.KeyValue}
	if before != nil {
		it.CreateRevision, it.Version = before.CreateRevision, before.Version+1
		event.PrevKV = &before.KeyValue
	}
	if lease > 0 { // kine's lease id is its duration in seconds
		it.expires = time.Now().Add(time.Duration(lease) * time.Second)
	}
	m.putLocked(it)
	m.appendLocked(event)
	return it, nil
}

func (m *memoryStore) Delete(_ context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := m.items[key]
	if it == nil {
		return m.revision, nil, false, nil
	}
	if revision != 0 && it.ModRevision != revision {
		return m.revision, it.copy(), false, nil
	}
	rev, err := m.deleteLocked(it)
	if err != nil {
		return m.revision, nil, false, err
	}
	return rev, it.copy(), true, nil
}

func (m *memoryStore) deleteLocked(it *item) (int64, error) {
	rev, err := m.nextLocked()
	if err != nil {
		return 0, err
	}
	m.removeLocked(it.Key)
	m.appendLocked(&server.Event{
		Delete: true,
		KV:     &server.KeyValue{Key: it.Key, ModRevision: rev},
		PrevKV: &it.KeyValue,
	})
	return rev, nil
}

// copy protects what readers get: kine's server writes into some of it.
func (it *item) copy() *server.KeyValue {
	kv := it.KeyValue
	return &kv
}

func (m *memoryStore) CurrentRevision(context.Context) (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.revision, nil
}

func (m *memoryStore) DbSize(context.Context) (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	size := int64(m.logBytes)
	for key, it := range m.items {
		size += int64(entryOverhead + len(key) + len(it.Value))
	}
	return size, nil
}

// Compact does nothing: trimLocked does it with every write.
func (m *memoryStore) Compact(context.Context, int64) (int64, error) {
	return m.CurrentRevision(context.Background())
}

// WaitForSyncTo returns at once: Watch reads the log that writes append to.
func (m *memoryStore) WaitForSyncTo(int64) {}
