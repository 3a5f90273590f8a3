// Command pack turns the built binaries into the payload that brink embeds: one
// zstd-compressed tar with the programs and the pause image, and beside it a
// manifest with the size and checksum of every file, so that a start can check
// what is on disk without decompressing anything. The same input gives the same
// bytes: entries are sorted and carry no times or owners.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// file is one entry of the payload. The JSON names are read by package payload.
type file struct {
	Path    string `json:"path"`
	Size    int    `json:"size"`
	Mode    int64  `json:"mode"`
	CRC32C  uint32 `json:"crc32c"`
	content []byte
}

type manifest struct {
	SHA256     string `json:"sha256"`
	PauseImage string `json:"pauseImage"`
	Files      []file `json:"files"`
}

func main() {
	arch := flag.String("arch", "", "GOARCH of the binaries")
	bin := flag.String("bin", "", "directory of the binaries")
	pause := flag.String("pause", "", "the pause program")
	out := flag.String("out", "", "path of the payload without .tar.zst and .json")
	flag.Parse()
	if err := pack(*arch, *bin, *pause, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(arch, bin, pause, out string) error {
	files, err := programs(bin)
	if err != nil {
		return err
	}
	image, err := pauseArchive(pause, arch)
	if err != nil {
		return fmt.Errorf("building the pause image: %w", err)
	}
	files = append(files, newFile("pause.tar", 0o644, image))
	sort.Slice(files, func(i, j int) bool { return files[i].Path < files[j].Path })
	archive, err := compress(files)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(archive)
	text, err := json.MarshalIndent(manifest{hex.EncodeToString(sum[:]), pauseName, files}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".tar.zst", archive, 0o644)
}

func programs(dir string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, newFile("bin/"+e.Name(), 0o755, content))
	}
	return files, nil
}

func newFile(path string, mode int64, content []byte) file {
	sum := crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))
	return file{Path: path, Size: len(content), Mode: mode, CRC32C: sum, content: content}
}

func compress(files []file) ([]byte, error) {
	var out bytes.Buffer
	// One encoder thread: with more, the cut into blocks depends on timing. The
	// window spans the whole payload because the Go programs repeat each other.
	z, err := zstd.NewWriter(&out,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(windowSize))
	if err != nil {
		return nil, err
	}
	if err := writeTar(z, files); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// windowSize is also the memory that unpacking needs, once in a version's life.
const windowSize = 16 << 20

func writeTar(w io.Writer, files []file) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Name: f.Path, Mode: f.Mode, Size: int64(f.Size), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(f.content); err != nil {
			return err
		}
	}
	return t.Close()
}
