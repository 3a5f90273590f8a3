package e2e

import (
	"os"
	"runtime"
	"testing"

	"brink/scripts/size/gauge"
)

// TestDownloadSize compares the binary with the gauge that docs/size.md has recorded.
func TestDownloadSize(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Logf("the gauge is that of amd64")
		return
	}
	page, err := os.ReadFile("../docs/size.md")
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := gauge.Recorded(page)
	if err != nil {
		t.Fatalf("docs/size.md: %v", err)
	}
	got, err := gauge.Of(brinkBinary)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the gauge is %d, recorded are %d", got, recorded)
	if err := gauge.Compare(got, recorded); err != nil {
		t.Error(err)
	}
}
