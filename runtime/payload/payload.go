// Package payload carries the programs that a node executes but cannot link:
// runc, which starts containers; the containerd shim, which watches over them; the CNI
// plugins, which attach pods to the network; nft, which writes rules, for machines without
// one; and the pause image, whose process keeps a pod's namespaces in being. They are built by scripts/build-payload into
// payload_$GOARCH.tar.zst beside this file; a compiler error "no matching files found"
// means that it has not run yet.
//
// Unpack puts them on disk once per version, in a directory named by the hash
// of the archive. Decisions:
//
//   - Every start reads every file and compares a CRC-32C. A worn flash card flips bits
//     without changing size or time, and a damaged runc fails in ways that nobody
//     understands. Comparing sizes alone would be cheaper, but 28 MB take 10 ms on a PC
//     and some 50 ms on a Raspberry Pi, whose processor has an instruction for this sum
//     and none for SHA-256. The first pod needs these files in memory anyway. The sum
//     protects against accidents: only root can write here.
//   - A damaged file is replaced by a rename within the directory, so that running shims
//     always find a runc.
//   - A version stays while a process runs from it, because a shim calls the runc that it
//     was started with, and while containerd has a pod that was started with it: its shim
//     must remove what a crash leaves of the pod.
//   - There is one archive for each architecture, chosen by a build constraint: the wrong
//     one cannot be embedded.
package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"brink/internal/atomicfile"
	"brink/internal/removetree"
)

// Programs is one unpacked version of the payload.
type Programs struct {
	path  string // the version's directory
	image string // the name of the pause image
}

// Bin holds runc, containerd-shim-runc-v2 and the CNI plugins.
func (p Programs) Bin() string { return filepath.Join(p.path, "bin") }

// NFT holds brink's own nft and no other program, so that PATH can have it with or without
// the host's before it.
func (p Programs) NFT() string { return filepath.Join(p.path, nftDir) }

// nftDir is nft's directory in the payload. It also has its libraries and licences.
const nftDir = "nft"

// PauseArchive is the pause image as an OCI archive.
func (p Programs) PauseArchive() string { return filepath.Join(p.path, "pause.tar") }

// PauseImage is the name under which PauseArchive is imported.
func (p Programs) PauseImage() string { return p.image }

type manifest struct {
	SHA256     string `json:"sha256"`
	PauseImage string `json:"pauseImage"`
	NFT        string `json:"nft"` // its version
	Files      []file `json:"files"`
}

type file struct {
	Path   string      `json:"path"`
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	CRC32C uint32      `json:"crc32c"`
}

// Unpack makes sure that this binary's payload is complete and undamaged in root/<hash>,
// and returns it. It creates root, and removes other versions that nothing needs. states
// are the state directories of the containerds whose pods run from root. Only one process
// may use root at a time. After a crash or an error there is no root/<hash>, or one that
// the next call repairs.
func Unpack(root string, states ...string) (Programs, error) {
	m, err := readManifest()
	if err != nil {
		return Programs{}, err
	}
	p := Programs{path: filepath.Join(root, m.SHA256), image: m.PauseImage}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return Programs{}, fmt.Errorf("unpacking the embedded programs: %w", err)
	}
	removeLeftovers(root)
	if err := install(p.path, m.Files); err != nil {
		return Programs{}, explain(root, m.Files, err)
	}
	prune(root, m.SHA256, states)
	return p, nil
}

func readManifest() (manifest, error) {
	var m manifest
	if err := json.Unmarshal(manifestJSON, &m); err != nil {
		return m, fmt.Errorf("reading the embedded payload's manifest: %w", err)
	}
	return m, nil
}

// NFTVersion returns the version of brink's own nft, empty when this build has none.
func NFTVersion() string {
	m, _ := readManifest()
	return m.NFT
}

// install unpacks what is missing or damaged in dir.
func install(dir string, files []file) error {
	bad := damaged(dir, files)
	if len(bad) == 0 {
		return keepManifest(dir)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), tempPrefix)
	if err != nil {
		return err
	}
	defer func() { _ = removetree.All(tmp) }() // the next start tries again
	if err := errors.Join(keepManifest(tmp), extract(tmp, bad)); err != nil {
		return err
	}
	if _, err := os.Stat(dir); err != nil {
		return publish(tmp, dir)
	}
	slog.Warn("embedded programs on disk were damaged, unpacking them again", "component", "payload", "dir", dir, "files", names(bad))
	return errors.Join(keepManifest(dir), repair(tmp, dir, bad))
}

// publish renames a complete new version to its own name. Its temporary directory has the
// mode 0700.
func publish(tmp, dir string) error {
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// repair moves each of files from tmp over its damaged counterpart in dir.
func repair(tmp, dir string, files []file) error {
	for _, f := range files {
		target := filepath.Join(dir, f.Path)
		if err := makeWay(dir, f.Path); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(tmp, f.Path), target); err != nil {
			return err
		}
		if err := atomicfile.SyncDir(filepath.Dir(target)); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(dir)
}

// makeWay removes what a rename cannot replace: a directory at path in dir, and anything
// but a directory in the place of one above it.
func makeWay(dir, path string) error {
	if parent := filepath.Dir(path); parent != "." {
		if err := makeDir(dir, parent); err != nil {
			return err
		}
	}
	target := filepath.Join(dir, path)
	if info, err := os.Lstat(target); err == nil && info.IsDir() {
		return removetree.All(target)
	}
	return nil
}

// makeDir makes the directory path in dir.
func makeDir(dir, path string) error {
	if parent := filepath.Dir(path); parent != "." {
		if err := makeDir(dir, parent); err != nil {
			return err
		}
	}
	target := filepath.Join(dir, path)
	if info, err := os.Lstat(target); err == nil && !info.IsDir() {
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	return os.MkdirAll(target, 0o755)
}

// explain adds to an error what to do about it.
func explain(root string, files []file, err error) error {
	err = fmt.Errorf("unpacking the embedded programs to %s: %w", root, shorten(err))
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		var size int64
		for _, f := range files {
			size += f.Size
		}
		return fmt.Errorf("%w: %d MiB are needed there, free some space or choose another --data-dir", err, size>>20+1)
	}
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: mount it writable or choose another --data-dir", err)
	}
	return err
}

// shorten drops the path of a temporary file from err: the file no longer exists when the
// message is read.
func shorten(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func names(files []file) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = f.Path
	}
	return out
}
