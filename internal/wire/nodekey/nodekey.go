// Package nodekey proves that a machine is the one that a node's name belongs to. Each
// machine makes a node password once, 32 random bytes in a file, and the server keeps what
// it needs to check proofs.
//
// The password is the seed of an Ed25519 key and never leaves the machine. What leaves it
// is the public key and a signature over the certificate request by which the machine
// joins. So neither the server, nor whoever reads its database or watches the API, learns
// how to pass for the machine, and a proof is worthless for another request. A shared
// secret, of which k3s keeps a hash, would be handed over each time a machine joins.
package nodekey

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/atomicfile"
)

const (
	// Annotation of a CertificateSigningRequest that holds the proof.
	Annotation = "brink.io/node-key-proof"
	// NodeAnnotation of a Node has the public key of the machine that owns it. The node
	// itself writes it, with its certificate, for which the machine has proved its key. It
	// replaces the server's record where that was removed: when a Node was deleted and has
	// registered again.
	NodeAnnotation = "brink.io/node-key"
)

// The contexts keep a signature for one purpose from being valid for another.
const (
	context            = "brink node key proof v1\x00"
	certificateContext = "brink node certificate proof v1\x00"
)

// Key is the secret key of a machine.
type Key struct{ private ed25519.PrivateKey }

// Load reads the node password at path, or makes one.
func Load(path string) (Key, error) {
	key, err := Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path)
	}
	return key, err
}

// Read reads the node password of a machine that must have one. The error is fs.ErrNotExist
// when there is none.
func Read(path string) (Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading the node password: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("%s: not a node password of %d hexadecimal digits: restore it from a backup, or delete the file and, with kubectl delete node, the node",
			path, 2*ed25519.SeedSize)
	}
	return Key{ed25519.NewKeyFromSeed(seed)}, nil
}

func create(path string) (Key, error) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return Key{}, fmt.Errorf("making the node password: %w", err)
	}
	if err := atomicfile.Write(path, []byte(hex.EncodeToString(seed)+"\n"), 0o600); err != nil {
		return Key{}, fmt.Errorf("making the node password: %w", err)
	}
	return Key{ed25519.NewKeyFromSeed(seed)}, nil
}

// Prove returns a proof for a certificate request, DER of PKCS #10.
func (k Key) Prove(request []byte) string { return k.prove(context, request) }

// ProveCertificate returns a proof for a certificate, DER, that was signed for the machine.
// It is worthless without the certificate's own key.
func (k Key) ProveCertificate(der []byte) string { return k.prove(certificateContext, der) }

func (k Key) prove(context string, what []byte) string {
	public := k.private.Public().(ed25519.PublicKey)
	signature := ed25519.Sign(k.private, append([]byte(context), what...))
	return base64.StdEncoding.EncodeToString(append([]byte(public), signature...))
}

// Public returns the public key, by which others know the machine.
func (k Key) Public() Public {
	return Public(base64.StdEncoding.EncodeToString(k.private.Public().(ed25519.PublicKey)))
}

// Public identifies a machine: a key in base64.
type Public string

// Verify returns the machine that made proof, or an error if proof is not valid for request.
func Verify(proof string, request []byte) (Public, error) { return verify(proof, context, request) }

// VerifyCertificate is Verify for a proof that ProveCertificate made.
func VerifyCertificate(proof string, der []byte) (Public, error) {
	return verify(proof, certificateContext, der)
}

func verify(proof, context string, what []byte) (Public, error) {
	raw, err := base64.StdEncoding.DecodeString(proof)
	if err != nil || len(raw) != ed25519.PublicKeySize+ed25519.SignatureSize {
		return "", errors.New("the proof of the machine's node password is damaged")
	}
	public, signature := raw[:ed25519.PublicKeySize], raw[ed25519.PublicKeySize:]
	if !ed25519.Verify(public, append([]byte(context), what...), signature) {
		return "", errors.New("the proof of the machine's node password is not one for this request")
	}
	return Public(base64.StdEncoding.EncodeToString(public)), nil
}

// Is reports whether both are the same machine. It compares in constant time.
func (p Public) Is(other Public) bool {
	return subtle.ConstantTimeCompare([]byte(p), []byte(other)) == 1
}
