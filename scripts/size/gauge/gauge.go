// Package gauge is a quick measure of how large the download of a binary will be, and
// keeps what docs/size.md says of it.
//
// A release is packed by zstd at level 19, which takes minutes. The gauge packs by a quick
// level, which takes two seconds, with the version of the library that go.mod says: the
// same binary has the same gauge everywhere. What it gives is a fifth more than the
// download, and grows with it.
package gauge

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// Of returns the gauge of a file in bytes.
func Of(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return OfReader(f)
}

// OfReader returns the gauge of what r has.
func OfReader(r io.Reader) (int64, error) {
	var n counter
	z, err := zstd.NewWriter(&n, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(z, r); err != nil {
		return 0, err
	}
	return int64(n), z.Close()
}

// counter counts what is written.
type counter int64

// Write never fails.
func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// row is a line of the table in docs/size.md: a gauge, and why it is not that of the line
// before.
var row = regexp.MustCompile(`(?m)^\| ([0-9]{8,9}) \| (\S.*) \|$`)

// Recorded returns the last gauge that a page has in its table.
func Recorded(page []byte) (int64, error) {
	rows := row.FindAllSubmatch(page, -1)
	if rows == nil {
		return 0, fmt.Errorf("there is no row like | 41000000 | what has changed |")
	}
	return strconv.ParseInt(string(rows[len(rows)-1][1]), 10, 64)
}

// Compare returns an error if a gauge is more than 1 % above the recorded one, or so far
// below that it could grow by more than that unseen.
func Compare(got, recorded int64) error {
	switch {
	case got > recorded+recorded/100:
		return fmt.Errorf("the download grows by %.1f %%: if it must, add the row | %d | why | to the table in docs/size.md", percent(got, recorded), got)
	case got < recorded-recorded/50:
		return fmt.Errorf("the download shrinks by %.1f %%, so keep it: add the row | %d | why | to the table in docs/size.md", -percent(got, recorded), got)
	}
	return nil
}

func percent(got, recorded int64) float64 { return 100 * float64(got-recorded) / float64(recorded) }
