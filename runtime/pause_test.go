package runtime

import (
	"strings"
	"testing"
	"time"
)

// TestWaitPinnedSaysWhatIsMissing asks a real CRI for images that will never be
// as they should.
func TestWaitPinnedSaysWhatIsMissing(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	n.importImage("test.local/unpinned:1", busybox(t))
	for ref, want := range map[string]string{
		"test.local/none:1":     "it is imported, but the CRI does not list it",
		"test.local/unpinned:1": "not as protected from garbage collection",
	} {
		err := waitPinned(n.context(), n.images(), ref, 10*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", ref, err, want)
		}
	}
	if err := waitPinned(n.context(), n.images(), n.cfg.PauseImage, patience); err != nil {
		t.Error(err)
	}
}
