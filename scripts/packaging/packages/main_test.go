package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inOrder are versions from the oldest to the newest.
var inOrder = []string{
	"v1.36.3+brink.1.dev.20261130094500.gcca476d6ad28",
	"v1.36.3+brink.1.dev.20261130094501.g000000000000.dirty",
	"v1.36.3+brink.1",
	"v1.36.3+brink.2.dev.20261201000000.g000000000000",
	"v1.36.3+brink.2",
	"v1.36.3+brink.10",
	"v1.36.10+brink.1",
}

func TestPackageVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ version, deb, apk string }{
		{inOrder[0], "1.36.3+brink.1~dev.20261130094500", "1.36.3_p0_git20261130094500-r0"},
		{"v1.36.3+brink.1.dev", "1.36.3+brink.1~dev.0", "1.36.3_p0_git0-r0"},
		{"v1.36.3+brink.12", "1.36.3+brink.12", "1.36.3_p12-r0"},
	} {
		for format, want := range map[string]string{"deb": c.deb, "rpm": c.deb, "apk": c.apk} {
			if got, err := packageVersion(c.version, format); got != want || err != nil {
				t.Errorf("%s for %s: %s, %v, want %s", c.version, format, got, err, want)
			}
		}
	}
	if got, err := packageVersion("v1.36.3", "deb"); err == nil {
		t.Errorf("a version of Kubernetes is taken as %s", got)
	}
}

// TestDpkgSorts asks dpkg itself which of two versions is newer.
func TestDpkgSorts(t *testing.T) {
	t.Parallel()
	for i := range len(inOrder) - 1 {
		a, _ := packageVersion(inOrder[i], "deb")
		b, _ := packageVersion(inOrder[i+1], "deb")
		if err := exec.Command("dpkg", "--compare-versions", a, "lt", b).Run(); err != nil {
			t.Errorf("%s is not older than %s: %v", a, b, err)
		}
	}
}

// testFiles is a directory as scripts/packaging/make lays it, with a script in brink's place.
func testFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"brink", "copyright", "brink.openrc", "brink-agent.openrc", "brink-pods.openrc", "brink.service", "brink-agent.service", "brink-pods.service", "preinst", "postinst", "prerm", "postrm"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho "+name+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestSameBytes makes all packages twice, of files that were written at different times.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	one, other := packagesAt(t, time.Now()), packagesAt(t, time.Unix(1e8, 0))
	for _, name := range []string{"brink_1.36.3+brink.1_armhf.deb", "brink-1.36.3+brink.1-1.armv7hl.rpm", "brink_1.36.3_p1-r0_armv7.apk"} {
		a, errA := os.ReadFile(filepath.Join(one, name))
		b, errB := os.ReadFile(filepath.Join(other, name))
		if err := errors.Join(errA, errB); err != nil {
			t.Error(err)
		} else if !bytes.Equal(a, b) {
			t.Errorf("the same files give another %s", name)
		}
	}
}

func packagesAt(t *testing.T, written time.Time) (dir string) {
	t.Helper()
	o := options{version: inOrder[2], arch: "arm", files: testFiles(t), out: t.TempDir(), contact: "a <a@b.org>", url: "https://b.org", seconds: 1e9}
	names, _ := filepath.Glob(filepath.Join(o.files, "*"))
	for _, name := range names {
		if err := os.Chtimes(name, written, written); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"deb", "rpm", "apk"} {
		if err := o.make(format); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
	}
	return o.out
}

// TestDeb reads a package with dpkg.
func TestDeb(t *testing.T) {
	t.Parallel()
	o := options{version: inOrder[2], arch: "arm64", files: testFiles(t), out: t.TempDir(), contact: "a <a@b.org>", seconds: 1e9, quick: true}
	if err := o.make("deb"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.out, "brink_1.36.3+brink.1_arm64.deb")
	out, err := exec.Command("sh", "-c", "dpkg-deb -I "+path+" && dpkg-deb -c "+path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"Architecture: arm64", "Recommends: nftables", "preinst", "postinst", "prerm", "postrm",
		"-rwxr-xr-x root/root", "./usr/bin/brink", "./usr/lib/systemd/system/brink-agent.service", "./usr/lib/systemd/system/brink-pods.service", "./usr/share/doc/brink/copyright"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in it:\n%s", want, out)
		}
	}
}
