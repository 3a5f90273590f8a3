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

// seenInterval is how often the highest revision is written down at most: a kilobyte
// an hour, on a card that wears out.
const seenInterval = time.Hour

// seen is the highest revision of the cluster's state that this node has heard of.
// Servers are told when a tunnel to them is made: one whose whole disk was restored
// from an image knows of nothing that came after it, and would hand out the same
// revisions again, which the watches of nodes that stayed up then pass over.
//
// It is that of the watch that every agent has, on the servers' addresses. Its
// bookmarks come about once a minute and say how far the cluster is, whatever has
// changed; what may be missing of that minute the server adds.
type seen struct {
	path string

	mu      sync.Mutex
	highest int64
	saved   int64
	latest  func() string // of the watch
}

// newSeen begins with what was written down. What cannot be read counts for nothing:
// it is a precaution, and the server has others.
func newSeen(path string) *seen {
	s := &seen{path: path}
	if data, err := os.ReadFile(path); err == nil {
		s.highest, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	s.saved = s.highest
	return s
}

// follow says where the latest revision is asked for.
func (s *seen) follow(latest func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = latest
}

// revision is the highest one.
func (s *seen) revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest != nil {
		s.noteLocked(s.latest())
	}
	return s.highest
}

// note is told where the watch begins again, when it does.
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

// keep writes it down now and then and at the end.
func (s *seen) keep(ctx context.Context) {
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

// save is silent when it fails: the next tick tries again.
func (s *seen) save() {
	highest := s.revision()
	if highest == s.saved || os.MkdirAll(filepath.Dir(s.path), 0o700) != nil {
		return
	}
	if err := atomicfile.Write(s.path, []byte(strconv.FormatInt(highest, 10)+"\n"), 0o600); err == nil {
		s.saved = highest
	}
}

// Revision is the highest revision of the cluster's state that this node has seen.
func (j *Join) Revision() int64 { return j.seen.revision() }
