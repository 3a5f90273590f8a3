package payload

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"brink/internal/atomicfile"

	"github.com/klauspost/compress/zstd"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// extract writes the wanted files of the embedded archive below dir and syncs
// them and their directories.
func extract(dir string, wanted []file) error {
	// One thread: the archive is one stream with a window of 16 MB, and more
	// threads would each hold blocks of it.
	z, err := zstd.NewReader(bytes.NewReader(archive), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	left := make(map[string]file, len(wanted))
	for _, f := range wanted {
		left[f.Path] = f
	}
	t := tar.NewReader(z)
	for len(left) > 0 {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("embedded archive and manifest disagree: run scripts/build-payload and build again")
		}
		if err != nil {
			return fmt.Errorf("reading the embedded archive: %w", err)
		}
		f, ok := left[h.Name]
		if !ok {
			continue
		}
		if err := writeFile(dir, f, t); err != nil {
			return err
		}
		delete(left, h.Name)
	}
	return syncDirs(dir, wanted)
}

func writeFile(dir string, f file, r io.Reader) (err error) {
	path := filepath.Join(dir, f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(io.MultiWriter(out, sum), r); err != nil {
		return err
	}
	if sum.Sum32() != f.CRC32C {
		return fmt.Errorf("this copy of brink is damaged: its %s has a wrong checksum: download it again", f.Path)
	}
	// The umask has changed the mode that was given to open.
	if err := out.Chmod(f.Mode); err != nil {
		return err
	}
	return out.Sync()
}

// syncDirs makes the entries of dir and of its subdirectories durable.
func syncDirs(dir string, files []file) error {
	done := map[string]bool{}
	for _, f := range files {
		parent := filepath.Dir(filepath.Join(dir, f.Path))
		if done[parent] {
			continue
		}
		done[parent] = true
		if err := atomicfile.SyncDir(parent); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(dir)
}

// damaged returns the files that are not in dir exactly as listed.
func damaged(dir string, files []file) []file {
	// The files are read at the same time: a card reader is faster with several requests,
	// and the sum of one file does not wait for another to be read.
	intact := make(chan int, len(files))
	for i, f := range files {
		go func() {
			if !isIntact(filepath.Join(dir, f.Path), f) {
				i = -1
			}
			intact <- i
		}()
	}
	ok := map[int]bool{}
	for range files {
		ok[<-intact] = true
	}
	var bad []file
	for i, f := range files {
		if !ok[i] {
			bad = append(bad, f)
		}
	}
	return bad
}

func isIntact(path string, f file) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != f.Mode || info.Size() != f.Size {
		return false
	}
	in, err := os.Open(path)
	if err != nil {
		return false
	}
	defer in.Close()
	sum := crc32.New(castagnoli)
	return sumOf(sum, in) && sum.Sum32() == f.CRC32C
}

func sumOf(sum hash.Hash32, in io.Reader) bool {
	_, err := io.CopyBuffer(sum, struct{ io.Reader }{in}, make([]byte, 64<<10))
	return err == nil
}
