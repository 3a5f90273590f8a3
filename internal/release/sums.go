package release

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
)

// Sums are the SHA-256 sums of a release's files, by their names.
type Sums map[string][sha256.Size]byte

var sumsLine = regexp.MustCompile(`^([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._+~-]*)$`)

// ParseSums reads SHA256SUMS as sha256sum writes it. All of it must be in that form and no
// name may stand in it twice, so that nobody else reads another sum from it.
func ParseSums(data []byte) (Sums, error) {
	sums := Sums{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		m := sumsLine.FindStringSubmatch(lines.Text())
		if m == nil {
			return nil, fmt.Errorf("%s: line %d is not a sum and a file's name", SumsFile, n)
		}
		if _, twice := sums[m[2]]; twice {
			return nil, fmt.Errorf("%s: %s stands there twice", SumsFile, m[2])
		}
		var sum [sha256.Size]byte
		hex.Decode(sum[:], []byte(m[1])) // the form has hexadecimal digits, and so many
		sums[m[2]] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", SumsFile, err)
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("%s is empty", SumsFile)
	}
	return sums, nil
}

// Check returns an error if a file of that name has another sum, or none that is known.
func (s Sums) Check(name string, got [sha256.Size]byte) error {
	want, ok := s[name]
	if !ok {
		return fmt.Errorf("%s has no sum of %s", SumsFile, name)
	}
	if got != want {
		return fmt.Errorf("%s is damaged or was changed: its SHA-256 sum is %x, and %s says %x", name, got, SumsFile, want)
	}
	return nil
}

// CheckVersion returns an error if the sums are those of another version.
func (s Sums) CheckVersion(v Version) error {
	if s.Check(VersionFile, sha256.Sum256([]byte(v.String()+"\n"))) != nil {
		return fmt.Errorf("%s is not that of version %s", SumsFile, v)
	}
	return nil
}
