package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"brink/e2e/image"
	"brink/internal/testdisk"
)

const (
	ctrImage     = "e2e.local/ctr:1"     // imported by ctr just before the power cut
	damagedImage = "e2e.local/damaged:1" // of which the power cut leaves a wrong byte
	smallFiles   = 200                   // of ctrImage, which stay in memory longest
	inDebugLog   = "S3cretOfAPod"        // nowhere in the log, nor as the API writes it
)

// readsFiles is a pod whose log says how many files of ctrImage are as they were.
const readsFiles = `
apiVersion: v1
kind: Pod
metadata: {name: files}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: ` + ctrImage + `
    imagePullPolicy: Never
    command: [sh, -c, 'n=0; for f in /files/*; do test "$(cat $f)" = "${f##*/} as it was" && n=$((n+1)); done; echo $n are good']
`

// takesSecret has a Secret in its environment and in its command line, and its probes
// print it.
const takesSecret = `
apiVersion: v1
kind: Pod
metadata: {name: secret}
spec:
  containers:
  - name: main
    image: ` + busybox1 + `
    command: [sh, -c, sleep 100000, $(VALUE)]
    env: [{name: VALUE, valueFrom: {secretKeyRef: {name: secret, key: value}}}]
    readinessProbe: {exec: {command: [sh, -c, 'echo "$VALUE"']}}
    livenessProbe: {exec: {command: [sh, -c, 'echo "$VALUE"; false']}, periodSeconds: 1, failureThreshold: 10000}
`

