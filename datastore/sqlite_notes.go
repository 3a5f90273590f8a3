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

// settleBefore has each compaction first record which objects were made again. If such an
// object was deleted since, the compaction removes all that shows it.
func (s *Store) settleBefore(store *sqliteStore) {
	store.beforeCompact = func() { _ = s.missingObjects() }
}

// aside has the keys of objects that were moved aside and not made again.
type aside struct {
	sync.Mutex
	keys []string
}
