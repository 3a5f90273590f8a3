package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"brink/internal/atomicfile"
)

// filePerm is the mode of keys and of certificates: only root needs the directory, and one
// mode is easier to check than two.
const filePerm = 0o600

func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: not a certificate: %w", path, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s: contains no certificate in PEM form", path)
	}
	return certs, nil
}

func writeCertificates(path string, certs ...*x509.Certificate) error {
	var data []byte
	for _, cert := range certs {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return atomicfile.Write(path, data, filePerm)
}

// readKey returns the first private key in path, and makes the file readable by its owner
// only: users copy their own keys with any mode.
func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		key, err := parseKey(block)
		if err != nil {
			return nil, fmt.Errorf("%s: not a private key: %w", path, err)
		}
		if key != nil {
			return key, closeToOthers(path)
		}
	}
	return nil, fmt.Errorf("%s: contains no private key in PEM form", path)
}

// parseKey returns nil for a block that is not a key, such as the EC PARAMETERS that openssl
// writes before a key.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return nil, nil
}

func closeToOthers(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	slog.Info("private key was open to others, now only to its owner",
		"component", ComponentName, "file", path, "mode", info.Mode().Perm())
	return os.Chmod(path, filePerm)
}

// makeKey writes a new P-256 key in the SEC 1 form ("EC PRIVATE KEY") that
// k8s.io/client-go/util/keyutil reads.
func makeKey(path string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return key, atomicfile.Write(path, data, filePerm)
}

// sign issues a certificate for key, as template says.
func sign(template, issuer *x509.Certificate, key crypto.Signer, issuerKey crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func belongsTo(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key.Public())
}

func isMissing(err error) bool { return errors.Is(err, os.ErrNotExist) }
