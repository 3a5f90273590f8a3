package e2e

import (
	"path/filepath"
	"testing"

	"brink/e2e/machine"
	"brink/internal/release"
)

// thisVersion is that of the binary that is tested.
func thisVersion(t *testing.T) release.Version {
	t.Helper()
	v, err := machine.VersionOf(brinkBinary)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// asVersion makes a binary of another version.
func asVersion(t *testing.T, dir string, other release.Version) string {
	t.Helper()
	path := filepath.Join(dir, "brink-other")
	if err := machine.AsVersion(brinkBinary, path, other); err != nil {
		t.Fatal(err)
	}
	return path
}
