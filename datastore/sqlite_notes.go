package datastore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// notes are what was found at the start and needs somebody's attention, a line each.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, line)
}

func (n *notes) err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, line := range n.lines {
		errs = append(errs, errors.New(line))
	}
	return errors.Join(errs...)
}

// maxNamed is how many objects one line names.
const maxNamed = 10

// missingObjects is nil, or names the objects that were moved aside and that nobody
// has made again. It asks the database as long as there are any.
func (s *Store) missingObjects() error {
	s.aside.Lock()
	defer s.aside.Unlock()
	if log := s.revisions.Load(); log != nil && len(s.aside.keys) > 0 {
		log.db.Lock()
		keys, err := missingKeys(context.Background(), log.db.DB)
		log.db.Unlock()
		if err == nil {
			s.aside.keys = keys
		}
	}
	n := len(s.aside.keys)
	if n == 0 {
		return nil
	}
	names := strings.Join(s.aside.keys[:min(n, maxNamed)], ", ")
	if n > maxNamed {
		names += fmt.Sprintf(" and %d more", n-maxNamed)
	}
	return fmt.Errorf("damaged in the database and moved aside, make again: %s", names)
}

// settleBefore notes before each compaction what was made again: of an object that was
// deleted afterwards nothing is left then.
func (s *Store) settleBefore(store *sqliteStore) {
	store.beforeCompact = func() { _ = s.missingObjects() }
}

// aside is which objects are not there any more.
type aside struct {
	sync.Mutex
	keys []string
}
