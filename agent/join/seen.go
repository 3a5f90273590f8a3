package join

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"brink/internal/atomicfile"
)

// seenInterval is how often at most the highest revision is written down: a kilobyte
// an hour, on a flash card that wears out.
const seenInterval = time.Hour

// seen is the highest revision of the cluster's state that this node has seen; each change
// of the state raises that number. Servers get it when a tunnel to them is made. A server
// whose whole disk was restored from an image knows nothing of what came after, and would
// hand out the same revisions again, which the watches of nodes that stayed up would skip.
//
// It is the revision of the watch that every agent has, on the servers' addresses. The
// bookmarks of that watch come about once a minute and carry the cluster's revision,
// whatever has changed. The server adds a margin for what may have changed within that minute.
type seen struct {
	path  string
	saved int64 // what is written down; of the goroutine that saves

	mu      sync.Mutex
	highest int64
	latest  func() string // of the watch
}

// newSeen begins with what was written down. A file that cannot be read counts as 0:
// this is a precaution, and the server has others.
func newSeen(path string) *seen {
	s := &seen{path: path}
	if data, err := os.ReadFile(path); err == nil {
		s.highest, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	s.saved = s.highest
	return s
}

// follow sets the function that returns the latest revision of the watch.
func (s *seen) follow(latest func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = latest
}

// revision returns the highest revision so far.
func (s *seen) revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest != nil {
		s.noteLocked(s.latest())
	}
	return s.highest
}

// note records the revision from which the watch is about to begin again.
func (s *seen) note(revision string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteLocked(revision)
}

func (s *seen) noteLocked(revision string) {
	if now, err := strconv.ParseInt(revision, 10, 64); err == nil {
		s.highest = max(s.highest, now)
	}
}

// saveRegularly writes the revision down now and then, and when ctx ends.
func (s *seen) saveRegularly(ctx context.Context) {
	tick := time.NewTicker(seenInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		s.save()
	}
}

// save ignores errors: the next tick saves again.
func (s *seen) save() {
	highest := s.revision()
	if highest == s.saved || os.MkdirAll(filepath.Dir(s.path), 0o700) != nil {
		return
	}
	if err := atomicfile.Write(s.path, []byte(strconv.FormatInt(highest, 10)+"\n"), 0o600); err == nil {
		s.saved = highest
	}
}

// Revision returns the highest revision of the cluster's state that this node has seen.
func (j *Join) Revision() int64 { return j.seen.revision() }
