package datastore

import (
	"path"
	"testing"

	"brink/internal/layout"
)

// TestFilesAreNamed: uninstall removes the files that the layout names, and no others.
func TestFilesAreNamed(t *testing.T) {
	t.Parallel()
	const when = "20301231T235959.999Z"
	names := []string{
		newFile, ceilingFile, volatileFile, revisionFile, holderFile, remoteInUseFile, ".probe-123",
		databaseFile + ".damaged-" + when, databaseFile + "-wal.damaged-" + when, "." + ceilingFile + ".123",
	}
	for _, sidecar := range sidecars {
		names = append(names, databaseFile+sidecar, databaseFile+".damaged-"+when+sidecar)
		if sidecar != inUseSuffix { // a database that is being made is not in use
			names = append(names, newFile+sidecar)
		}
	}
	for _, name := range names {
		if layout.DataName(path.Join("server/db", name)) != layout.File {
			t.Errorf("%s is in no table of names: uninstall would leave it", name)
		}
	}
}
