package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/testerror"
	"brink/internal/testneed"
)

// signed is a key, a file that is signed by it, and what they verify with.
type signed struct{ dir, key, sums string }

func newSigned(t *testing.T) signed {
	t.Helper()
	dir := t.TempDir()
	s := signed{dir, filepath.Join(dir, "key.pem"), filepath.Join(dir, "SHA256SUMS")}
	if err := os.WriteFile(s.sums, []byte("sums\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.mustRun(t, "new", s.key)
	s.mustRun(t, s.key, s.sums)
	return s
}

func (s signed) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(&out, args); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

// verifies runs a tool on the signed file, and on it with one byte more.
func (s signed) verifies(t *testing.T, argv ...string) {
	t.Helper()
	tool := func() ([]byte, error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		var err error
		if cmd.Stdin, err = os.Open(s.sums); err != nil {
			t.Fatal(err)
		}
		return cmd.CombinedOutput()
	}
	if out, err := tool(); err != nil {
		t.Errorf("%s refuses: %v\n%s", argv[0], err, out)
	}
	if err := os.WriteFile(s.sums, []byte("sums\n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(); err == nil {
		t.Errorf("%s takes a changed file:\n%s", argv[0], out)
	}
}

func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	s := newSigned(t)
	public := filepath.Join(s.dir, "public.pem")
	pem := "-----BEGIN PUBLIC KEY-----\n" + s.mustRun(t, "public", s.key) + "\n-----END PUBLIC KEY-----\n"
	if err := os.WriteFile(public, []byte(pem), 0o644); err != nil {
		t.Fatal(err)
	}
	s.verifies(t, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", s.sums, "-sigfile", s.sums+".sig")
}

func TestSSHKeygenVerifies(t *testing.T) {
	t.Parallel()
	testneed.Program(t, "ssh-keygen")
	s := newSigned(t)
	allowed := filepath.Join(s.dir, "allowed")
	line := "brink namespaces=\"brink\" " + s.mustRun(t, "ssh-public", s.key) + "\n"
	if err := os.WriteFile(allowed, []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	s.verifies(t, "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "brink", "-n", namespace, "-s", s.sums+".sshsig")
}

// TestKeyOfOpenSSL: a key that openssl has made is one.
func TestKeyOfOpenSSL(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-out", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := readKey(key); err != nil {
		t.Error(err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	s := newSigned(t)
	info, err := os.Stat(s.key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has %v, %v", info, err)
	}
	testerror.OneLine(t, run(nil, []string{"new", s.key}), "file exists")
	if err := os.Chmod(s.key, 0o640); err != nil {
		t.Fatal(err)
	}
	testerror.OneLine(t, run(nil, []string{s.key, s.sums}), "can be read by others")
	testerror.OneLine(t, run(nil, nil), "usage: sign")
	testerror.OneLine(t, run(nil, []string{filepath.Join(s.dir, "none"), s.sums}), "no such file")
}
