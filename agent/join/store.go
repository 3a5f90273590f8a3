package join

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/util/certificate"

	"brink/internal/atomicfile"
	"brink/internal/wire/nodeuser"
)

var errNoCertificate = errors.New("no certificate")

// store is the file with the node's certificate, its chain and its key.
type store struct {
	path    string
	name    string // of the node
	changed func() // called after each Update

	mu      sync.Mutex
	current *tls.Certificate // nil when there is none
}

var _ certificate.Store = (*store)(nil)

// openStore reads the file. A damaged one counts as missing, because the machine can
// join again. One that cannot be read is an error.
func openStore(path, nodeName string) (*store, error) {
	s := &store{path: path, name: nodeName, changed: func() {}}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the node's certificate: %w", err)
	}
	if cert, err := parsePair(text, text); err == nil {
		s.current = cert
	}
	return s, nil
}

func parsePair(cert, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	return &pair, err
}

// usable returns nil when the certificate can be shown to a server at that time.
func (s *store) usable(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return errNoCertificate
	}
	leaf := s.current.Leaf
	if want := nodeuser.Name(s.name); leaf.Subject.CommonName != want {
		return fmt.Errorf("this machine's certificate is that of %s, not %s", leaf.Subject.CommonName, want)
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("this machine's certificate has expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil
}

// Current implements certificate.Store.
func (s *store) Current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		err := certificate.NoCertKeyError("the node has no certificate")
		return nil, &err
	}
	return s.current, nil
}

// Update implements certificate.Store.
func (s *store) Update(cert, key []byte) (*tls.Certificate, error) {
	pair, err := parsePair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("the certificate that the servers have signed: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the node's certificate: %w", err)
	}
	if err := atomicfile.Write(s.path, bytes.Join([][]byte{certificates(cert), key}, nil), 0o600); err != nil {
		return nil, fmt.Errorf("writing the node's certificate: %w", err)
	}
	s.mu.Lock()
	s.current = pair
	s.mu.Unlock()
	s.changed()
	return pair, nil
}

// certificates returns the PEM certificates in text without what a signer may have
// written between them.
func certificates(text []byte) (out []byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return out
}
