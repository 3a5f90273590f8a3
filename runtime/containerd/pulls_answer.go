package containerd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"
)

// listen returns a context for requests to registries, and a function that reports whether
// one of them was answered. The CRI's error does not say so: with several mirrors it is
// that of the first, and another may have denied the image. A certificate that is refused
// is an answer too, by somebody else than the registry.
func listen(ctx context.Context) (context.Context, func() bool) {
	var heard atomic.Bool
	trace := &httptrace.ClientTrace{
		GotFirstResponseByte: func() { heard.Store(true) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if isRefusal(err) {
				heard.Store(true)
			}
		},
	}
	return httptrace.WithClientTrace(ctx, trace), heard.Load
}

// isRefusal reports whether a handshake failed by what the other side said, and not because
// the connection did.
func isRefusal(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var remote *net.OpError
	switch {
	case errors.As(err, &certificate), errors.As(err, &alert), errors.As(err, &record):
		return true
	case errors.As(err, &remote):
		return remote.Op == "remote error" // an alert that was received
	}
	return false
}
