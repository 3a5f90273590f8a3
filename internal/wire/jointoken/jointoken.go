// Package jointoken has the form of join tokens, which a machine is given to join a cluster:
//
//	brink1.<hash>.<id>.<secret>
//
// By the hash the machine recognises the cluster before it trusts anything: SHA-256, in 64
// hexadecimal digits, over the DER of all certificates of the server's CA bundle in file
// order. For the usual bundle of one certificate that is its fingerprint, as
// `openssl x509 -fingerprint -sha256` prints it. By id.secret the cluster recognises the
// machine: it is a Kubernetes bootstrap token (6 and 16 characters of a-z and 0-9), which
// the API server itself checks.
//
// Decision: there is no short form without a hash. A machine that joined without one would
// trust whatever answers at the address.
package jointoken

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const prefix = "brink1"

// Lengths are Kubernetes' (k8s.io/cluster-bootstrap/token/api).
const (
	idLength     = 6
	secretLength = 16
	alphabet     = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var (
	hashForm   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	idForm     = regexp.MustCompile(`^[a-z0-9]{6}$`)
	secretForm = regexp.MustCompile(`^[a-z0-9]{16}$`)
)

// Token is a join token in its parts.
type Token struct {
	CAHash string // 64 hexadecimal digits
	ID     string // public, tells tokens apart
	Secret string
}

// New returns a token of random id and secret for the cluster with this CA hash.
func New(caHash string) Token {
	return Token{CAHash: caHash, ID: random(idLength), Secret: random(secretLength)}
}

func random(length int) string {
	out := make([]byte, 0, length)
	for buf := make([]byte, 1); len(out) < length; {
		_, _ = rand.Read(buf) // never fails
		// Bytes above the largest multiple would favour the first characters.
		if limit := 256 - 256%len(alphabet); int(buf[0]) < limit {
			out = append(out, alphabet[int(buf[0])%len(alphabet)])
		}
	}
	return string(out)
}

// Text returns the token as it is given to a machine. It is a secret.
func (t Token) Text() string { return strings.Join([]string{prefix, t.CAHash, t.ID, t.Secret}, ".") }

// Bootstrap returns the bearer token for the API server. It is a secret.
func (t Token) Bootstrap() string { return t.ID + "." + t.Secret }

// String returns the token without its secret, for logs.
func (t Token) String() string { return prefix + ".(hash)." + t.ID + ".(secret)" }

// GoString keeps the secret out of %#v too.
func (t Token) GoString() string { return t.String() }

// Parse reads a token. Its errors say what is wrong and never show the secret.
func Parse(text string) (Token, error) {
	text = strings.TrimSpace(text)
	parts := strings.Split(text, ".")
	switch {
	case text == "":
		return Token{}, errors.New("the token is empty")
	case strings.HasPrefix(text, "K10"):
		return Token{}, errors.New("this is a token of k3s; one of brink begins with brink1: get it with brink token create")
	case len(parts) == 2 && idForm.MatchString(parts[0]):
		return Token{}, errors.New("this is only the last half of a token, without the hash of the cluster's CA: give all of brink1.HASH.ID.SECRET")
	case parts[0] != prefix:
		return Token{}, errors.New("this is not a token of brink, which has the form brink1.HASH.ID.SECRET")
	case len(parts) != 4:
		return Token{}, fmt.Errorf("the token has %d parts instead of the 4 of brink1.HASH.ID.SECRET: was it cut off?", len(parts))
	}
	t := Token{CAHash: parts[1], ID: parts[2], Secret: parts[3]}
	return t, t.check()
}

func (t Token) check() error {
	switch {
	case !hashForm.MatchString(t.CAHash):
		return fmt.Errorf("the token's hash has %d characters instead of 64 hexadecimal digits: was it cut off?", len(t.CAHash))
	case !idForm.MatchString(t.ID):
		return fmt.Errorf("the token's id %q is not 6 characters of a-z and 0-9", t.ID)
	case !secretForm.MatchString(t.Secret):
		return fmt.Errorf("the token's secret has %d characters instead of 16 of a-z and 0-9: was it cut off?", len(t.Secret))
	}
	return nil
}

// IsID reports whether s has the form of a token's id.
func IsID(s string) bool { return idForm.MatchString(s) }

// IsBootstrap reports whether s has the form of a bootstrap token, id.secret.
func IsBootstrap(s string) bool {
	id, secret, ok := strings.Cut(s, ".")
	return ok && idForm.MatchString(id) && secretForm.MatchString(secret)
}

// HashCA returns the hash of a CA bundle in PEM.
func HashCA(bundle []byte) (string, error) {
	sum := sha256.New()
	found := 0
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("reading the CA bundle: %w", err)
		}
		sum.Write(block.Bytes)
		found++
	}
	if found == 0 {
		return "", errors.New("the CA bundle contains no certificate in PEM form")
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
