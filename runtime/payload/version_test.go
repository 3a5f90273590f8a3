package payload

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/datadir"
	"brink/internal/testtree"
)

// TestUsersFilesStay: what a start and an uninstall find beside the versions of
// brink's programs, under names that these have too.
func TestUsersFilesStay(t *testing.T) {
	t.Parallel()
	ours, old, theirs, named, linked := strings.Repeat("0a", 32), strings.Repeat("0b", 32), strings.Repeat("0c", 32), strings.Repeat("0d", 32), strings.Repeat("0e", 32)
	root := testtree.Make(t, map[string]string{
		ours + "/manifest.json": `{"sha256":"` + ours + `","files":[{"path":"bin/runc"},{"path":"../../escaped"}]}`,
		ours + "/bin/runc":      "", ours + "/bin/notes.txt": "",
		old + "/bin/runc": "", old + "/bin/containerd-shim-runc-v2": "", old + "/pause.tar": "", // from before there were manifests
		theirs + "/chunk":         "",
		named + "/manifest.json":  `{"sha256":"` + ours + `","files":[{"path":"chunk"}]}`, // a copy of another's
		named + "/chunk":          "",
		linked + "/manifest.json": "->../" + ours + "/manifest.json", linked + "/bin/runc": "",
		".unpack-123/bin/runc": "", ".unpack-mine/x": "", "photos/1.jpg": "",
	})
	want := func() []string {
		left := []string{".unpack-mine/x", ours + "/bin/notes.txt", theirs + "/chunk", named + "/chunk", named + "/manifest.json", linked + "/bin/runc", linked + "/manifest.json", "photos/1.jpg"}
		slices.Sort(left)
		return left
	}()
	escaped := filepath.Join(filepath.Dir(root), "escaped")
	testtree.Fill(t, filepath.Dir(root), map[string]string{"escaped": ""})
	d := unpack(t, root)
	if _, err := os.Stat(filepath.Join(d.path, datadir.ProgramsManifest)); err != nil {
		t.Error(err)
	}
	if err := Remove(root); err != nil {
		t.Fatal(err)
	}
	var got []string
	_ = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(root, path)
			got = append(got, name)
		}
		return err
	})
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("left %q\nwant %q", got, want)
	}
	if _, err := os.Stat(escaped); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.path); err == nil {
		t.Error("the version of now stays")
	}
}

// TestUnlistedVersionIsKnown: the programs of a brink from before there were
// manifests become known as ours when the same ones are needed again.
func TestUnlistedVersionIsKnown(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := unpack(t, root)
	if err := os.Remove(filepath.Join(d.path, datadir.ProgramsManifest)); err != nil {
		t.Fatal(err)
	}
	if again := unpack(t, root); datadir.Programs(again.path)[0] != datadir.ProgramsManifest {
		t.Error("it has no manifest")
	}
}

func writeManifest(t *testing.T, root, version string) {
	t.Helper()
	testtree.Fill(t, filepath.Join(root, version), map[string]string{datadir.ProgramsManifest: `{"sha256":"` + version + `","files":[{"path":"bin/sleep"}]}`})
}
