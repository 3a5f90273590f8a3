package join

import (
	"crypto/tls"
	"net/http"
	"sync"

	"brink/internal/wire/nodekey"
	"brink/internal/wire/noderights"
)

// prover says by the node password that the node's certificate is this machine's. It
// goes with each request: a server whose database was restored knows nothing of a
// certificate that was signed since, and takes it by this.
type prover struct {
	certs    *store
	password string // where the node password is

	mu    sync.Mutex
	of    *tls.Certificate
	proof string // for it, "" when there is no node password
}

// now is the proof for the certificate of now. Signing is done once for each.
func (p *prover) now() string {
	cert, err := p.certs.Current()
	if err != nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of != cert {
		p.of, p.proof = cert, ""
		if key, err := nodekey.Read(p.password); err == nil { // else Machine tells
			p.proof = key.ProveCertificate(cert.Leaf.Raw)
		}
	}
	return p.proof
}

// add returns the request with the proof; it leaves the given one as it is.
func (p *prover) add(req *http.Request) *http.Request {
	proof := p.now()
	if proof == "" {
		return req
	}
	out := req.WithContext(req.Context())
	out.Header = req.Header.Clone()
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header.Set(noderights.Proof, proof)
	return out
}

// Proof is that this node's certificate is this machine's, for noderights.Proof; ""
// when there is none.
func (j *Join) Proof() string { return j.prover.now() }
