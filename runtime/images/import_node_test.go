package images_test

import (
	"archive/tar"
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brink/runtime/images"
	"brink/runtime/testnode"

	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// foreignArch is one that no machine runs tests on.
const foreignArch = "s390x"

func forArch(t *testing.T, image v1.Image, arch string) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture = arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// ociLayout is an OCI archive in the making.
type ociLayout struct {
	t    *testing.T
	path layout.Path
}

func newLayout(t *testing.T) ociLayout {
	t.Helper()
	path, err := layout.Write(t.TempDir(), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	return ociLayout{t, path}
}

func (l ociLayout) add(what mutate.Appendable, annotation, value string) {
	l.t.Helper()
	annotations := layout.WithAnnotations(map[string]string{annotation: value})
	var err error
	switch what := what.(type) {
	case v1.ImageIndex:
		err = l.path.AppendIndex(what, annotations)
	case v1.Image:
		err = l.path.AppendImage(what, annotations)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// remove takes an image's blobs away, as docker save does with other platforms.
func (l ociLayout) remove(image v1.Image) {
	l.t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		l.t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, hash := range []v1.Hash{digest, manifest.Config.Digest} {
		if err := l.path.RemoveBlob(hash); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l ociLayout) write() string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "oci.tar")
	f, err := os.Create(path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(string(l.path))); err != nil {
		l.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func dockerArchive(t *testing.T, all map[string]v1.Image) string {
	t.Helper()
	tags := map[name.Tag]v1.Image{}
	for ref, image := range all {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = image
	}
	path := filepath.Join(t.TempDir(), "docker.tar")
	if err := tarball.MultiWriteToFile(path, tags); err != nil {
		t.Fatal(err)
	}
	return path
}

func index(t *testing.T, all ...v1.Image) v1.ImageIndex {
	t.Helper()
	var out v1.ImageIndex = empty.Index
	for _, image := range all {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		platform := v1.Platform{OS: "linux", Architecture: config.Architecture}
		out = mutate.AppendManifests(out, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return out
}

// TestImportTellsWhatIsUsable: what is told as imported runs, by the name that is
// told; what cannot is named with the reason in one line, and listed nowhere.
func TestImportTellsWhatIsUsable(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(n.Stop)
	a := storeOf(n)
	good, absent, foreign := testnode.Busybox(t, "good"), testnode.Busybox(t, "absent"), forArch(t, testnode.Busybox(t, "foreign"), foreignArch)
	oci := archiver(t)
	for _, c := range []struct {
		what, path string
		want       []string // imported
		reason     string   // in the error
	}{
		{"a tag alone", oci(func(l ociLayout) { l.add(good, ocispec.AnnotationRefName, "v1") }), nil, `"v1" is a tag and not the name of an image`},
		{"a short name", oci(func(l ociLayout) { l.add(good, ocispec.AnnotationRefName, "team/app:1") }), []string{"docker.io/team/app:1"}, ""},
		{"no name that is one", oci(func(l ociLayout) { l.add(good, coreimages.AnnotationImageName, "test.local/App:1") }), nil, "test.local/App:1"},
		{"another platform", oci(func(l ociLayout) { l.add(foreign, coreimages.AnnotationImageName, "test.local/a:1") }), nil, "test.local/a:1 is for linux/s390x, this node is linux/"},
		{"an index of another platform", oci(func(l ociLayout) { l.add(index(t, foreign), coreimages.AnnotationImageName, "test.local/b:1") }), nil, "test.local/b:1 is for linux/s390x"},
		{"docker, another platform", dockerArchive(t, map[string]v1.Image{"test.local/c:1": foreign}), nil, "test.local/c:1 is for linux/s390x"},
		{"two names", oci(func(l ociLayout) {
			l.add(foreign, coreimages.AnnotationImageName, "test.local/d:1")
			l.add(good, coreimages.AnnotationImageName, "test.local/e:1")
		}), []string{"test.local/e:1"}, "test.local/d:1 is for linux/s390x"},
		{"docker, two names", dockerArchive(t, map[string]v1.Image{"test.local/f:1": foreign, "test.local/g:1": good}), []string{"test.local/g:1"}, "test.local/f:1 is for linux/s390x"},
		{"one name, two platforms", oci(func(l ociLayout) {
			l.add(foreign, coreimages.AnnotationImageName, "test.local/h:1")
			l.add(good, coreimages.AnnotationImageName, "test.local/h:1")
		}), []string{"test.local/h:1"}, ""},
		{"a saved platform of two", oci(func(l ociLayout) {
			l.add(index(t, good, foreign), coreimages.AnnotationImageName, "test.local/i:1")
			l.remove(foreign)
		}), []string{"test.local/i:1"}, ""},
		{"the other platform saved", oci(func(l ociLayout) {
			l.add(index(t, absent, foreign), coreimages.AnnotationImageName, "test.local/j:1")
			l.remove(absent)
		}), nil, "test.local/j:1 is not whole"},
	} {
		got, err := a.Import(n.Context(), c.path, false, silent)
		var imported []string
		for _, i := range got {
			imported = append(imported, i.Name)
		}
		if !slices.Equal(imported, c.want) {
			t.Errorf("%s: imported %q, want %q (%v)", c.what, imported, c.want, err)
		}
		if (err != nil) != (c.reason != "") || err != nil && (!strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: got %v, want one line with %q", c.what, err, c.reason)
		}
	}
	checkList(t, n, a)
}

// archiver returns a function that writes an archive in OCI layout, filled by its argument.
func archiver(t *testing.T) func(fill func(ociLayout)) (path string) {
	return func(fill func(ociLayout)) string {
		l := newLayout(t)
		fill(l)
		return l.write()
	}
}

// checkList compares what is listed with what the CRI has, and both with what was
// told as imported.
func checkList(t *testing.T, n *testnode.Node, a images.Store) {
	t.Helper()
	list, err := a.List(n.Context())
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, i := range list {
		listed[i.Name] = true
	}
	want := []string{"docker.io/team/app:1", "test.local/e:1", "test.local/g:1", "test.local/h:1", "test.local/i:1"}
	for _, ref := range want {
		n.WaitImage(ref, true)
	}
	delete(listed, n.Config.PauseImage)
	if got := slices.Sorted(maps.Keys(listed)); !slices.Equal(got, want) {
		t.Errorf("%q are listed, want %q", got, want)
	}
	for _, ref := range []string{"test.local/a:1", "test.local/b:1", "test.local/c:1", "test.local/d:1", "test.local/f:1", "test.local/j:1", "v1"} {
		n.WaitImage(ref, false)
	}
}

// TestImportedImageByAllItsNames: by digest, with and without a tag, and by its id,
// which is how the CRI finds the image of a volume.
func TestImportedImageByAllItsNames(t *testing.T) {
	i := newImports(t)
	i.put("1.tar", "test.local/dir:1")
	i.run()
	hand := dockerArchive(t, map[string]v1.Image{"test.local/hand:1": testnode.Busybox(t, "hand")})
	if _, err := i.Import(i.Context(), hand, false, silent); err != nil {
		t.Fatal(err)
	}
	list, err := i.List(i.Context())
	if err != nil {
		t.Fatal(err)
	}
	sandbox, pod := i.Sandbox("names")
	for _, image := range list {
		if image.Name == i.Config.PauseImage {
			continue
		}
		repository := strings.TrimSuffix(image.Name, ":1")
		for _, ref := range []string{image.Name, repository + "@" + image.Digest, image.Name + "@" + image.Digest} {
			i.WaitImage(ref, true)
		}
		status, err := i.Images().ImageStatus(i.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image.Name}})
		if err != nil {
			t.Fatal(err)
		}
		i.Volumes = []*cri.Mount{{ContainerPath: "/v", Readonly: true, Image: &cri.ImageSpec{Image: status.Image.Id}}}
		id := i.Container(sandbox, pod, repository+"@"+image.Digest, "sh", "-c", "test -x /v/bin/busybox && exit 3")
		if status := i.WaitState(id, cri.ContainerState_CONTAINER_EXITED); status.ExitCode != 3 {
			t.Errorf("%s as a volume: exit code %d", image.Name, status.ExitCode)
		}
	}
}

// TestArchivesOfAnOlderBrink: an image that was imported before it got all its names
// has them after the next start, without a second import.
func TestArchivesOfAnOlderBrink(t *testing.T) {
	i := newImports(t)
	path := i.put("1.tar", "test.local/old:1")
	i.run()
	known := i.Stamps()[path]
	store := i.Client().ImageService()
	found, err := i.Client().GetImage(i.CRIContext(), "test.local/old:1")
	if err != nil {
		t.Fatal(err)
	}
	digested := "test.local/old@" + found.Target().Digest.String()
	if err := store.Delete(i.CRIContext(), digested, coreimages.SynchronousDelete()); err != nil {
		t.Fatal(err)
	}
	i.WaitImage(digested, false)
	i.run()
	i.WaitImage(digested, true)
	if now := i.Stamps()[path]; !now.Modified.Equal(known.Modified) || len(now.Images) != 1 {
		t.Errorf("the record says %v, before %v", now, known)
	}
}

// TestUnusableArchiveIsReadOnce: what is of no use here costs no time at each start.
func TestUnusableArchiveIsReadOnce(t *testing.T) {
	i := newImports(t)
	foreign, good := forArch(t, testnode.Busybox(t, "foreign"), foreignArch), testnode.Busybox(t, "good")
	some, none := filepath.Join(i.dir, "some.tar"), filepath.Join(i.dir, "none.tar")
	write := func(tag string) {
		for path, image := range map[string]v1.Image{some: good, none: nil} {
			l := newLayout(t)
			l.add(foreign, coreimages.AnnotationImageName, "test.local/foreign:"+tag)
			if image != nil {
				l.add(image, coreimages.AnnotationImageName, "test.local/good:"+tag)
			}
			if err := os.Rename(l.write(), path); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("1")
	i.run()
	i.WaitPinned("test.local/good:1", true)
	known, err := os.ReadFile(i.Layout.ImportedImages())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{some: "test.local/good:1", none: ""} {
		if s := i.Stamps()[path]; images.NamesOf(s.Images) != want || !strings.HasPrefix(s.Unusable, "test.local/foreign:1 is for linux/s390x") {
			t.Errorf("%s: the record has %+v", path, s)
		}
	}
	write("2") // of the same size and time: seen only by who reads it
	i.run()
	if after, err := os.ReadFile(i.Layout.ImportedImages()); err != nil || !bytes.Equal(after, known) {
		t.Errorf("the record is %s (%v), was %s", after, err, known)
	}
}
