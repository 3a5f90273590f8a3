package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// inputs writes programs, an nft and a pause program in the given order and at the given
// time.
func inputs(t *testing.T, names []string, at time.Time) input {
	t.Helper()
	dir := t.TempDir()
	in := input{bin: filepath.Join(dir, "bin"), nft: filepath.Join(dir, "nft"), nftVersion: "1.0.6", pause: filepath.Join(dir, "pause")}
	write := func(path string, content []byte, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		// Large enough for several blocks of the compressor.
		write(filepath.Join(in.bin, name), bytes.Repeat([]byte(name+" is a program\n"), 1<<16), 0o755)
		write(filepath.Join(in.nft, "lib", name), []byte(name), 0o640)
	}
	write(filepath.Join(in.nft, "nft"), []byte("nft"), 0o711)
	write(in.pause, []byte("pause"), 0o700)
	return in
}

// packed returns archive and manifest.
func packed(t *testing.T, arch string, names []string, at time.Time) (archive, manifest []byte) {
	t.Helper()
	in := inputs(t, names, at)
	in.arch = arch
	out := filepath.Join(t.TempDir(), "payload")
	if err := pack(in, out); err != nil {
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

// TestModesAndPaths: the modes are those of programs and of other files, whatever the
// umask of the build was.
func TestModesAndPaths(t *testing.T) {
	t.Parallel()
	_, text := packed(t, "arm64", []string{"a"}, time.Now())
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, f := range m.Files {
		got[f.Path] = f.Mode
	}
	want := map[string]int64{"bin/a": 0o755, "nft/lib/a": 0o644, "nft/nft": 0o755, "pause.tar": 0o644}
	if !maps.Equal(got, want) || m.NFT != "1.0.6" {
		t.Errorf("got %v and nft %q, want %v", got, m.NFT, want)
	}
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
