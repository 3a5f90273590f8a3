package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"brink/internal/wire/jointoken"
)

// serverToken is that of a server that has made its CA.
func serverToken(t *testing.T) ServerToken {
	t.Helper()
	dir := t.TempDir()
	s := ServerToken{File: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.crt"), Server: "hub"}
	newCA(t, s.CAFile)
	return s
}

func newCA(t *testing.T, path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s ServerToken) tokenFile(t *testing.T) jointoken.Token {
	t.Helper()
	path := s.File
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	token, err := jointoken.Parse(string(text))
	if err != nil || string(text) != token.Text()+"\n" {
		t.Errorf("the file is not one line with a token: %q, %v", text, err)
	}
	return token
}

// agrees keeps the token and checks that the file and the Secret are the same.
func (s ServerToken) agrees(t *testing.T, client *fake.Clientset) jointoken.Token {
	t.Helper()
	if err := s.Sync(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	file := s.tokenFile(t)
	secret, found, err := s.fromCluster(t.Context(), client)
	if err != nil || !found || secret.Bootstrap() != file.Bootstrap() {
		t.Errorf("the Secret's is another one: %v %v %v, the file's is %v", secret, found, err, file)
	}
	if tokens, err := List(t.Context(), client); err != nil || len(tokens) != 1 {
		t.Errorf("there are tokens %v, %v, want one", tokens, err)
	}
	if hash, err := CAHash(s.CAFile); err != nil || hash != file.CAHash {
		t.Errorf("the hash is %s, want %s, %v", file.CAHash, hash, err)
	}
	return file
}

func TestServerToken(t *testing.T) {
	t.Parallel()
	s, client := serverToken(t), fake.NewClientset()
	path := s.File
	first := s.agrees(t, client)
	if again := s.agrees(t, client); again != first {
		t.Errorf("a restart changes %v to %v", first, again)
	}
	if restored := s.agrees(t, fake.NewClientset()); restored != first {
		t.Errorf("another datastore changes %v to %v", first, restored)
	}
	for _, damage := range []string{"", "brink1.", "hello"} {
		if err := os.WriteFile(path, []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		if mended := s.agrees(t, client); mended != first {
			t.Errorf("damage %q changes %v to %v", damage, first, mended)
		}
	}
	newCA(t, s.CAFile)
	if other := s.agrees(t, client); other.CAHash == first.CAHash || other.Bootstrap() != first.Bootstrap() {
		t.Errorf("with another CA %v becomes %v", first, other)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := s.agrees(t, client)
	if second.ID == first.ID || second.Secret == first.Secret {
		t.Error("removing the file makes no new token")
	}
	// Damaged, and nothing to recover it from.
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := s.agrees(t, fake.NewClientset()); third.ID == second.ID {
		t.Error("a lost token came back")
	}
}

func TestServerTokenLeavesNoPieces(t *testing.T) {
	t.Parallel()
	s := serverToken(t)
	piece := filepath.Join(filepath.Dir(s.File), ".token.123")
	if err := os.WriteFile(piece, []byte("brink1."), 0o600); err != nil {
		t.Fatal(err)
	}
	s.agrees(t, fake.NewClientset())
	if _, err := os.Stat(piece); err == nil {
		t.Error("half a token lies around")
	}
}
