package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/layout"
	"brink/internal/testerror"
)

func TestWithNodeID(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	name, id, err := withNodeID("raspberrypi", l)
	if err != nil || name != "raspberrypi-"+id || !nodeID.MatchString(id) {
		t.Fatalf("%q %q %v", name, id, err)
	}
	if _, err := os.Stat(l.NodeID()); err == nil {
		t.Error("reading flags has written the file")
	}
	if _, other, _ := withNodeID("raspberrypi", l); other == id {
		t.Error("two machines have one id")
	}
	if err := os.MkdirAll(filepath.Dir(l.NodeID()), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"0123abcd\n": "pi-0123abcd", "0123ABCD": "", "": "", "0123abcd-0123": "", strings.Repeat("a", 9): ""} {
		if err := os.WriteFile(l.NodeID(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		name, _, err := withNodeID("pi", l)
		if name != want || (err == nil) != (want != "") {
			t.Errorf("with %q the name is %q (%v), want %q", text, name, err, want)
		}
		if err != nil {
			testerror.OneLine(t, err, "--with-node-id", l.NodeID())
		}
	}
}