// runs is a pod of an image that must be there.
func runs(name, image, policy string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: %q, imagePullPolicy: %s, command: [sleep, "100000"]}
`, name, image, policy)
}

// TestImportedImagesAfterAPowerCut: a node without a network has what its owner
// brought, whatever was going on when the power failed: images that were just
// imported, a pull of an image whose archive comes later, damage on the card.
func TestImportedImagesAfterAPowerCut(t *testing.T) {
	t.Parallel()
	n := newNodeOnDisk(t, 768, "debug: true")
	silent := silentRegistry(t)
	archives := n.writeArchives(t, silent)
	if err := errors.Join(os.MkdirAll(n.Inside(n.Layout().Images()), 0o755), n.bring(archives["damaged"]), n.Start(), n.ImportImages(imageArchive)); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.hasSecretInProbes()
	ns.apply(runs("waits", silent, "IfNotPresent"))
	ns.eventually("the kubelet's record of a pull", n.recordsPull)
	n.importByCtr(t, archives["ctr"])
	n.cutPowerOfDisk(t)
	n.logHasNoSecret(t)
	n.flipConfig(t, archives["damaged"])
	if err := errors.Join(n.bring(archives["app"]), n.Start()); err != nil {
		t.Fatal(err)
	}
	ns.apply(readsFiles)
	ns.eventually("the files of an image that ctr imported", func() error {
		out, err := ns.tryKubectl("logs", "files")
		if err == nil {
			err = contains(out, fmt.Sprintf("%d are good", smallFiles))
		}
		return err
	})
	ns.apply(runs("fresh", silent, "Never"))
	ns.readyPod("fresh")
	ns.readyPod("waits")
	dropped := n.AwaitText("err", "an image was damaged and is dropped: it is imported or pulled again\" component=images image="+damagedImage)
	if err := errors.Join(dropped, n.AwaitText("err", "images checked")); err != nil {
		t.Fatal(err)
	}
	ns.apply(runs("damaged", damagedImage, "Never"))
	ns.readyPod("damaged")

	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	ns.apply(runs("later", silent, "Never"))
	ns.readyPod("later")
	if err := n.Says("err", "checking images"); err == nil {
		t.Error("images are checked again after an end in order")
	}
	n.logHasNoSecret(t)
}

// hasSecretInProbes has the kubelet log probes whose output is a Secret's value.
func (ns *namespace) hasSecretInProbes() {
	ns.Helper()
	ns.kubectl("create", "secret", "generic", "secret", "--from-literal=value="+inDebugLog)
	ns.apply(takesSecret)
	ns.readyPod("secret")
	ns.event("secret", "Unhealthy", "Liveness probe failed")
}

// recordsPull returns nil when the kubelet has a record of a pull that goes on.
func (n *node) recordsPull() error {
	records, err := os.ReadDir(n.Inside(filepath.Join(n.Layout().Kubelet(), "image_manager", "pulling")))
	if err == nil && len(records) == 0 {
		err = errors.New("there is none")
	}
	return err
}

// importByCtr imports an archive as for containerd, without brink's own command.
func (n *node) importByCtr(t *testing.T, archive string) {
	t.Helper()
	r, err := n.Brink("ctr", "--address", n.Layout().ContainerdSocket(), "--namespace", "k8s.io", "images", "import", archive)
	if err != nil || r.Code != 0 {
		t.Fatalf("brink ctr images import: %v %v", err, r)
	}
}

// cutPowerOfDisk is cutPower of a node whose data is on a disk of its own: what was
// not written there yet is lost.
func (n *node) cutPowerOfDisk(t *testing.T) {
	t.Helper()
	disk := filepath.Dir(n.Data)
	testdisk.CutPower(t, n.Inside(disk))
	n.cutPower(t)
	if err := errors.Join(n.Holder.Run("umount", disk), n.Holder.Run("mount", "-o", "loop", disk+".img", disk)); err != nil {
		t.Fatal(err)
	}
}

// silentRegistry takes connections and never answers. It returns the name of an
// image there.
func silentRegistry(t *testing.T) string {
	t.Helper()
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	l, err := sw.Netns().Listen(lanHost + ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String() + "/app:1"
}

// writeArchives makes the archives of this test, by what they are for.
func (n *node) writeArchives(t *testing.T, silent string) map[string]string {
	t.Helper()
	box, err := image.BusyboxFiles()
	if err != nil {
		t.Fatal(err)
	}
	small := []image.File{{Name: "files/", Mode: 0o755}}
	for i := range smallFiles {
		small = append(small, image.File{Name: fmt.Sprintf("files/%d", i), Mode: 0o644, Content: fmt.Appendf(nil, "%d as it was\n", i)})
	}
	out := map[string]string{}
	for file, i := range map[string]image.Image{
		"ctr":     {Name: ctrImage, Layers: [][]image.File{box, small}},
		"damaged": {Name: damagedImage, Layers: [][]image.File{box, versionFile("damaged")}},
		"app":     {Name: silent, Layers: [][]image.File{box, versionFile("app")}},
	} {
		out[file] = filepath.Join(n.Dir, file+".tar")
		if err := image.Write(out[file], i); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// bring puts an archive where brink imports it at a start.
func (n *node) bring(archive string) error {
	return n.Holder.Run("cp", archive, n.Layout().Images())
}

// flipConfig changes a byte of the configuration of an archive's image.
func (n *node) flipConfig(t *testing.T, archive string) {
	t.Helper()
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err != nil {
		t.Fatal(err)
	}
	path := n.Inside(filepath.Join(n.Layout().ContainerdRoot(), "io.containerd.content.v1.content/blobs/sha256", strings.TrimPrefix(manifest[0].Config, "sha256:")))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// logHasNoSecret looks at all that the last start wrote.
func (n *node) logHasNoSecret(t *testing.T) {
	t.Helper()
	for _, stream := range []string{"out", "err"} {
		text, err := os.ReadFile(n.LogFile(stream, n.Starts))
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range []string{inDebugLog, base64.StdEncoding.EncodeToString([]byte(inDebugLog))} {
			if i := strings.Index(string(text), value); i >= 0 {
				t.Errorf("a Secret's value is in the log: %.300q", text[max(0, i-250):])
			}
		}
	}
}
