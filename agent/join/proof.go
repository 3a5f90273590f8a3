package join

import (
	"crypto/tls"
	"net/http"
	"sync"

	"brink/internal/wire/nodekey"
	"brink/internal/wire/noderights"
)

// prover proves with the node password that the node's certificate is this machine's.
// The proof goes with each request: a server whose database was restored knows nothing
// of a certificate that was signed since, and accepts it because of the proof.
type prover struct {
	certs    *store
	password string // where the node password is

	mu    sync.Mutex
	of    *tls.Certificate // the certificate that proof is for
	proof string           // "" when there is no node password
}

// current returns the proof for the present certificate. It signs once for each.
func (p *prover) current() string {
	cert, err := p.certs.Current()
	if err != nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of != cert {
		p.of, p.proof = cert, ""
		if key, err := nodekey.Read(p.password); err == nil { // else Machine warns
			p.proof = key.ProveCertificate(cert.Leaf.Raw)
		}
	}
	return p.proof
}

// add returns the request with the proof; it leaves the given one as it is.
func (p *prover) add(req *http.Request) *http.Request {
	proof := p.current()
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

// Proof returns the proof that this node's certificate is this machine's, for
// noderights.Proof, or "" when there is none.
func (j *Join) Proof() string { return j.prover.current() }
