package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/lifecycle"
	"brink/internal/wire/jointoken"
)

// authority is the cluster's server CA.
type authority struct {
	bundle []byte // PEM
	hash   string
	pool   *x509.CertPool // nil when there is none
}

func newAuthority(bundle []byte) (authority, error) {
	hash, err := jointoken.HashCA(bundle)
	if err != nil {
		return authority{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	return authority{bundle: bundle, hash: hash, pool: pool}, nil
}

func readAuthority(path string) (authority, error) {
	bundle, err := os.ReadFile(path)
	if err != nil {
		return authority{}, err
	}
	a, err := newAuthority(bundle)
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w: delete it and give a token to join again", path, err)
	}
	return a, nil
}

func (a authority) write(path string) error {
	return atomicfile.Keep(path, a.bundle, 0o600)
}

// maxAnswer bounds what is read from a server that is not trusted yet, in bytes.
const maxAnswer = 1 << 20

// maxSkew is how much this machine's clock may differ from the server's without a warning:
// certificates and tokens are valid from one time to another.
const maxSkew = 5 * time.Minute

// fetchAuthority asks the server for its CA, and believes the answer only when
// it has the token's hash.
func (j *Join) fetchAuthority(ctx context.Context) (authority, error) {
	// The answer is verified below, by the hash. TLS cannot be: this asks for its CA.
	client := j.client(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	defer client.CloseIdleConnections()
	resp, err := get(ctx, client, j.url(jointoken.CAPath), "")
	if err != nil {
		return authority{}, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return authority{}, fmt.Errorf("%s answers %s", j.cfg.Server, resp.Status)
	case resp.StatusCode != http.StatusOK:
		return authority{}, j.notBrink("it answers " + resp.Status)
	}
	bundle, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return authority{}, err
	}
	a, err := newAuthority(bundle)
	if err != nil {
		return authority{}, j.notBrink("its answer is no certificate")
	}
	if want := j.cfg.Token.CAHash; a.hash != want {
		return authority{}, permanentf("the server at %s is not the token's: its CA has the hash %s, the token wants %s; check --server, or make a token there with brink token create",
			j.cfg.Server, a.hash, want)
	}
	if reason := j.clockProblem(ctx, a, resp.Header.Get("Date")); reason != "" {
		return authority{}, permanentf("%s", reason)
	}
	return a, nil
}

// clockProblem returns what is wrong with this machine's clock, as far as the server's
// CA and clock show, or "" when nothing is that matters.
func (j *Join) clockProblem(ctx context.Context, a authority, serverDate string) string {
	now := time.Now()
	there, err := http.ParseTime(serverDate)
	if err != nil {
		there = time.Time{}
	}
	for block, rest := pem.Decode(a.bundle); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err == nil && (now.Before(cert.NotBefore) || now.After(cert.NotAfter)) {
			return clockText(now, there, cert)
		}
	}
	if skew := now.Sub(there); !there.IsZero() && skew.Abs() > maxSkew {
		lifecycle.Logger(ctx).Warn("this machine's clock differs from the server's: set it, or let NTP do it",
			"here", now.UTC().Format(time.DateTime), "server", there.UTC().Format(time.DateTime))
	}
	return ""
}

func clockText(now, there time.Time, cert *x509.Certificate) string {
	server := ""
	if !there.IsZero() {
		server = fmt.Sprintf(", that of the server %s", there.UTC().Format(time.DateTime))
	}
	return fmt.Sprintf("this machine's clock shows %s UTC%s, and the server's certificate is valid from %s to %s: set the clock, or let NTP do it",
		now.UTC().Format(time.DateTime), server, cert.NotBefore.UTC().Format(time.DateOnly), cert.NotAfter.UTC().Format(time.DateOnly))
}

func (j *Join) notBrink(why string) error {
	return permanentf("%s is not a brink server: %s; check --server", j.cfg.Server, why)
}

func (j *Join) url(path string) string { return "https://" + j.cfg.Server + path }

// client returns an HTTP client of the server that was given.
func (j *Join) client(config *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext:           j.dialGiven,
		TLSClientConfig:       config,
		ResponseHeaderTimeout: 10 * time.Second,
		// A redirect is not followed: the server that was given has to answer itself.
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func get(ctx context.Context, client *http.Client, url, bearer string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	return client.Do(req)
}
