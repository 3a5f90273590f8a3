package release

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// window is the most that a file of a release asks of memory when zstd unpacks it, so
	// that it fits a board of 512 MB. scripts/release compresses by it.
	window = 8 << 20
	// largest is more than a binary has, and less than would fill a card.
	largest = 512 << 20
)

// Unpack writes to dst what src holds: zstd, gzip, or an ELF binary as it is. It tells them
// by how they begin. It returns the SHA-256 sum of what it wrote, which is for the caller to
// check before anything uses dst.
func Unpack(dst io.Writer, src io.Reader) (sum [sha256.Size]byte, err error) {
	in := bufio.NewReaderSize(src, 1<<16)
	head, err := in.Peek(4)
	if err != nil {
		return sum, fmt.Errorf("the file is empty or cut short: %w", err)
	}
	var plain io.Reader = in
	switch {
	case bytes.Equal(head, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
		if err != nil {
			return sum, err
		}
		defer z.Close()
		plain = z
	case bytes.Equal(head[:2], []byte("\x1f\x8b")):
		if plain, err = gzip.NewReader(in); err != nil {
			return sum, fmt.Errorf("unpacking: %w", err)
		}
	case bytes.Equal(head, []byte("\xfd7zX")):
		return sum, errors.New("the file is xz, which brink does not unpack: take the .zst or .gz beside it, or run unxz first")
	case !bytes.Equal(head, []byte("\x7fELF")):
		return sum, errors.New("the file is neither a brink nor one that is packed by zstd or gzip")
	}
	return copySum(dst, plain)
}

func copySum(dst io.Writer, plain io.Reader) (sum [sha256.Size]byte, err error) {
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, hash), io.LimitReader(plain, largest+1))
	if err != nil {
		return sum, fmt.Errorf("unpacking: %w", err)
	}
	if n > largest {
		return sum, fmt.Errorf("unpacking: it is larger than %d MB, which no brink is", largest>>20)
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}
