package release

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrNoKey is returned by a binary that was built without a key: nothing can be verified.
var ErrNoKey = errors.New("this brink was built without a key: signatures cannot be checked")

// HasKey reports whether this binary can check signatures.
func HasKey() bool { return publicKeys != "" }

// VerifySums returns an error unless signature, the content of SignatureFile, is one of sums,
// the content of SumsFile, by a key that this binary has.
func VerifySums(sums, signature []byte) error { return verify(publicKeys, sums, signature) }

func verify(encodedKeys string, sums, signature []byte) error {
	if encodedKeys == "" {
		return ErrNoKey
	}
	if len(signature) != ed25519.SignatureSize {
		return fmt.Errorf("%s has %d bytes, a signature has %d", SignatureFile, len(signature), ed25519.SignatureSize)
	}
	for encoded := range strings.SplitSeq(encodedKeys, ",") {
		key, err := parseKey(encoded)
		if err != nil {
			return fmt.Errorf("the key in this brink: %w", err)
		}
		if ed25519.Verify(key, sums, signature) {
			return nil
		}
	}
	return fmt.Errorf("%s is not signed by the key of this brink", SumsFile)
}

func parseKey(encoded string) (ed25519.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	if ed25519Key, ok := key.(ed25519.PublicKey); ok {
		return ed25519Key, nil
	}
	return nil, fmt.Errorf("it is %T, not Ed25519", key)
}
