package install

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"brink/internal/release"
)

// shell runs a script on this machine, in a directory.
func shell(t *testing.T, dir, script string, env ...string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// TestRelease makes a release of this machine's architecture, quickly packed and signed by
// a key of the test, and takes it as others do: by sha256sum, openssl, ssh-keygen, by the
// package that brink upgrade downloads with, and from the archive.
func TestRelease(t *testing.T) {
	t.Parallel()
	const version = "v1.36.3+brink.1"
	arch, dir := runtime.GOARCH, t.TempDir()
	key, dist := filepath.Join(dir, "key.pem"), filepath.Join(dir, "dist")
	shell(t, "../..", "scripts/release-key", "KEY="+key)
	shell(t, "../..", "scripts/release", "KEY="+key, "DIST="+dist, "ARCHS="+arch, "QUICK=1", "VERSION="+version,
		"BASE_URL=https://example.org/brink", "CONTACT=A B <a@example.org>")

	made := filepath.Join(dist, version)
	shell(t, made, "sha256sum --ignore-missing --strict -c SHA256SUMS")
	shell(t, made, `echo "-----BEGIN PUBLIC KEY-----
$(sed -n "s/^PUBLIC_KEY='\(.*\)'/\1/p" install.sh)
-----END PUBLIC KEY-----" >`+dir+`/public
openssl pkeyutl -verify -pubin -inkey `+dir+`/public -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig
echo "brink $(sed -n "s/^SSH_PUBLIC_KEY='\(.*\)'/\1/p" install.sh)" >`+dir+`/signers
ssh-keygen -Y verify -f `+dir+`/signers -I brink -n brink -s SHA256SUMS.sshsig <SHA256SUMS
grep -q "^BASE_URL='https://example.org/brink'" install.sh
cmp install.sh ../install.sh`)

	program := downloaded(t, dist, arch)
	told := shell(t, dir, program+" version")
	if !strings.HasPrefix(told, "brink") || !strings.Contains(told, " "+version+"\n") {
		t.Errorf("the binary says\n%s", told)
	}
	shell(t, dir, "tar -xf dist/"+version+"/"+release.AirgapFile(arch)+`
cd `+release.AirgapDirectory(arch, parsedVersion(t, version))+`
sha256sum --ignore-missing --strict -c SHA256SUMS
cmp <(gunzip -c brink-linux-`+arch+`.gz) `+program+`
[ -s SHA256SUMS.sig ] && [ -x install.sh ] && [ -d images ] && [ "$(cat VERSION)" = `+version+` ]`)

	// A version is published once.
	again := exec.Command("../../scripts/release")
	again.Env = append(os.Environ(), "DIST="+dist, "VERSION="+version, "ARCHS="+arch)
	if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "a version is published once") {
		t.Errorf("the same version again: %v\n%s", err, out)
	}
}

func parsedVersion(t *testing.T, s string) release.Version {
	t.Helper()
	v, err := release.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// downloaded fetches the binary from a web server, as an installed brink does.
func downloaded(t *testing.T, dist, arch string) (path string) {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(dist)))
	defer server.Close()
	site, err := release.NewSite(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := release.Downloader{Client: server.Client(), Site: site}
	ctx := context.Background()
	v, err := d.Resolve(ctx, "stable")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := d.Sums(ctx, v)
	if sums == nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "brink")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.Binary(ctx, v, arch, sums, f); err != nil {
		t.Fatal(err)
	}
	return path
}
