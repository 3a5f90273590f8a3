package payload

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/removetree"
)

// manifestName is the file in a version's directory by which it is known to be
// ours: a name of 64 hexadecimal digits has every content-addressed store.
const manifestName = "manifest.json"

// unlisted are the files of versions from before there was a manifest.
var unlisted = []string{"pause.tar", "bin/runc", "bin/containerd-shim-runc-v2", "bin/bridge", "bin/host-local", "bin/portmap", "bin/loopback", "bin/nft"}

// Remove removes what Unpack has ever put into root, for a node on which nothing
// runs any more. What else lies there stays.
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
	for _, path := range filesOf(dir) {
		verdicts[path] = removetree.Remove
		for parent := filepath.Dir(path); parent != "."; parent = filepath.Dir(parent) {
			verdicts[parent] = removetree.Enter
		}
	}
	if len(verdicts) == 0 {
		return nil
	}
	kept, err := removetree.Sift(dir, func(path string) removetree.Verdict { return verdicts[path] })
	if err != nil || len(kept) > 0 {
		return err
	}
	return removetree.All(dir)
}

// filesOf lists what a directory has of a version, none when it is not one of ours.
func filesOf(dir string) []string {
	path := filepath.Join(dir, manifestName)
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) && isRegular(filepath.Join(dir, "pause.tar")) && isRegular(filepath.Join(dir, "bin", "containerd-shim-runc-v2")) {
		return unlisted
	}
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	text, err := os.ReadFile(path)
	var m manifest
	if err != nil || json.Unmarshal(text, &m) != nil || m.SHA256 != filepath.Base(dir) {
		return nil
	}
	files := []string{manifestName}
	for _, f := range m.Files {
		if filepath.IsLocal(f.Path) {
			files = append(files, filepath.Clean(f.Path))
		}
	}
	return files
}

func isRegular(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// isVersion tells the directories that Unpack makes from whatever else someone
// may have put beside them. Their contents are another question: see filesOf.
func isVersion(e os.DirEntry) bool {
	sum, err := hex.DecodeString(e.Name())
	return err == nil && len(sum) == 32 && e.IsDir()
}

// isUnfinished tells a directory that was being filled, by a name of os.MkdirTemp.
func isUnfinished(e os.DirEntry) bool {
	digits, ok := strings.CutPrefix(e.Name(), tempPrefix)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == "" && e.IsDir()
}

// keepManifest makes a version known as ours.
func keepManifest(dir string) error {
	return atomicfile.Keep(filepath.Join(dir, manifestName), manifestJSON, 0o644)
}
