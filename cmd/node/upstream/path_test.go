package upstream

import (
	"os"
	"os/exec"
	"testing"
)

// TestCompletePath: Debian's su leaves root with a user's path.
func TestCompletePath(t *testing.T) {
	t.Setenv("PATH", "/opt/mine:/usr/bin:/bin")
	for range 2 {
		CompletePath()
		if got, want := os.Getenv("PATH"), "/opt/mine:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	t.Setenv("PATH", "")
	CompletePath()
	if _, err := exec.LookPath("ls"); err != nil {
		t.Error(err)
	}
}
