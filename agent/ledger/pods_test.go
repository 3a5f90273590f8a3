package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/layout"
)

func newPods(t *testing.T) (*Pods, layout.Layout) {
	t.Helper()
	l := layout.New(t.TempDir())
	if err := os.Mkdir(l.Agent(), 0o711); err != nil {
		t.Fatal(err)
	}
	p := NewPods(l)
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	return p, l
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// TestPodsDoNotGrowForEver: a month of CronJobs leaves the list as long as the node
// has pods, and those that it has stay in it.
func TestPodsDoNotGrowForEver(t *testing.T) {
	t.Parallel()
	p, l := newPods(t)
	for i := range 20 * rewriteAfter {
		uid := fmt.Sprintf("uid-%d", i)
		if err := p.Add(uid); err != nil {
			t.Fatal(err)
		}
		switch {
		case i%3000 == 1:
			makeDir(t, filepath.Join(l.Kubelet(), "pods", uid))
		case i%3000 == 2:
			makeDir(t, filepath.Join(l.PodLogs(), "default_p_"+uid))
		}
	}
	const most = rewriteAfter + keepRecent + 20
	got := lines(t, l.Pods())
	if len(got) > most || len(p.in) > most || len(p.known) != len(p.in) {
		t.Errorf("%d lines and %d in memory, want at most %d", len(got), len(p.in), most)
	}
	for i := range 20 * rewriteAfter {
		isThere := i%3000 == 1 || i%3000 == 2 || i >= 20*rewriteAfter-keepRecent
		if uid := fmt.Sprintf("uid-%d", i); isThere && !slices.Contains(got, uid) {
			t.Errorf("%s is missing", uid)
		}
	}
}

func makeDir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestPodsAreListedLater: while the list cannot be written that is told once, and
// then nothing is missing in it.
func TestPodsAreListedLater(t *testing.T) {
	t.Parallel()
	p, l := newPods(t)
	add := func(uid string, isTold bool) {
		t.Helper()
		if err := p.Add(uid); (err != nil) != isTold {
			t.Errorf("%s: got %v", uid, err)
		}
	}
	add("uid-1", false)
	spoil(t, l.Pods())
	add("uid-2", true)
	add("uid-3", false)
	again := NewPods(l)
	if err := again.Open(); err == nil {
		t.Error("opening what cannot be written is no error")
	} else if err := again.Add("uid-9"); err != nil {
		t.Errorf("it has been told: %v", err)
	}
	mend(t, l.Pods())
	add("uid-4", false)
	add("uid-5", false)
	if got, want := lines(t, l.Pods()), []string{"uid-1", "uid-2", "uid-3", "uid-4", "uid-5"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// spoil puts a directory in a file's place, which nobody can write.
func spoil(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	makeDir(t, filepath.Join(path, "in-the-way"))
}

func mend(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(filepath.Join(path, "in-the-way")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestHalfALine: the pod after one whose line was cut off is not lost.
func TestHalfALine(t *testing.T) {
	t.Parallel()
	p, l := newPods(t)
	if err := p.Add("uid-1"); err != nil {
		t.Fatal(err)
	}
	makeDir(t, filepath.Join(l.Kubelet(), "pods", "uid-1"))
	f, err := os.OpenFile(l.Pods(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("uid-"); err != nil {
		t.Fatal(err)
	}
	again := NewPods(l)
	if err := again.Open(); err != nil {
		t.Fatal(err)
	}
	if err := again.Add("uid-2"); err != nil {
		t.Fatal(err)
	}
	if got := ReadPods(l); !got["uid-1"] || !got["uid-2"] || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}
