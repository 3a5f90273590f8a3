package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"brink/internal/release"
)

// builtVersion is the version of the binary that is tested.
var builtVersion = sync.OnceValues(func() (release.Version, error) {
	out, err := exec.Command(brinkBinary, "version", "-o", "json").Output()
	if err != nil {
		return release.Version{}, err
	}
	var built struct{ Brink string }
	if err := json.Unmarshal(out, &built); err != nil {
		return release.Version{}, err
	}
	return release.ParseVersion(built.Brink)
})

// thisVersion is builtVersion for a test.
func thisVersion(t *testing.T) release.Version {
	t.Helper()
	v, err := builtVersion()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// asVersion makes a binary that says that it is of another version, as another build would: it
// is told to the API and the kubelet too. Both versions have the same length as text.
func asVersion(t *testing.T, dir string, other release.Version) string {
	t.Helper()
	from, to := []byte(thisVersion(t).String()), []byte(other.String())
	if len(from) != len(to) {
		t.Fatalf("%s and %s differ in length", from, to)
	}
	binary, err := os.ReadFile(brinkBinary)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(binary, from) {
		t.Fatalf("%s does not stand in the binary", from)
	}
	path := filepath.Join(dir, "brink-"+strings.ReplaceAll(other.String(), "+", "-"))
	if err := os.WriteFile(path, bytes.ReplaceAll(binary, from, to), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// nextVersion is a binary of the release after the one that is tested.
func nextVersion(t *testing.T, dir string) (path string, _ release.Version) {
	t.Helper()
	v := thisVersion(t)
	v.Number++
	return asVersion(t, dir, v), v
}
