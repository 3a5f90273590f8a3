package datastore

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"brink/internal/atomicfile"
)

const (
	// saveInterval is the least time between two saves while running, and
	// saveBudget what they may write an hour: a quarter of what an idle node
	// may cost its flash.
	saveInterval = 15 * time.Minute
	saveBudget   = 256 << 10
)

// volatileMagic begins a snapshot: name and version of the format. After it
// come the CRC-32C of the rest, big endian, and a gzipped gob of savedState.
const volatileMagic = "brink volatile 1\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// savedState is the content of a snapshot. Fields may be added: gob leaves
// unknown ones out.
type savedState struct {
	Saved time.Time
	// Revision is the store's revision at the time of the save.
	Revision int64
	// Boot is which boot a copy of the leases is of, empty in a snapshot.
	Boot string
	// Ceiling is the highest revision reserved then, zero when not known. It
	// stands in for a lost revision file.
	Ceiling int64
	Items   []savedItem
}

type savedItem struct {
	Key, Value                                []byte
	Version, CreateRevision, ModRevision, TTL int64
	// Left is the time to live that remained, zero when the item does not end.
	Left time.Duration
}

// loadSnapshot returns what was saved, and whether there was a file. What cannot
// be read means nothing: one line, and the store begins empty.
func (s *Store) loadSnapshot() (saved savedState, found bool) {
	data, err := os.ReadFile(s.path(volatileFile))
	if errors.Is(err, fs.ErrNotExist) {
		return savedState{}, false
	}
	if err == nil {
		saved, err = decodeState(data)
	}
	if err != nil {
		s.log.Warn("saved leases and events cannot be read, beginning without", "path", s.path(volatileFile), "error", err)
		return savedState{}, true
	}
	return saved, true
}

func decodeState(data []byte) (savedState, error) {
	body, err := unseal(volatileMagic, data)
	if err != nil {
		return savedState{}, err
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return savedState{}, err
	}
	var saved savedState
	return saved, gob.NewDecoder(unzipped).Decode(&saved)
}

func encodeState(saved savedState) ([]byte, error) {
	var body bytes.Buffer
	zipped := gzip.NewWriter(&body)
	if err := errors.Join(gob.NewEncoder(zipped).Encode(saved), zipped.Close()); err != nil {
		return nil, err
	}
	return seal(volatileMagic, body.Bytes()), nil
}

// seal puts a magic and the CRC-32C of body before it, big endian.
func seal(magic string, body []byte) []byte {
	data := binary.BigEndian.AppendUint32([]byte(magic), crc32.Checksum(body, castagnoli))
	return append(data, body...)
}

func unseal(magic string, data []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok || len(body) < crc32.Size {
		return nil, errors.New("not a snapshot")
	}
	sum, body := binary.BigEndian.Uint32(body), body[crc32.Size:]
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("checksum does not match")
	}
	return body, nil
}

// restore puts saved items into store. The time spent off counts towards their
// end, as far as the clock can be trusted: it may have been set back, but an
// item never gets more than it had left.
func (saved savedState) restore(store *memoryStore) {
	off := max(time.Since(saved.Saved), 0)
	for _, it := range saved.Items {
		left := it.Left - off
		if it.Left > 0 && left <= 0 {
			continue
		}
		store.load(server.KeyValue{
			Key: string(it.Key), Value: it.Value, Version: it.Version, Lease: it.TTL,
			CreateRevision: it.CreateRevision, ModRevision: it.ModRevision,
		}, max(left, 0))
	}
}

// state copies the content of a range for saving.
func (m *memoryStore) state(key, end string) savedState {
	m.mu.RLock()
	defer m.mu.RUnlock()
	now := time.Now()
	keys := m.keysLocked(key, end)
	saved := savedState{Saved: now.Round(0), Revision: m.revision, Ceiling: m.ceiling, Items: make([]savedItem, 0, len(keys))}
	for _, key := range keys {
		it := m.items[key]
		out := savedItem{
			Key: []byte(key), Value: it.Value, Version: it.Version, TTL: it.Lease,
			CreateRevision: it.CreateRevision, ModRevision: it.ModRevision,
		}
		if !it.expires.IsZero() {
			out.Left = max(it.expires.Sub(now), 1)
		}
		saved.Items = append(saved.Items, out)
	}
	return saved
}

// save writes a snapshot and returns its size and revision.
func (s *Store) save(store *memoryStore) (size int, revision int64, err error) {
	saved := store.state("", "")
	data, err := encodeState(saved)
	if err == nil {
		err = atomicfile.Write(s.path(volatileFile), data, 0o600)
	}
	s.noteSave(err)
	return len(data), saved.Revision, err
}

// saveNowAndThen saves what changed, the more rarely the bigger it is. A save
// that went wrong is soon tried again.
func (s *Store) saveNowAndThen(ctx context.Context, store *memoryStore) {
	var last int64
	wait := saveInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if head, _ := store.CurrentRevision(ctx); head == last {
			continue
		}
		size, revision, err := s.save(store)
		if err != nil {
			wait = probeInterval
			continue
		}
		last, wait = revision, saveEvery(size)
	}
}

// saveEvery keeps snapshots of a size within the budget.
func saveEvery(size int) time.Duration {
	return max(saveInterval, time.Duration(size)*time.Hour/saveBudget)
}
