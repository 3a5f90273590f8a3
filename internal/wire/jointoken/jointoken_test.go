package jointoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

var hash = strings.Repeat("0a", 32)

func TestTokensSurviveTheirText(t *testing.T) {
	t.Parallel()
	for range 50 {
		token := New(hash)
		got, err := Parse("  " + token.Text() + "\n")
		if err != nil || got != token {
			t.Fatalf("Parse(%s) = %v, %v", token.Text(), got, err)
		}
		if other := New(hash); other.Secret == token.Secret || other.ID == token.ID && other.Secret == token.Secret {
			t.Fatalf("two tokens are alike: %s", other.Text())
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef"
	for text, want := range map[string]string{
		"":                             "empty",
		"hello":                        "not a token of brink",
		"K10abc::server:xyz":           "k3s",
		"abcdef." + secret:             "last half",
		"brink1." + hash + ".abcdef":   "3 parts",
		"brink1.0a0a.abcdef." + secret: "4 characters instead of 64",
		"brink1." + strings.ToUpper(hash) + ".abcdef." + secret: "64 hexadecimal",
		"brink1." + hash + ".ABCDEF." + secret:                  `id "ABCDEF"`,
		"brink1." + hash + ".abcdef." + secret[:10]:             "10 characters instead of 16",
		"brink2." + hash + ".abcdef." + secret:                  "not a token of brink",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want %q in it", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret[:10]) {
			t.Errorf("Parse(%q) shows the secret: %v", text, err)
		}
	}
}

func TestTokensAreNotPrintedByAccident(t *testing.T) {
	t.Parallel()
	token := New(hash)
	for _, text := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s", token, token, token, token)} {
		if strings.Contains(text, token.Secret) {
			t.Errorf("%s shows the secret", text)
		}
	}
}

func TestHashOfOneCertificateIsItsFingerprint(t *testing.T) {
	t.Parallel()
	one, two := certificate(t), certificate(t)
	sum := sha256.Sum256(one)
	got, err := HashCA(bundle(one))
	if err != nil || got != hex.EncodeToString(sum[:]) {
		t.Errorf("HashCA = %s, %v, want %x", got, err, sum)
	}
	both, _ := HashCA(bundle(one, two))
	swapped, _ := HashCA(bundle(two, one))
	if both == got || both == swapped {
		t.Error("a bundle with more certificates, or in another order, has the same hash")
	}
	for _, broken := range [][]byte{nil, []byte("<html>"), bundle([]byte("x"))} {
		if got, err := HashCA(broken); err == nil {
			t.Errorf("HashCA(%q) = %s without an error", broken, got)
		}
	}
}

func bundle(certs ...[]byte) (out []byte) {
	for _, der := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
