package cmd

import (
	"strings"
	"testing"

	"brink/runtime/images"
)

func TestPrintImages(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := printImages(&out, []images.Stored{
		{Name: "test.local/one:1", Digest: "sha256:01", Size: 1 << 20},
		{Name: "brink/pause:1", Digest: "sha256:02", Size: 1 << 19, Pinned: true},
	})
	want := "NAME              SIZE     PINNED  DIGEST\n" +
		"test.local/one:1  1.0 MiB  no      sha256:01\n" +
		"brink/pause:1     0.5 MiB  yes     sha256:02\n"
	if err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out.String(), want)
	}
}
