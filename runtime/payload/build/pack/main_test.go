package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// inputs writes programs and a pause program in the given order and at the
// given time, and returns both places.
func inputs(t *testing.T, names []string, at time.Time) (bin, pause string) {
	t.Helper()
	bin, pause = filepath.Join(t.TempDir(), "bin"), filepath.Join(t.TempDir(), "pause")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		// Large enough for several blocks of the compressor.
		content := bytes.Repeat([]byte(name+" is a program\n"), 1<<16)
		path := filepath.Join(bin, name)
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(pause, []byte("pause"), 0o700); err != nil {
		t.Fatal(err)
	}
	return bin, pause
}

// packed returns archive and manifest.
func packed(t *testing.T, arch string, names []string, at time.Time) (archive, manifest []byte) {
	t.Helper()
	bin, pause := inputs(t, names, at)
	out := filepath.Join(t.TempDir(), "payload")
	if err := pack(arch, bin, pause, out); err != nil {
		t.Fatal(err)
	}
	for path, into := range map[string]*[]byte{out + ".tar.zst": &archive, out + ".json": &manifest} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		*into = content
	}
	return archive, manifest
}

// TestSameInputSameBytes: the hash of the archive names the directory it is
// unpacked to, so two builds of one commit must agree.
func TestSameInputSameBytes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	archive, manifest := packed(t, "arm64", []string{"a", "b", "c"}, now)
	again, manifestAgain := packed(t, "arm64", []string{"c", "b", "a"}, now.Add(-time.Hour))
	if !bytes.Equal(archive, again) || !bytes.Equal(manifest, manifestAgain) {
		t.Error("the order and time of files shows in the payload")
	}
	for name, other := range map[string]func() ([]byte, []byte){
		"architecture": func() ([]byte, []byte) { return packed(t, "amd64", []string{"a", "b", "c"}, now) },
		"programs":     func() ([]byte, []byte) { return packed(t, "arm64", []string{"a", "b"}, now) },
	} {
		if a, m := other(); bytes.Equal(archive, a) || bytes.Equal(manifest, m) {
			t.Errorf("other %s do not show in the payload", name)
		}
	}
}
