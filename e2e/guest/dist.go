package guest

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"brink/internal/release"
)

// Program is the brink that is tested: BRINK_BIN, or what scripts/build has made.
func Program(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(cmp.Or(os.Getenv("BRINK_BIN"), "../../bin/brink"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("no binary to test, run `make build` first: %v", err)
	}
	return path
}

// installScript is where the checkout has it, below the tests' directory.
const installScript = "../../scripts/install.sh"

// Dist is a directory as releases are published in: what scripts/release makes, but of
// any program and in seconds. Of the compressed forms there are .gz and .zst, packed
// quickly and badly; there is no signature.
type Dist struct {
	testing.TB
	Dir string
}

// NewDist makes an empty one with install.sh. It goes with the test.
func NewDist(t testing.TB) *Dist {
	t.Helper()
	d := &Dist{t, t.TempDir()}
	d.copyScript(d.Dir)
	return d
}

// copyScript lays install.sh into a directory, where the checkout has one.
func (d *Dist) copyScript(dir string) {
	d.Helper()
	script, err := os.ReadFile(installScript)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "install.sh"), script, 0o755)
	}
	if err != nil {
		d.Fatal(err)
	}
}

// Version is what a program calls itself.
func Version(t testing.TB, program string) string {
	t.Helper()
	out, err := exec.Command(program, "version").Output()
	if err != nil {
		t.Fatalf("%s version: %v", program, err)
	}
	fields := strings.Fields(string(out)) // brink VERSION, and what is in it
	if len(fields) < 2 || fields[0] != "brink" {
		t.Fatalf("%s version wrote %q", program, out)
	}
	return fields[1]
}

// Add publishes a program under the version that it tells, which becomes the latest
// and the stable one.
func (d *Dist) Add(program string) (version string) {
	d.Helper()
	version = Version(d, program)
	d.AddAs(program, version)
	return version
}

// AddAs is Add under any version.
func (d *Dist) AddAs(program, version string) {
	d.Helper()
	dir := filepath.Join(d.Dir, version)
	if err := d.add(dir, program, version); err != nil {
		d.Fatalf("publishing %s: %v", program, err)
	}
	d.copyScript(dir)
	for _, channel := range []string{"stable", "latest"} {
		d.Channel(channel, version)
	}
}

// Channel lets a channel name a version.
func (d *Dist) Channel(name, version string) {
	d.Helper()
	file := filepath.Join(d.Dir, "channels", name)
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(version+"\n"), 0o644)
	}
	if err != nil {
		d.Fatal(err)
	}
}

// compressors are programs that write to their output what they are given.
var compressors = map[string][]string{".gz": {"gzip", "-1", "-c"}, ".zst": {"zstd", "-1", "-q", "-c"}}

func (d *Dist) add(dir, program, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	versionFile := filepath.Join(dir, release.VersionFile)
	if err := os.WriteFile(versionFile, []byte(version+"\n"), 0o644); err != nil {
		return err
	}
	name := release.BinaryFile(runtime.GOARCH)
	sum, err := fileSum(program)
	if err != nil {
		return err
	}
	versionSum, err := fileSum(versionFile)
	if err != nil {
		return err
	}
	sums := fmt.Sprintf("%s  %s\n%s  %s\n", versionSum, release.VersionFile, sum, name)
	for suffix, compressor := range compressors {
		packed, err := pack(program, sum, suffix, compressor)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, name+suffix)
		if out, err := exec.Command("cp", "--reflink=auto", packed, file).CombinedOutput(); err != nil {
			return fmt.Errorf("copying %s: %w: %s", packed, err, out)
		}
		packedSum, err := fileSum(file)
		if err != nil {
			return err
		}
		sums += fmt.Sprintf("%s  %s\n", packedSum, name+suffix)
	}
	return os.WriteFile(filepath.Join(dir, release.SumsFile), []byte(sums), 0o644)
}

// pack returns the compressed form of a file, which is kept for the next test.
func pack(file, sum, suffix string, compressor []string) (packed string, err error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	packed = filepath.Join(cache, "packed-"+sum[:16]+suffix)
	unlock, err := lock(packed + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(packed); !errors.Is(err, fs.ErrNotExist) {
		return packed, errors.Join(err, os.Chtimes(packed, time.Now(), time.Now())) // see prune
	}
	out, err := os.Create(packed + ".new")
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(compressor[0], append(compressor[1:], file)...)
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%v: %w", cmd, err)
	}
	return packed, os.Rename(packed+".new", packed)
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

// Airgap writes the archive that is carried to where there is no network, beside the
// version's files, and returns its path.
func (d *Dist) Airgap(version string) string {
	d.Helper()
	path := filepath.Join(d.Dir, version, release.AirgapFile(runtime.GOARCH))
	if err := d.airgap(path, version); err != nil {
		d.Fatalf("making %s: %v", path, err)
	}
	return path
}

func (d *Dist) airgap(path, version string) error {
	parsed, err := release.ParseVersion(version)
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	w := tar.NewWriter(out)
	top := release.AirgapDirectory(runtime.GOARCH, parsed)
	for _, name := range []string{"install.sh", release.BinaryFile(runtime.GOARCH) + ".gz", release.SumsFile, release.VersionFile} {
		content, err := os.ReadFile(filepath.Join(d.Dir, version, name))
		if err != nil {
			return err
		}
		h := &tar.Header{Name: top + "/" + name, Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: top + "/images/", Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
		return err
	}
	return w.Close()
}
