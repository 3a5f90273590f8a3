package images

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/testerror"
)

// someManifests name images in every way that there is, and some that are none.
const someManifests = `
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers: [{name: init, image: registry.test/init:1}]
      containers:
      - {name: a, image: busybox}
      - {name: b, image: "registry.test/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
      ephemeralContainers: [{name: e, image: registry.test/debug:1}]
      volumes:
      - {name: v, image: {reference: registry.test/data:1}}
      - {name: w, emptyDir: {}}
---
# nothing
---
apiVersion: v1
kind: List
items:
- kind: CronJob
  spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: registry.test/job:1}]}}}}}
- kind: Unknown
  spec: {workers: [{template: {spec: &pod {containers: [{image: registry.test/operated:1}]}}}], more: *pod}
- kind: ConfigMap
  data: {text: "containers: [{image: registry.test/not:1}]"}
- kind: CustomResourceDefinition
  spec: {properties: {containers: {type: array, items: {properties: {image: {type: string}}}}}}
`

func TestImagesOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := map[string]string{
		"a.yaml":      someManifests,
		"b/c.json":    `{"kind": "Pod", "spec": {"containers": [{"image": "registry.test/json:1"}]}}`,
		"b/notes.txt": "containers: [{image: registry.test/text:1}]",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ImagesOf([]string{dir, "-"}, strings.NewReader("spec: {containers: [{image: registry.test/in:1}, {image: busybox}]}"))
	want := []string{
		"docker.io/library/busybox:latest",
		"registry.test/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"registry.test/data:1", "registry.test/debug:1", "registry.test/in:1", "registry.test/init:1",
		"registry.test/job:1", "registry.test/json:1", "registry.test/operated:1",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
}

func TestImagesOfSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"template.yaml": {"kind: Pod\nspec:\n  containers:\n  - image: \"{{ .Values.image }}\"\n", `template.yaml:4: "{{ .Values.image }}" is no name of an image`},
		"broken.yaml":   {"kind: [", "broken.yaml: yaml:"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ImagesOf([]string{path}, nil)
		testerror.OneLine(t, err, c.want)
	}
	_, err := ImagesOf([]string{t.TempDir()}, nil)
	testerror.OneLine(t, err, "ends in .yaml")
	_, err = ImagesOf([]string{filepath.Join(dir, "missing")}, nil)
	testerror.OneLine(t, err, "missing")
}
