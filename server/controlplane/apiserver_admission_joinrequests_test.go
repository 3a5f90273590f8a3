package controlplane

import (
	"fmt"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/apis/certificates"
)

// TestJoinRequestsAreBounded for each token by itself.
func TestJoinRequestsAreBounded(t *testing.T) {
	t.Parallel()
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	plugin := &joinRequests{requests: certificateslisters.NewCertificateSigningRequestLister(store)}
	add := func(by string, n int, isDecided bool) {
		for range n {
			csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(len(store.ListKeys()))}}
			csr.Spec.Username = by
			if isDecided {
				csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied}}
			}
			if err := store.Add(csr); err != nil {
				t.Fatal(err)
			}
		}
	}
	asks := func(by, subresource string) error {
		a := admission.NewAttributesRecord(&certificates.CertificateSigningRequest{}, nil, certificates.SchemeGroupVersion.WithKind("CertificateSigningRequest"), "", "x",
			certificates.SchemeGroupVersion.WithResource("certificatesigningrequests"), subresource, admission.Create, &metav1.CreateOptions{}, false, &user.DefaultInfo{Name: by})
		return plugin.Validate(t.Context(), a, nil)
	}
	const floods, waits, busy = "system:bootstrap:floods", "system:bootstrap:waits0", "system:bootstrap:busy00"
	add(floods, maxRequests, true)
	add(waits, maxUndecided, false)
	add(busy, maxRequests-1, true)
	add("system:node:n", 2*maxRequests, false)
	for by, want := range map[string]string{floods: "1000 in the last hour of which 0 are undecided", waits: "of which 50 are undecided", busy: "", "system:bootstrap:other0": "", "system:node:n": ""} {
		err := asks(by, "")
		if want == "" && err != nil || want != "" && (!apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", by, err, want)
		}
	}
	if err := asks(floods, "approval"); err != nil {
		t.Errorf("another subresource: %v", err)
	}
}
