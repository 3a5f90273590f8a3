package containerd_test

import (
	"strings"
	"testing"
	"time"

	"brink/runtime/containerd"
	"brink/runtime/testnode"
)

// TestWaitPinnedSaysWhatIsMissing asks a real CRI for images that will never be
// as they should.
func TestWaitPinnedSaysWhatIsMissing(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
	n.ImportImage("test.local/unpinned:1", testnode.Busybox(t))
	for ref, want := range map[string]string{
		"test.local/none:1":     "it is imported, but the CRI does not list it",
		"test.local/unpinned:1": "not as protected from garbage collection",
	} {
		err := containerd.WaitPinned(n.Context(), n.Images(), ref, 10*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", ref, err, want)
		}
	}
	if err := containerd.WaitPinned(n.Context(), n.Images(), n.Config.PauseImage, testnode.Patience); err != nil {
		t.Error(err)
	}
}
