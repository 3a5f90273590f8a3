package datadir

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"brink/internal/atomicfile"
)

// ProgramsManifest is the file that shows that a directory of programs is brink's. Its name
// proves nothing: every content-addressed store has names of 64 hexadecimal digits.
const ProgramsManifest = "manifest.json"

// unlisted are the files of older versions, which had no manifest.
var unlisted = []string{"pause.tar", "bin/runc", "bin/containerd-shim-runc-v2", "bin/bridge", "bin/host-local", "bin/portmap", "bin/loopback", "bin/nft"}

// Programs returns the files of a version of the embedded programs, by paths relative to
// its directory, or none if the directory is not brink's.
func Programs(dir string) []string {
	if sum, err := hex.DecodeString(filepath.Base(dir)); err != nil || len(sum) != 32 || !isRealDir(dir) {
		return nil
	}
	text, err := atomicfile.Read(filepath.Join(dir, ProgramsManifest))
	if errors.Is(err, fs.ErrNotExist) && isRegular(filepath.Join(dir, "pause.tar")) && isRegular(filepath.Join(dir, "bin", "containerd-shim-runc-v2")) {
		return unlisted
	}
	var m struct {
		SHA256 string
		Files  []struct{ Path string }
	}
	if err != nil || json.Unmarshal(text, &m) != nil || m.SHA256 != filepath.Base(dir) {
		return nil
	}
	files := []string{ProgramsManifest}
	for _, f := range m.Files {
		if filepath.IsLocal(f.Path) {
			files = append(files, filepath.Clean(f.Path))
		}
	}
	return files
}

func isRealDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func isRegular(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}
