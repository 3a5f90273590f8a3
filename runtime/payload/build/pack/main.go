// Command pack turns the built binaries into the payload that brink embeds: one
// zstd-compressed tar with the programs, nft with its libraries and the pause image, and beside it a
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
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

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
	NFT        string `json:"nft"` // its version
	Files      []file `json:"files"`
}

// input is what goes into a payload.
type input struct {
	arch, bin, nft, nftVersion, pause string
}

func main() {
	var in input
	flag.StringVar(&in.arch, "arch", "", "GOARCH of the binaries")
	flag.StringVar(&in.bin, "bin", "", "directory of the binaries")
	flag.StringVar(&in.nft, "nft", "", "directory of nft, with subdirectories")
	flag.StringVar(&in.nftVersion, "nft-version", "", "version of nft")
	flag.StringVar(&in.pause, "pause", "", "the pause program")
	out := flag.String("out", "", "path of the payload without .tar.zst and .json")
	flag.Parse()
	if err := pack(in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(in input, out string) error {
	bin, err := tree(in.bin, "bin")
	if err != nil {
		return err
	}
	nft, err := tree(in.nft, "nft")
	if err != nil {
		return err
	}
	files := append(bin, nft...)
	image, err := pauseArchive(in.pause, in.arch)
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
	text, err := json.MarshalIndent(manifest{hex.EncodeToString(sum[:]), pauseName, in.nftVersion, files}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".tar.zst", archive, 0o644)
}

// tree returns the files below dir by paths below name. A file is a program or it is not;
// the umask decides nothing.
func tree(dir, name string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		files = append(files, newFile(name+strings.TrimPrefix(path, dir), mode, content))
		return nil
	})
	return files, err
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
