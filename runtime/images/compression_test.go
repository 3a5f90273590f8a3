package images

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/testdisk"
	"brink/internal/testerror"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// bzip2d is "an archive\n", as Go has no writer of bzip2.
const bzip2d = "QlpoOTFBWSZTWRunsk0AAAFRgAAQQAAqYREAIAAxADAgGmJpvEylD8XckU4UJAbp7JNA"

func write(t *testing.T, open func(w io.Writer) (io.WriteCloser, error), content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	const text = "an archive\n"
	bz, err := base64.StdEncoding.DecodeString(bzip2d)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{
		"plain": []byte(text),
		"bzip2": bz,
		"gzip":  write(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, []byte(text)),
		"zstd":  write(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, []byte(text)),
		"pzstd": append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00size"), write(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, []byte(text))...),
		"xz":    write(t, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }, []byte(text)),
		"lz4":   write(t, func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil }, []byte(text)),
	} {
		r, err := decompress(bytes.NewReader(file), minWindow)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if name == "plain" {
			continue
		}
		short, err := decompress(bytes.NewReader(file[:len(file)-6]), minWindow)
		if err == nil {
			_, err = io.ReadAll(short)
		}
		if err == nil {
			t.Errorf("%s: a file that was cut short is read without an error", name)
		}
	}
	if _, err := decompress(strings.NewReader("LZIP\x01"), minWindow); err == nil || !strings.Contains(err.Error(), "lzip") {
		t.Errorf("lzip: got %v", err)
	}
}

// TestLargeWindows: what looks back further than this machine has memory for is refused
// with what to do, and read where there is memory.
func TestLargeWindows(t *testing.T) {
	t.Parallel()
	content := make([]byte, 20<<20)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(content[:1<<20])
	for name, c := range map[string]struct {
		file []byte
		hint string
	}{
		"zstd": {write(t, func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithWindowSize(16<<20), zstd.WithSingleSegment(false))
		}, content), "without --long"},
		"xz": {write(t, func(w io.Writer) (io.WriteCloser, error) {
			return xz.WriterConfig{DictCap: 16 << 20}.NewWriter(w)
		}, content), "xz -6"},
	} {
		for window, refused := range map[int64]bool{minWindow: true, 64 << 20: false} {
			r, err := decompress(bytes.NewReader(c.file), window)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if refused != (err != nil) || refused && !strings.Contains(err.Error(), c.hint) {
				t.Errorf("%s with a window of %d: %v", name, window, err)
			}
		}
	}
}

func TestUnpackedSize(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for name, c := range map[string]struct {
		file []byte
		want int64
	}{
		"plain":                    {content, 1 << 20},
		"gzip":                     {write(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, content), 1 << 20},
		"zstd, which says nothing": {write(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, content), 0},
		"empty":                    {nil, 0},
		"gzip of many members":     {append(write(t, openGzipWriter, content), write(t, openGzipWriter, nil)...), 0},
		"gzip, the last is small":  {append(write(t, openGzipWriter, content), write(t, openGzipWriter, []byte("end"))...), 0},
	} {
		want := c.want
		if want == 0 {
			want = unknownRatio * int64(len(c.file))
		}
		got, known := unpackedSize(bytes.NewReader(c.file), int64(len(c.file)))
		if got != want || known != (c.want > 0 || len(c.file) == 0) {
			t.Errorf("%s: %d, want %d (known: %v)", name, got, want, known)
		}
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	file := encoder.EncodeAll(content, nil)
	if got, known := unpackedSize(bytes.NewReader(file), int64(len(file))); got != 1<<20 || !known {
		t.Errorf("zstd with its size: %d, want %d (known: %v)", got, 1<<20, known)
	}
}

func openGzipWriter(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }

// TestNeedSpace: only what is known refuses, and nothing always fits.
func TestNeedSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for need, fits := range map[estimate]bool{{}: true, {guessed: 1 << 60}: true, {known: 1 << 60}: false} {
		if err := needSpace(t.Context(), dir, need); (err == nil) != fits {
			t.Errorf("%+v: %v", need, err)
		}
	}
	full := t.TempDir()
	testdisk.MountAt(t, full, "tmpfs", 0, "size=1m")
	if err := os.WriteFile(filepath.Join(full, "file"), make([]byte, 1<<20-8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := needSpace(t.Context(), full, estimate{}); err != nil {
		t.Errorf("nothing does not fit: %v", err)
	}
	testerror.OneLine(t, needSpace(t.Context(), full, estimate{known: 1 << 10}), "it needs 1 KiB more")
}

func TestAvailableMemory(t *testing.T) {
	t.Parallel()
	if got := availableMemory("MemTotal: 2000 kB\nMemAvailable:     1000 kB\n"); got != 1000<<10 {
		t.Errorf("got %d", got)
	}
	if got := availableMemory("nothing"); got != 0 {
		t.Errorf("got %d", got)
	}
}
