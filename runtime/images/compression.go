package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// format is a way in which an archive may be compressed, recognized by the first bytes of
// the file: names lie, and tools do not agree on them.
type format struct {
	name  string
	magic string
	open  func(r io.Reader, window int64) (io.ReadCloser, error)
}

// formats are those that docker, podman, skopeo, k3s and k0s write or take. What is not
// here is read as a plain tar.
var formats = []format{
	{"gzip", "\x1f\x8b", openGzip},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"zstd", "\x50\x2a\x4d\x18", openZstd}, // a skippable frame, as pzstd begins a file
	{"xz", "\xfd7zXZ\x00", openXZ},
	{"bzip2", "BZh", openBzip2},
	{"lz4", "\x04\x22\x4d\x18", openLZ4},
}

// maxMagic is how much of a file tells how it is compressed.
const maxMagic = 18

// formatOf returns the format of a file that begins with start, or nil.
func formatOf(start []byte) *format {
	for i := range formats {
		if bytes.HasPrefix(start, []byte(formats[i].magic)) {
			return &formats[i]
		}
	}
	return nil
}

// decompress recognizes by its content how an archive is compressed. It needs no more
// memory than window for what a format looks back at.
func decompress(r io.Reader, window int64) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	start, _ := buffered.Peek(maxMagic) // a shorter file is no archive: reading it fails
	if bytes.HasPrefix(start, []byte("LZIP")) {
		return nil, &archiveError{errors.New("it is compressed by lzip, which is not read here: compress it by zstd, gzip or xz, or not at all")}
	}
	f := formatOf(start)
	if f == nil {
		return io.NopCloser(buffered), nil
	}
	opened, err := f.open(buffered, window)
	if err != nil {
		return nil, &archiveError{fmt.Errorf("%s: %w", f.name, err)}
	}
	return &namedErrors{opened, f.name}, nil
}

// namedErrors says of errors which format they are from, and what to do about a window
// that is too large.
type namedErrors struct {
	io.ReadCloser
	name string
}

func (n *namedErrors) Read(p []byte) (int, error) {
	count, err := n.ReadCloser.Read(p)
	switch {
	case err == nil || err == io.EOF:
	case errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		err = errors.New("it was compressed with a window for which this machine has not enough memory: compress it without --long and --ultra")
	default:
		err = fmt.Errorf("%s: %w", n.name, err)
	}
	return count, err
}

// minWindow is what zstd's levels below 20 and gzip need at most. Archives with more are
// read where there is memory for it.
const minWindow = 8 << 20

// maxWindow returns how much memory a format may look back at: a quarter of what is
// available. The decoder holds it twice.
func maxWindow() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return minWindow
	}
	return max(minWindow, availableMemory(string(text))/4)
}

// availableMemory returns the bytes of the line MemAvailable of /proc/meminfo, or 0.
func availableMemory(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}

func openGzip(r io.Reader, _ int64) (io.ReadCloser, error) { return gzip.NewReader(r) }

func openBzip2(r io.Reader, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(bzip2.NewReader(r)), nil
}

func openLZ4(r io.Reader, _ int64) (io.ReadCloser, error) { return io.NopCloser(lz4.NewReader(r)), nil }

// openZstd decodes on one core and with little memory: pods come first.
func openZstd(r io.Reader, window int64) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// openXZ looks at the dictionary's size first, because the library makes any.
func openXZ(r io.Reader, window int64) (io.ReadCloser, error) {
	buffered, ok := r.(*bufio.Reader)
	if !ok {
		buffered = bufio.NewReader(r)
	}
	start, err := buffered.Peek(xzStart)
	if err == nil && xzDictionary(start) > window {
		return nil, fmt.Errorf("it was compressed with a dictionary of %s, for which this machine has not enough memory: compress it by xz -6", inBytes(xzDictionary(start)))
	}
	d, err := xz.NewReader(buffered)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(d), nil
}

// xzStart is how much of an xz file has the header of its stream and that of its first
// block.
const xzStart = 12 + 1024

// xzDictionary returns the size of the dictionary of an xz file that begins with start,
// 0 where it is not known. It reads the properties of the filter LZMA2, which is always
// the last of a block (The .xz File Format, 5.3.1).
func xzDictionary(start []byte) int64 {
	const streamHeader, checksum = 12, 4
	if len(start) <= streamHeader {
		return 0
	}
	size := (int(start[streamHeader]) + 1) * 4
	if len(start) < streamHeader+size || size < checksum {
		return 0
	}
	header := bytes.TrimRight(start[streamHeader:streamHeader+size-checksum], "\x00")
	at := bytes.LastIndex(header, []byte{0x21, 1})
	if at < 0 || at+3 > len(start)-streamHeader {
		return 0
	}
	bits := start[streamHeader+at+2] & 0x3f
	if bits == 40 {
		return 1<<32 - 1
	}
	return int64(2|bits&1) << (bits/2 + 11)
}
