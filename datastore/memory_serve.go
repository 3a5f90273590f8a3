package datastore

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"brink/internal/atomicfile"
)

const (
	// revisionStep is how many revisions one write of the revision file
	// reserves: a day's worth at ten a second.
	revisionStep = 1 << 20
	// revisionLost is added to the newest revision known when the revision
	// file is lost: more than a run can use between two snapshots.
	revisionLost = 1 << 40
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
	// Revision is that of the store when it was saved.
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

// runVolatile serves the volatile store.
//
// Revisions: volatile.revision holds a number below which every revision may
// have been handed out. While running that is a ceiling, written before any
// revision up to it is used; a clean stop lowers it to the last one used. So
// each start begins above everything that came before, kill -9 or not, and
// history begins there too: a watch from an older revision is told "compacted"
// and its client lists again.
func (s *Store) runVolatile(ctx context.Context, ready func()) error {
	snapshot, found := s.loadSnapshot()
	leases, newer := s.loadLeases(snapshot)
	if newer {
		snapshot = snapshot.withoutLeases()
	}
	store := newMemoryStore(s.firstRevision(found, snapshot, leases), s.reserveRevisions)
	snapshot.restore(store)
	if newer {
		leases.restore(store)
	}
	if err := store.Start(ctx); err != nil {
		return fmt.Errorf("starting the volatile store: %w", err)
	}
	s.volatile.Store(store)
	defer s.volatile.Store(nil)
	stop := s.keep(ctx, store)
	defer stop()
	if err := s.serve(ctx, volatileSocket, &guarded{Backend: store}, store, ready); err != nil {
		return err
	}
	stop()
	if err := s.saveFinally(store); err != nil {
		s.log.Warn("leases and events were not saved", "error", err)
		return nil
	}
	s.leases.remove()
	return nil
}

// keep expires and saves in the background. stop waits for both: a save that
// is being written would else replace the final one with older content.
func (s *Store) keep(ctx context.Context, store *memoryStore) (stop func()) {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { store.expire(background) })
	running.Go(func() { s.saveNowAndThen(background, store) })
	running.Go(func() { s.copyLeases(background, store) })
	return func() {
		cancel()
		running.Wait()
	}
}

// firstRevision returns one that nobody has seen more of. It is 0 only beside a
// database that was made just now, without a snapshot found. Without its file
// what was saved tells how much had been reserved then; without both only the
// clock is left, in microseconds because no store writes as fast as that. It
// may be wrong, so it counts only where it leads further.
func (s *Store) firstRevision(found bool, states ...savedState) int64 {
	var newest, reserved int64
	for _, saved := range states {
		reserved = max(reserved, saved.Ceiling)
		for _, it := range saved.Items {
			newest = max(newest, it.ModRevision)
		}
	}
	start, err := readRevision(s.path(revisionFile))
	if errors.Is(err, fs.ErrNotExist) && s.created && !found {
		return 0
	}
	if err != nil {
		s.log.Warn("volatile revision file is lost, jumping ahead", "error", err)
		return max(max(newest, reserved)+revisionLost, time.Now().UnixMicro())
	}
	return max(start, newest)
}

// reserveRevisions makes revisions from next on usable and returns the last.
func (s *Store) reserveRevisions(next int64) (int64, error) {
	ceiling := next + revisionStep
	err := writeRevision(s.path(revisionFile), ceiling)
	s.noteSave(err)
	return ceiling, err
}

func (s *Store) noteSave(err error) {
	if err != nil {
		s.snapshot.failed(err)
		return
	}
	s.snapshot.succeeded()
}

func writeRevision(path string, revision int64) error {
	return atomicfile.Write(path, []byte(strconv.FormatInt(revision, 10)+"\n"), 0o600)
}

func readRevision(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	revision, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || revision < 0 {
		return 0, fmt.Errorf("reading %s: not a revision: %.20q", path, data)
	}
	return revision, nil
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
	off := max(store.now().Sub(saved.Saved), 0)
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
	now := m.now()
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
		err = atomicfile.WriteWith(s.path(volatileFile), 0o600, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
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

// saveFinally lowers the ceiling only when the snapshot is safe; else the next
// start goes on as after a crash.
func (s *Store) saveFinally(store *memoryStore) error {
	_, revision, err := s.save(store)
	if err != nil {
		return err
	}
	return writeRevision(s.path(revisionFile), revision)
}
