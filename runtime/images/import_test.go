package images

import (
	"strings"
	"testing"
)

func TestOtherCompressions(t *testing.T) {
	t.Parallel()
	for magic, want := range map[string]string{"\xfd7zXZ\x00\x00\x04": "xz", "BZh91AY&SY": "bzip2"} {
		if _, err := decompress(strings.NewReader(magic)); err == nil || !strings.Contains(err.Error(), "compressed by "+want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}
