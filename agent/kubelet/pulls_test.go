package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/images/pullmanager"
)

const (
	pullName = "registry.example/app:1"
	pullID   = "sha256:0123"
)

// imageList is the runtime of a kubelet that only asks what is there.
type imageList struct {
	kubecontainer.ImageService
	images []Image
}

func (l imageList) ListImages(context.Context) ([]kubecontainer.Image, error) {
	var out []kubecontainer.Image
	for _, i := range l.images {
		out = append(out, kubecontainer.Image{ID: i.ID, RepoTags: []string{i.Name}})
	}
	return out, nil
}

// kubeletLife is the part of one run of the kubelet that keeps records.
type kubeletLife struct {
	t       *testing.T
	records pullmanager.PullRecordsAccessor
	*pullmanager.PullManager
}

func newLife(t *testing.T, root string, there []Image) kubeletLife {
	t.Helper()
	logger := klog.FromContext(t.Context())
	files, err := pullmanager.NewFSPullRecordsAccessor(logger, root)
	if err != nil {
		t.Fatal(err)
	}
	cached := pullmanager.NewCachedPullRecordsAccessor(logger, files, 10, 10, 1)
	m, err := pullmanager.NewImagePullManager(t.Context(), cached, pullmanager.NeverVerifyPreloadedPullPolicy(), imageList{images: there}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return kubeletLife{t, cached, m}
}

// mustPull asks as for a pod without credentials.
func (l kubeletLife) mustPull(image string) bool {
	l.t.Helper()
	must, err := l.MustAttemptImagePull(l.t.Context(), image, pullID, func() ([]kubeletconfig.ImagePullSecret, *kubeletconfig.ImagePullServiceAccount, error) {
		return nil, nil, nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return must
}

// TestForgetPulls asks upstream's own code what a pod without credentials may use
// after a start, for each way in which a record can lie there.
func TestForgetPulls(t *testing.T) {
	t.Parallel()
	imported := []Image{{Name: pullName, ID: pullID, Imported: true}}
	pulledOnly := []Image{{Name: pullName, ID: pullID}}
	secret := &kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{{UID: "1", Namespace: "a", Name: "s", CredentialHash: "h"}}}
	begun := func(l kubeletLife) error { return l.RecordPullIntent(klog.FromContext(l.t.Context()), pullName) }
	ended := func(l kubeletLife) error {
		err := begun(l)
		l.RecordImagePulled(l.t.Context(), pullName, pullID, secret)
		return err
	}
	for name, c := range map[string]struct {
		before func(kubeletLife) error // the run that the power cut ended
		starts [][]Image               // what is there at each start after it
		want   bool                    // whether a pod must pull
	}{
		"begun, then imported":                           {begun, [][]Image{imported}, false},
		"begun, then imported a start later":             {begun, [][]Image{nil, imported}, false},
		"begun, imported by hand while the kubelet runs": {begun, [][]Image{nil}, false},
		"begun, imported, started again":                 {begun, [][]Image{imported, imported}, false},
		"pulled by a secret, then imported":              {ended, [][]Image{imported}, false},
		"pulled, its record not written":                 {begun, [][]Image{pulledOnly}, true},
		"pulled by a secret":                             {ended, [][]Image{pulledOnly, pulledOnly}, true},
	} {
		root := t.TempDir()
		if err := c.before(newLife(t, root, nil)); err != nil {
			t.Fatal(err)
		}
		var last kubeletLife
		for _, there := range c.starts {
			if err := ForgetPulls(root, func(s string) string { return s }, func() ([]Image, error) { return there, nil }); err != nil {
				t.Fatal(err)
			}
			last = newLife(t, root, there)
		}
		if got := last.mustPull(pullName); got != c.want {
			t.Errorf("%s: a pod must pull: %t, want %t", name, got, c.want)
		}
	}
}

// TestForgetDamagedRecords: what a power cut left empty is no reason to pull.
func TestForgetDamagedRecords(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newLife(t, root, nil) // makes the directories
	for dir, record := range map[string]string{"pulling": pullName, "pulled": pullID} {
		if err := os.WriteFile(filepath.Join(root, "image_manager", dir, recordName(record)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	there := []Image{{Name: pullName, ID: pullID, Imported: true}}
	if !newLife(t, root, there).mustPull(pullName) {
		t.Fatal("the kubelet minds empty records no more: this test shows nothing")
	}
	if err := ForgetPulls(root, func(s string) string { return s }, func() ([]Image, error) { return there, nil }); err != nil {
		t.Fatal(err)
	}
	if newLife(t, root, there).mustPull(pullName) {
		t.Error("a pod must pull an image that was imported")
	}
}

// TestForgetNothing: a node that never pulls asks nobody what is there.
func TestForgetNothing(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	ask := func() ([]Image, error) { return nil, errors.New("asked") }
	if err := ForgetPulls(root, nil, ask); err != nil {
		t.Error(err)
	}
	newLife(t, root, nil)
	if err := ForgetPulls(root, nil, ask); err != nil {
		t.Error(err)
	}
}

func TestRootDir(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{"/usual": nil, "/b": {"--root-dir=/a", "v=2", "root_dir=/b"}} {
		if got := RootDir(args, "/usual"); got != want {
			t.Errorf("%q: got %s, want %s", args, got, want)
		}
	}
}
