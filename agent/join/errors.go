package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"brink/internal/lifecycle"
	"brink/internal/once"
)

// permanent is an error that does not get better by itself.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func permanentf(format string, args ...any) error { return permanent{fmt.Errorf(format, args...)} }

// explain turns errors of TLS and HTTP into permanent ones about the server. An error
// that it returns unchanged may be temporary.
func (j *Join) explain(err error) error {
	var (
		record    tls.RecordHeaderError
		invalid   x509.CertificateInvalidError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
	)
	switch {
	case err == nil, errors.As(err, &permanent{}):
		return err
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return j.notBrink("it does not speak TLS")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return permanentf("%s", clockText(time.Now(), time.Time{}, invalid.Cert))
	case errors.As(err, &authority), errors.As(err, &hostname):
		return j.notBrink("its certificate is not one of its cluster's")
	}
	return err
}

// brief returns the text of err without what differs between attempts with the same
// outcome, such as the local port and the URL.
func brief(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return fmt.Sprintf("%s %s: %v", op.Op, op.Addr, op.Err)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		if dns.IsNotFound {
			return fmt.Sprintf("nobody knows the host %s: is the name right?", dns.Name)
		}
		return fmt.Sprintf("the address of host %s cannot be looked up: is there a network, and does DNS work?", dns.Name)
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Sprintf("the server's certificate is valid from %s to %s, and this machine's clock says otherwise: set it, or let NTP do it",
			invalid.Cert.NotBefore.UTC().Format(time.DateOnly), invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// retry calls f until it succeeds, fails for good, or ctx ends. It logs each new reason
// once.
func retry(ctx context.Context, what string, f func(context.Context) error) error {
	pause := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Cap: 10 * time.Second, Steps: math.MaxInt32}
	var logged once.Reporter
	return pause.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := f(ctx)
		switch {
		case err == nil:
			return true, nil
		case ctx.Err() != nil:
			return false, ctx.Err()
		case errors.As(err, &permanent{}):
			return false, err
		case errors.Is(err, errRefused):
			return false, nil // which tellRefused has logged
		}
		if reason := brief(err); logged.Changed(what, reason) {
			lifecycle.Logger(ctx).Warn(what+" does not work yet, retrying", "error", reason)
		}
		return false, nil
	})
}

func warn(err error) { slog.Warn(brief(err), "component", component) }
