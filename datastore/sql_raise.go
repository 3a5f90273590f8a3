package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// remoteInUseFile is inUseFile for a database elsewhere. It has a name of its own, because
// a user who changes from SQLite to another database may come back to the file.
const remoteInUseFile = layout.RemoteInUse

func (s *Store) remoteInUse() bool {
	_, err := os.Lstat(s.path(remoteInUseFile))
	return err == nil
}

// beginRemote is beginRevisions for a database elsewhere, whose owner may put back an
// older copy of it as well.
func (s *Store) beginRemote(ctx context.Context, log *checkedLog) error {
	log.ceiling = s.ceiling
	if err := s.beginRevisions(ctx, log); err != nil {
		return err
	}
	if err := atomicfile.Write(s.path(remoteInUseFile), nil, 0o600); err != nil {
		return unusable(s.cfg.Dir, err)
	}
	return nil
}

func (s *Store) markRemoteClosed() error {
	if err := os.Remove(s.path(remoteInUseFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("closing the datastore: %w", err)
	}
	return atomicfile.SyncDir(s.cfg.Dir)
}
