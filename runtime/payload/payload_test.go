package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"brink/internal/testdisk"
)

func embedded(t *testing.T) manifest {
	t.Helper()
	var m manifest
	if err := json.Unmarshal(manifestJSON, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func unpack(t *testing.T, root string) Programs {
	t.Helper()
	d, err := Unpack(root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// requireOnly checks that root holds the current version, whole, and nothing
// but what is named.
func requireOnly(t *testing.T, root string, others ...string) {
	t.Helper()
	m := embedded(t)
	if bad := damaged(filepath.Join(root, m.SHA256), m.Files); len(bad) > 0 {
		t.Errorf("damaged after unpacking: %v", names(bad))
	}
	want := append([]string{m.SHA256}, others...)
	slices.Sort(want)
	if got := list(t, root); !slices.Equal(got, want) {
		t.Errorf("entries of the payload directory are %v, want %v", got, want)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestUnpackedProgramsRun(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "not", "there", "yet")
	d := unpack(t, root)
	requireOnly(t, root)
	for _, c := range []struct{ name, arg, want string }{
		{"runc", "--version", "libseccomp"},
		{"containerd-shim-runc-v2", "-v", "Version"},
		{"bridge", "--help", "bridge"},
		{"host-local", "--help", "host-local"},
		{"portmap", "--help", "portmap"},
	} {
		// The plugins answer --help with their name and a non-zero status.
		out := output(filepath.Join(d.Bin(), c.name), c.arg)
		if !strings.Contains(string(out), c.want) {
			t.Errorf("%s %s says %q, want it to contain %q", c.name, c.arg, out, c.want)
		}
	}
	if _, err := os.Stat(d.PauseArchive()); err != nil {
		t.Error(err)
	}
	if d.PauseImage() == "" {
		t.Error("the pause image has no name")
	}
}

// output runs a program that was just written. While a parallel test is between
// fork and exec its child has our open file, and the kernel refuses.
func output(program, arg string) []byte {
	for {
		out, err := exec.Command(program, arg).CombinedOutput()
		if !errors.Is(err, syscall.ETXTBSY) {
			return out
		}
	}
}

func TestUnpackLeavesIntactFilesAlone(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := unpack(t, root)
	before, err := os.Stat(filepath.Join(d.Bin(), "runc"))
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, root)
	after, err := os.Stat(filepath.Join(d.Bin(), "runc"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("an intact runc was written again")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flip returns a function that flips one bit of runc.
func flip(offset int64) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		f, err := os.OpenFile(filepath.Join(dir, "bin", "runc"), os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		b := make([]byte, 1)
		_, err = f.ReadAt(b, offset)
		must(t, err)
		b[0] ^= 0x10
		_, err = f.WriteAt(b, offset)
		must(t, err)
	}
}

// damages are what a version's directory may suffer.
var damages = []struct {
	name   string
	damage func(t *testing.T, dir string)
}{
	{"one bit flipped at the start", flip(0)},
	{"one bit flipped in the middle", flip(4 << 20)},
	{"file truncated", func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "bin", "portmap"), 1000)) }},
	{"file empty, as after a power cut", func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "pause.tar"), 0)) }},
	{"file missing", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "bin", "bridge"))) }},
	{"file not executable", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "bin", "runc"), 0o644)) }},
	{"file longer", func(t *testing.T, dir string) {
		f, err := os.OpenFile(filepath.Join(dir, "bin", "runc"), os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = f.Write([]byte{0})
		must(t, err)
		must(t, f.Close())
	}},
	{"file replaced by a symbolic link to a copy", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "bin", "runc")
		must(t, os.Rename(path, path+".moved"))
		must(t, os.Symlink(path+".moved", path))
	}},
	{"file replaced by a directory", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "bin", "runc")
		must(t, os.Remove(path))
		must(t, os.MkdirAll(filepath.Join(path, "full"), 0o755))
	}},
	{"bin missing", func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "bin"))) }},
	{"bin replaced by a file", func(t *testing.T, dir string) {
		must(t, os.RemoveAll(filepath.Join(dir, "bin")))
		must(t, os.WriteFile(filepath.Join(dir, "bin"), nil, 0o644))
	}},
	{"a library of nft missing", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "nft", "lib", "nft"))) }},
	{"nft's directory replaced by a file", func(t *testing.T, dir string) {
		must(t, os.RemoveAll(filepath.Join(dir, "nft")))
		must(t, os.WriteFile(filepath.Join(dir, "nft"), nil, 0o644))
	}},
	{"a program's directory replaced by a link", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "nft", "lib")
		must(t, os.Rename(path, filepath.Join(t.TempDir(), "lib")))
		must(t, os.Symlink(t.TempDir(), path))
	}},
	{"everything missing", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) }},
}

