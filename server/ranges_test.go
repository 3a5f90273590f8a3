package server

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"brink/datastore"
	"brink/internal/commas"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/testaddr"
)

func TestCompareRanges(t *testing.T) {
	t.Parallel()
	const v4, other, v6 = "10.43.0.0/16", "10.44.0.0/16", "fd43::/112"
	for _, tc := range []struct {
		has, wanted []netip.Prefix
		ok          bool
	}{
		{testaddr.Prefixes(v4), testaddr.Prefixes(v4), true},
		{testaddr.Prefixes(v4), testaddr.Prefixes(v4, v6), true}, // upstream adds a family
		{testaddr.Prefixes(v4, v6), testaddr.Prefixes(v4, v6), true},
		{testaddr.Prefixes(v4), testaddr.Prefixes(other), false},
		{testaddr.Prefixes(v4), testaddr.Prefixes("10.43.0.0/17"), false},
		{testaddr.Prefixes(v4, v6), testaddr.Prefixes(v4), false},
		{testaddr.Prefixes(v4, v6), testaddr.Prefixes(v6, v4), false},
		{testaddr.Prefixes(v4), testaddr.Prefixes(v6, v4), false},
	} {
		err := compareRanges(tc.has, tc.wanted)
		if (err == nil) != tc.ok {
			t.Errorf("the cluster has %v, the flags say %v: %v", tc.has, tc.wanted, err)
		}
		if err != nil && (!strings.Contains(err.Error(), commas.Join(tc.has)) || !strings.Contains(err.Error(), "--service-cidr="+commas.Join(tc.wanted)+": ")) {
			t.Errorf("%v does not name both", err)
		}
	}
}

// stored is an object as the API server writes it.
func encoded(t *testing.T, mediaType string, cidrs ...string) []byte {
	t.Helper()
	object := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		t.Fatal("no serializer for", mediaType)
	}
	out, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, networkingv1.SchemeGroupVersion), object)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestServiceRanges(t *testing.T) {
	t.Parallel()
	for _, mediaType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		got, known := serviceRanges(encoded(t, mediaType, "10.43.0.0/16", "fd43::/112"))
		if !known || commas.Join(got) != "10.43.0.0/16,fd43::/112" {
			t.Errorf("%s: got %v", mediaType, got)
		}
	}
	for _, value := range []string{"", "k8s:enc:aescbc:v1:key:xyz", "k8s\x00garbage", "{", `{"apiVersion":"v1","kind":"Secret"}`} {
		if got, known := serviceRanges([]byte(value)); known {
			t.Errorf("%q: got %v", value, got)
		}
	}
}

// TestRangesOfTheDatastore asks a real one.
func TestRangesOfTheDatastore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := datastore.New(datastore.Config{Dir: filepath.Join(dir, "db"), SocketDir: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Prepare(); err != nil {
		t.Fatal(err)
	}
	group := &lifecycle.Group{}
	group.Add(store.Durable())
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- group.Run(ctx, func() { close(ready) }) }()
	defer func() {
		cancel()
		<-ended
	}()
	<-ready
	s := &Server{store: store, cfg: Config{Layout: layout.New(dir), ServiceCIDRs: testaddr.Prefixes("10.44.0.0/16")}}
	same := &Server{store: store, cfg: s.cfg}
	same.cfg.ServiceCIDRs = testaddr.Prefixes("10.43.0.0/16")
	if err := s.checkRanges(ctx); err != nil {
		t.Errorf("a new cluster: %v", err)
	}
	client, err := s.storeClient()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put(t, client, "/registry/servicecidrs/kubernetes", encoded(t, runtime.ContentTypeProtobuf, "10.43.0.0/16"))
	if err := s.checkRanges(ctx); err == nil || !strings.Contains(err.Error(), "10.43.0.0/16") {
		t.Errorf("other ranges than the cluster's: %v", err)
	}
	if err := same.checkRanges(ctx); err != nil {
		t.Errorf("the cluster's own range: %v", err)
	}
}

// put creates a key in the one way that the datastore takes.
func put(t *testing.T, client *clientv3.Client, key string, value []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	is := clientv3.Compare(clientv3.ModRevision(key), "=", 0)
	if answer, err := client.Txn(ctx).If(is).Then(clientv3.OpPut(key, string(value))).Commit(); err != nil || !answer.Succeeded {
		t.Fatal(err)
	}
}
