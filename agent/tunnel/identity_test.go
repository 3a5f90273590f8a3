package tunnel

import (
	"crypto/tls"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"

	"brink/internal/testwait"
	"brink/internal/wire/tunnelwire"
	server "brink/server/tunnel"
)

// TestCertificateRotates: each dial uses the certificate of its time.
func TestCertificateRotates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	first := ca.serve("127.0.0.1:0")
	var cert atomic.Pointer[tls.Certificate]
	use := func(c tls.Certificate) { cert.Store(&c) }
	use(ca.node("a"))
	run(t, Config{
		TLS:     func() (*tls.Config, error) { return ca.config(*cert.Load())() },
		Kubelet: target(t, echo),
	}, first.addr)
	testwait.Until(t, "the tunnel", func() bool { return first.Has("a") })
	use(ca.node("a"))
	first.stop()
	second := ca.serve(first.addr)
	testwait.Until(t, "the return", func() bool { return second.Has("a") })
	if got, want := second.seen.Load(), cert.Load().Leaf.SerialNumber.Int64(); got != want {
		t.Errorf("the server sees certificate %d, want %d", got, want)
	}
}

// TestName: a tunnel is that of the node whose certificate it was made with.
func TestName(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	tests := []struct {
		name string
		cert tls.Certificate
		want string
	}{
		{"not a node", ca.client("admin", "system:masters"), `403 Forbidden: only nodes have tunnels, and "admin" is not a node`},
		{"a node's name without its group", ca.client("system:node:a", "system:authenticated"), `403 Forbidden: only nodes have tunnels, and "system:node:a" is not a node`},
		{"a node's group without a name", ca.client("system:node:", user.NodesGroup), `403 Forbidden: only nodes have tunnels, and "system:node:" is not a node`},
		{"someone else's certificate", stranger.node("a"), "certificate"},
		{"no certificate", tls.Certificate{}, "401 Unauthorized: who are you"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := ca.serve("127.0.0.1:0")
			config := func() (*tls.Config, error) {
				c := &tls.Config{RootCAs: ca.pool()}
				if tt.cert.Leaf != nil {
					// GetClientCertificate sends it whoever is asked for.
					c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.cert, nil }
				}
				return c, nil
			}
			tunnels := run(t, Config{TLS: config, Kubelet: target(t, echo), timing: hasty}, s.addr)
			testwait.Until(t, "the refusal", func() bool { return strings.Contains(tunnels.Status()[0].Error, tt.want) })
			if s.Has("a") || s.Has("") {
				t.Error("has a tunnel")
			}
		})
	}
	t.Run("another node's name", func(t *testing.T) {
		t.Parallel()
		s := ca.serve("127.0.0.1:0")
		run(t, Config{TLS: ca.config(ca.node("b")), Kubelet: target(t, echo)}, s.addr)
		testwait.Until(t, "the tunnel", func() bool { return s.Has("b") })
		if _, err := s.Dial(t.Context(), "a", "tcp", tunnelwire.Kubelet); !errors.Is(err, server.ErrNoTunnel) {
			t.Errorf("node a is reached: %v", err)
		}
	})
}

// TestServerIsVerified: no tunnel to someone who only has the address.
func TestServerIsVerified(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	s := stranger.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), timing: hasty}, s.addr)
	testwait.Until(t, "the refusal", func() bool { return strings.Contains(tunnels.Status()[0].Error, "certificate") })
}
