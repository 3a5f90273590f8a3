package nodekey

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOnlyTheMachineProvesItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "node-password")
	key, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	request := []byte("request")
	public, err := Verify(key.Prove(request), request)
	if err != nil {
		t.Fatal(err)
	}
	if public != key.Public() {
		t.Errorf("the proof is of %s, the key of %s", public, key.Public())
	}
	again, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Load(path + "2")
	if err != nil {
		t.Fatal(err)
	}
	if same, err := Verify(again.Prove(request), request); err != nil || !same.Is(public) {
		t.Errorf("after a restart the machine is another one: %v", err)
	}
	if thief, err := Verify(other.Prove(request), request); err != nil || thief.Is(public) {
		t.Errorf("another machine passes for it: %v", err)
	}
	if _, err := Verify(key.Prove(request), []byte("another request")); err == nil {
		t.Error("a proof is good for another request")
	}
	if same, err := VerifyCertificate(key.ProveCertificate(request), request); err != nil || !same.Is(public) {
		t.Errorf("a certificate: %q, %v", same, err)
	}
	if _, err := VerifyCertificate(key.Prove(request), request); err == nil {
		t.Error("a proof for a request is one for a certificate")
	}
	if _, err := Verify(key.ProveCertificate(request), request); err == nil {
		t.Error("a proof for a certificate is one for a request")
	}
	stolen, _ := base64.StdEncoding.DecodeString(other.Prove(request))
	own, _ := base64.StdEncoding.DecodeString(key.Prove(request))
	copy(stolen, own[:32])
	for _, proof := range []string{"", "x", "AAAA", base64.StdEncoding.EncodeToString(stolen)} {
		if who, err := Verify(proof, request); err == nil {
			t.Errorf("Verify(%q) = %s", proof, who)
		}
	}
}

func TestThePasswordIsPrivateAndNotReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "node-password")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading what there is not: %v", err)
	}
	made, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := Read(path); err != nil || !read.Public().Is(made.Public()) {
		t.Errorf("what was made is not what is read: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("0a0b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged password: %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "0a0b" {
		t.Errorf("a damaged password was replaced by %s", text)
	}
}
