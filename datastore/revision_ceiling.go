package datastore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/once"
)

const (
	// ceilingFile in Config.Dir is one copy of the ceiling, Config.CeilingFile
	// the other.
	ceilingFile = layout.DurableRevision
	// ceilingStep is how many revisions one write of the ceiling reserves: two
	// hours' worth at ten a second, and two small files each time.
	ceilingStep = 1 << 16
	// ceilingAhead revisions are left when a write has to wait for the next
	// reservation: more than there are ever writes at once.
	ceilingAhead = 1 << 10
	// ceilingRetry is how often a reservation that failed is tried again while
	// there is something left of the one before.
	ceilingRetry = 10 * time.Second
	// maxRevision is beyond all that can have been handed out. What claims more is
	// garbled.
	maxRevision = 1 << 62
	// noCluster is written where Config.Cluster is not given.
	noCluster = "-"
)

// ceiling is a number that no revision ever handed out exceeds. It is written before
// revisions up to it are used, and a clean end lowers it to the last one used. There are
// two copies, because whatever brings an old database back, such as a restored
// directory, brings back the copy beside it as well.
//
// A copy names its cluster by the hash of the CA: only clients that trust this CA have
// watches that must not continue. The copy of another cluster, on a machine that was
// set up anew, means nothing.
type ceiling struct {
	log     *slog.Logger
	inside  string
	outside string        // may be empty
	cluster func() string // empty: not known yet

	upTo atomic.Int64 // revisions up to here may be handed out

	warned once.Reporter // that the outer copy cannot be written

	mu    sync.Mutex // held while writing
	tried time.Time  // when writing last failed
}

func newCeiling(cfg Config, log *slog.Logger) *ceiling {
	cluster := cfg.Cluster
	if cluster == nil {
		cluster = func() string { return noCluster }
	}
	return &ceiling{log: log, inside: filepath.Join(cfg.Dir, ceilingFile), outside: cfg.CeilingFile, cluster: cluster}
}

// load returns the higher of the copies that belong to this cluster; found is false
// when there is no such copy.
func (c *ceiling) load() (value int64, found bool) {
	cluster := c.cluster()
	for _, path := range []string{c.inside, c.outside} {
		if path == "" || cluster == "" {
			continue
		}
		got, of, err := readCeiling(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			c.log.Warn("one of the two copies of the revision ceiling cannot be read, taking the other", "error", err)
		case of != cluster:
			c.log.Info("the revision ceiling of another cluster is not used", "path", path)
		default:
			value, found = max(value, got), true
		}
	}
	return value, found
}

// allow makes sure that revisions after head may be handed out. Half of a
// reservation ahead it gets the next one, so that a full disk hurts only later.
func (c *ceiling) allow(head int64) error {
	if c == nil {
		return nil
	}
	left := c.upTo.Load() - head
	if left > ceilingStep/2 {
		return nil
	}
	if left > ceilingAhead {
		if !c.mu.TryLock() {
			return nil // another write is reserving
		}
	} else {
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	left = c.upTo.Load() - head
	if left > ceilingStep/2 || (left > ceilingAhead && time.Since(c.tried) < ceilingRetry) {
		return nil
	}
	if err := c.writeLocked(head + ceilingStep); err != nil {
		c.tried = time.Now()
		if left > ceilingAhead {
			return nil
		}
		return err
	}
	return nil
}

// settle lowers the ceiling to revision, the last one, at a clean end.
func (c *ceiling) settle(revision int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writeLocked(revision)
}

// writeLocked fails only if the inner copy cannot be written. That the outer one cannot,
// on a read-only /etc say, is logged once. Before the cluster has a name nobody can
// have seen a revision.
func (c *ceiling) writeLocked(value int64) error {
	cluster := c.cluster()
	if cluster == "" {
		return nil
	}
	if err := writeCeiling(c.inside, value, cluster, 0o700); err != nil {
		return err
	}
	c.upTo.Store(value)
	if c.outside == "" {
		return nil
	}
	err := writeCeiling(c.outside, value, cluster, 0o755)
	if err == nil {
		c.warned.Cleared(c.outside)
	} else if c.warned.Changed(c.outside, "") {
		c.log.Warn("the second copy of the revision ceiling cannot be written: a restored data directory may hand out revisions twice", "error", err)
	}
	return nil
}

// writeCeiling writes one line: the number, the cluster, and the CRC-32C of both.
func writeCeiling(path string, value int64, cluster string, dirMode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	text := fmt.Sprintf("%d %s", value, cluster)
	return atomicfile.Write(path, fmt.Appendf(nil, "%s %08x\n", text, crc32.Checksum([]byte(text), castagnoli)), 0o600)
}

func readCeiling(path string) (value int64, cluster string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, "", err
	}
	line := strings.TrimSuffix(string(data), "\n")
	text, sum, _ := cutLast(line, " ")
	number, cluster, ok := strings.Cut(text, " ")
	value, err = strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || value < 0 || value > maxRevision || sum != fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli)) {
		return 0, "", fmt.Errorf("%s is damaged", path)
	}
	return value, cluster, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
