package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tree is a copy of scripts/version in a module of its own.
type tree struct{ dir string }

func newTree(t *testing.T) tree {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{"go.mod", "go.sum", "scripts/version"} {
		data, err := os.ReadFile(filepath.Join("..", "..", path))
		if err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree{dir}
}

func (tr tree) run(t *testing.T, env, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = tr.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CEILING_DIRECTORIES="+filepath.Dir(tr.dir),
		"GIT_COMMITTER_DATE=2026-11-30T09:45:00+02:00", env)
	out, err := cmd.Output()
	return strings.TrimSuffix(string(out), "\n"), err
}

func (tr tree) git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tr.run(t, "", "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
	if err != nil {
		t.Fatalf("git %v: %v", args, err)
	}
	return out
}

func (tr tree) version(t *testing.T) Version {
	t.Helper()
	out, err := tr.run(t, "VERSION=", "scripts/version")
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, out)
}

// TestScriptsVersion: what scripts/version says of a tree, this package can read.
func TestScriptsVersion(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	number := tr.version(t)
	if number.Dev != "dev" {
		t.Errorf("sources without history are %s", number)
	}
	number.Dev = ""

	tr.git(t, "init", "-q")
	tr.git(t, "add", ".")
	tr.git(t, "commit", "-q", "-m", "a")
	dev := tr.version(t)
	if want := "dev.20261130074500.g" + tr.git(t, "rev-parse", "HEAD")[:12]; dev.Dev != want {
		t.Errorf("a commit is %s, want %s", dev.Dev, want)
	}
	tr.git(t, "tag", number.String())
	if got := tr.version(t); got != number {
		t.Errorf("the tagged commit is %s, want %s", got, number)
	}
	os.WriteFile(filepath.Join(tr.dir, "new"), nil, 0o600)
	if got := tr.version(t); got.Dev != dev.Dev+".dirty" {
		t.Errorf("a changed tree is %s", got)
	}
}

func TestScriptsVersionTakesVersion(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	if out, err := tr.run(t, "VERSION="+v1, "scripts/version"); out != v1 || err != nil {
		t.Errorf("%s, %v", out, err)
	}
	for _, bad := range []string{"v1.36.3", "1", "v1.36.3+brink.0", "v1.36.3+brink.1 x"} {
		if out, err := tr.run(t, "VERSION="+bad, "scripts/version"); err == nil {
			t.Errorf("VERSION=%s gives %s", bad, out)
		}
	}
}
