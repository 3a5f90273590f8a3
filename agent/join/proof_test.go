package join

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"brink/internal/wire/nodekey"
	"brink/internal/wire/noderights"
)

// TestProof: requests say whose the certificate of now is, and are not changed.
func TestProof(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certs, err := openStore(filepath.Join(dir, "node.pem"), "till")
	if err != nil {
		t.Fatal(err)
	}
	p := &prover{certs: certs, password: filepath.Join(dir, "node-password")}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://192.0.2.1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.add(req); got.Header.Get(noderights.Proof) != "" {
		t.Errorf("without a certificate it is %v", got.Header)
	}
	key, err := nodekey.Load(p.password)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is a renewed one
		cert, private := pair(t, "till", time.Now().Add(time.Hour))
		if _, err := certs.Update(cert, private); err != nil {
			t.Fatal(err)
		}
		current, err := certs.Current()
		if err != nil {
			t.Fatal(err)
		}
		machine, err := nodekey.VerifyCertificate(p.add(req).Header.Get(noderights.Proof), current.Leaf.Raw)
		if err != nil || !machine.Is(key.Public()) {
			t.Errorf("the proof is that of %q, %v", machine, err)
		}
		if req.Header.Get(noderights.Proof) != "" {
			t.Error("the request itself was changed")
		}
	}
	lost := &prover{certs: certs, password: filepath.Join(dir, "none")}
	if got := lost.current(); got != "" {
		t.Errorf("without a node password it is %q", got)
	}
}
