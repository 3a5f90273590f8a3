package payload

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/datadir"
	"brink/internal/removetree"
)

// Remove removes everything that Unpack has put into root, for a node on which nothing runs
// any more. Anything else there stays.
func Remove(root string) error {
	removeLeftovers(root)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if isVersion(e) {
			errs = append(errs, removeVersion(filepath.Join(root, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeVersion removes the files that a version's manifest lists, and the
// directories in which nothing else is.
func removeVersion(dir string) error {
	verdicts := map[string]removetree.Verdict{}
	for _, path := range datadir.Programs(dir) {
		verdicts[path] = removetree.Remove
		for parent := filepath.Dir(path); parent != "."; parent = filepath.Dir(parent) {
			verdicts[parent] = removetree.Enter
		}
	}
	if len(verdicts) == 0 {
		return nil
	}
	kept, err := removetree.Contents(dir, func(path string) removetree.Verdict { return verdicts[path] })
	if err != nil || len(kept) > 0 {
		return err
	}
	return removetree.All(dir)
}

// isVersion reports whether a directory has a name that Unpack gives. Its content is judged
// by datadir.Programs.
func isVersion(e os.DirEntry) bool {
	sum, err := hex.DecodeString(e.Name())
	return err == nil && len(sum) == 32 && e.IsDir()
}

// isUnfinished reports whether a directory was being filled, by its name of os.MkdirTemp.
func isUnfinished(e os.DirEntry) bool {
	digits, ok := strings.CutPrefix(e.Name(), tempPrefix)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == "" && e.IsDir()
}

// keepManifest marks a version as brink's.
func keepManifest(dir string) error {
	return atomicfile.Keep(filepath.Join(dir, datadir.ProgramsManifest), manifestJSON, 0o644)
}
