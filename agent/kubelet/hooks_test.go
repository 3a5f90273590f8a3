package kubelet

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/kubelet/util"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
)

func TestSeeing(t *testing.T) {
	t.Parallel()
	var observed []string
	s := podObserver{util.NewPodStartupLatencyTracker(), func(uid string) { observed = append(observed, uid) }}
	s.ObservedPodOnWatch(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "a"}}, time.Now())
	mirror := metav1.ObjectMeta{UID: "b", Annotations: map[string]string{"kubernetes.io/config.mirror": "static"}}
	s.ObservedPodOnWatch(&corev1.Pod{ObjectMeta: mirror}, time.Now())
	if want := []string{"a", "b", "static"}; !slices.Equal(observed, want) {
		t.Errorf("observed %q, want %q", observed, want)
	}
}

// sharing remembers what was made shared.
type sharing struct {
	hostutil.HostUtils
	paths []string
}

func (s *sharing) MakeRShared(path string) error {
	s.paths = append(s.paths, path)
	return nil
}

func TestResolving(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, link := filepath.Join(root, "disk"), filepath.Join(root, "link")
	if err := os.MkdirAll(filepath.Join(dir, "kubelet"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	under := &sharing{}
	for _, path := range []string{filepath.Join(link, "kubelet"), filepath.Join(dir, "kubelet"), "/not/there"} {
		if err := (resolving{under}).MakeRShared(path); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{filepath.Join(dir, "kubelet"), filepath.Join(dir, "kubelet"), "/not/there"}; !slices.Equal(under.paths, want) {
		t.Errorf("got %q, want %q", under.paths, want)
	}
}