func TestUnpackRepairs(t *testing.T) {
	t.Parallel()
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			d := unpack(t, root)
			c.damage(t, d.path)
			m := embedded(t)
			if len(damaged(d.path, m.Files)) == 0 {
				t.Fatal("the damage is not noticed")
			}
			unpack(t, root)
			requireOnly(t, root)
		})
	}
}

func TestUnpackRemovesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	half := filepath.Join(root, tempPrefix+"123", "bin")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "runc"), []byte("half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "somebody-elses"), 0o755); err != nil {
		t.Fatal(err)
	}
	unpack(t, root)
	requireOnly(t, root, "somebody-elses")
}

func TestOldVersionGoesWhenNothingRunsFromIt(t *testing.T) {
	t.Parallel()
	// Through a symbolic link, because the kernel reports programs without it.
	real := t.TempDir()
	root := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, root); err != nil {
		t.Fatal(err)
	}
	running, idle := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for _, version := range []string{running, idle} {
		copyFile(t, "/bin/sleep", filepath.Join(root, version, "bin", "sleep"))
		writeManifest(t, root, version)
	}
	var sleep *exec.Cmd
	for {
		sleep = exec.Command(filepath.Join(root, running, "bin", "sleep"), "300")
		err := sleep.Start()
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ETXTBSY) { // see output
			t.Fatal(err)
		}
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			sleep.Process.Kill()
			sleep.Wait()
		}
	}
	t.Cleanup(stop)

	unpack(t, root)
	requireOnly(t, root, running)
	// An upgrade may have replaced the program under the running process.
	if err := os.Remove(filepath.Join(root, running, "bin", "sleep")); err != nil {
		t.Fatal(err)
	}
	unpack(t, root)
	requireOnly(t, root, running)
	stop()
	unpack(t, root)
	requireOnly(t, root)
}

// TestOldVersionStaysForItsPods: their shim may be dead and still be needed, to
// clear away what it left.
func TestOldVersionStaysForItsPods(t *testing.T) {
	t.Parallel()
	root, state := t.TempDir(), t.TempDir()
	needed, idle := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for _, version := range []string{needed, idle} {
		copyFile(t, "/bin/sleep", filepath.Join(root, version, "bin", "sleep"))
		writeManifest(t, root, version)
	}
	bundle := filepath.Join(state, "io.containerd.runtime.v2.task", "k8s.io", "pod")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(root, needed, "bin", "containerd-shim-runc-v2")
	if err := os.WriteFile(filepath.Join(bundle, "shim-binary-path"), []byte(shim), 0o600); err != nil {
		t.Fatal(err)
	}
	unpackFor := func() {
		t.Helper()
		if _, err := Unpack(root, filepath.Join(state, "none"), state); err != nil {
			t.Fatal(err)
		}
	}
	unpackFor()
	requireOnly(t, root, needed)
	if err := os.RemoveAll(bundle); err != nil {
		t.Fatal(err)
	}
	unpackFor()
	requireOnly(t, root)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	return testdisk.Mount(t, "tmpfs", 0, fmt.Sprintf("size=%d", size))
}

func requireFull(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("unpacking to a full disk succeeded")
	}
	for _, part := range []string{"no space left", "--data-dir", "MiB"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), tempPrefix) {
		t.Errorf("error is not one line for a user: %q", err)
	}
}

func TestDiskFullLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, 8<<20)
	_, err := Unpack(root)
	requireFull(t, err)
	if left := list(t, root); len(left) > 0 {
		t.Errorf("left on the full disk: %v", left)
	}
}

func TestDiskFullDuringRepairKeepsTheOtherFiles(t *testing.T) {
	t.Parallel()
	root := smallDisk(t, 64<<20)
	d := unpack(t, root)
	if err := os.Truncate(filepath.Join(d.Bin(), "runc"), 10); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(root, "filler")
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=1M").CombinedOutput(); err == nil {
		t.Fatalf("the disk did not fill: %s", out)
	}
	_, err := Unpack(root)
	requireFull(t, err)
	m := embedded(t)
	if bad := names(damaged(d.path, m.Files)); !slices.Equal(bad, []string{"bin/runc"}) {
		t.Errorf("damaged after a failed repair: %v, want only runc", bad)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	unpack(t, root)
	requireOnly(t, root)
}

func BenchmarkUnpack(b *testing.B) {
	for b.Loop() {
		if _, err := Unpack(b.TempDir()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	root := b.TempDir()
	for b.Loop() {
		if _, err := Unpack(root); err != nil {
			b.Fatal(err)
		}
	}
}
