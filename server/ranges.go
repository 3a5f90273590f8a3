package server

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"brink/internal/commas"
	"brink/internal/lifecycle"
	"brink/internal/once"
)

// runClusterRanges refuses a start with other Service ranges than the cluster has: its
// Services keep their addresses, and the certificate of the API server would name an
// address that nobody asks for. It asks the datastore, which also knows the ranges when
// the server is new, and does so before certificates are made by the flags. A second
// family may be added, as upstream allows.
func (s *Server) runClusterRanges(ctx context.Context, ready func()) error {
	if err := s.checkRanges(ctx); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

func (s *Server) checkRanges(ctx context.Context) error {
	value, err := s.stored(ctx, "servicecidrs/kubernetes")
	if err != nil {
		return err
	}
	has, known := serviceRanges(value)
	if !known {
		return nil
	}
	return compareRanges(has, s.cfg.ServiceCIDRs)
}

// compareRanges requires that the flags begin with the ranges that the cluster has.
func compareRanges(has, wanted []netip.Prefix) error {
	if len(wanted) >= len(has) && slices.Equal(wanted[:len(has)], has) {
		return nil
	}
	return fmt.Errorf("--service-cidr=%s: the Services of this cluster have addresses in %s, which cannot be changed: give that range", commas.Join(wanted), commas.Join(has))
}

// serviceRanges reads the stored object from which the API server takes the addresses of
// Services. Nothing is known of a new cluster, nor of one whose owner encrypts the object.
func serviceRanges(value []byte) ([]netip.Prefix, bool) {
	if len(value) == 0 || bytes.HasPrefix(value, []byte("k8s:enc:")) {
		return nil, false
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(value, nil, nil)
	cidr, ok := object.(*networkingv1.ServiceCIDR)
	if err != nil || !ok {
		return nil, false // the API server reports that
	}
	var out []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, false
		}
		out = append(out, prefix)
	}
	return out, len(out) > 0
}

// storePrefix begins all keys of the API server. Package cmd refuses the flag for another one.
const storePrefix = "/registry/"

// storePatience is how long one request to the datastore may take before a warning. A
// database across a network may start later than brink.
const storePatience = 10 * time.Second

// stored returns the value of a key below the API server's prefix, nil if there is none.
func (s *Server) stored(ctx context.Context, key string) ([]byte, error) {
	client, err := s.storeClient()
	if err != nil {
		return nil, fmt.Errorf("making a client of the datastore: %w", err)
	}
	defer client.Close()
	var failures once.Reporter
	for {
		value, err := ask(ctx, client, storePrefix+key)
		if err == nil || ctx.Err() != nil {
			return value, ctx.Err()
		}
		if failures.Changed(key, key) {
			lifecycle.Logger(ctx).Warn("the datastore does not answer, waiting", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func ask(ctx context.Context, client *clientv3.Client, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	answer, err := client.Get(ctx, key)
	if err != nil || len(answer.Kvs) == 0 {
		return nil, err
	}
	return answer.Kvs[0].Value, nil
}

func (s *Server) storeClient() (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: strings.Split(s.store.DurableEndpoint(), ","), Logger: zap.NewNop()}
	if etcd := s.cfg.etcd(); etcd != nil && etcd.CAFile+etcd.CertFile != "" {
		info := transport.TLSInfo{TrustedCAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile}
		var err error
		if cfg.TLS, err = info.ClientConfig(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(cfg)
}
