package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/kubeapiserver/options"
	"k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
)

// joinRequestsPlugin is the name of the admission plugin of joinRequests.
const joinRequestsPlugin = "BrinkJoinRequests"

const (
	// maxUndecided is how many requests of one token may wait for a decision, which takes
	// milliseconds. maxRequests is how many there may be at all, and so how many machines
	// can join by one token in an hour: upstream's csrcleaner removes requests an hour
	// after the decision.
	maxUndecided = 50
	maxRequests  = 1000
	// tryAgainAfter is for the header Retry-After, in seconds.
	tryAgainAfter = 10
)

// joinRequests is the admission plugin that bounds how many certificate requests a join
// token makes. Tokens may make nothing else, but they are handed around, and each request
// is stored.
type joinRequests struct {
	*admission.Handler
	requests certificateslisters.CertificateSigningRequestLister
}

var (
	_ admission.ValidationInterface                = &joinRequests{}
	_ initializer.WantsExternalKubeInformerFactory = &joinRequests{}
)

func useJoinRequests(opts *options.AdmissionOptions) {
	addPlugin(opts, joinRequestsPlugin, subjectrestriction.PluginName, func() admission.Interface {
		return &joinRequests{Handler: admission.NewHandler(admission.Create)}
	})
}

// SetExternalKubeInformerFactory implements
// initializer.WantsExternalKubeInformerFactory.
func (p *joinRequests) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	p.requests = f.Certificates().V1().CertificateSigningRequests().Lister()
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *joinRequests) ValidateInitialization() error {
	if p.requests == nil {
		return errors.New("there is no informer of certificate requests")
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (p *joinRequests) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certificates.Resource("certificatesigningrequests") || a.GetSubresource() != "" {
		return nil
	}
	user := a.GetUserInfo().GetName()
	id, isToken := strings.CutPrefix(user, bootstrapapi.BootstrapUserPrefix)
	if !isToken {
		return nil
	}
	all, err := p.requests.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	total, undecided := count(all, user)
	if total < maxRequests && undecided < maxUndecided {
		return nil
	}
	return apierrors.NewTooManyRequests(fmt.Sprintf("the token with the id %s has made too many certificate requests, %d in the last hour of which %d are undecided: use several tokens, or wait", id, total, undecided), tryAgainAfter)
}

func count(all []*certificatesv1.CertificateSigningRequest, user string) (total, undecided int) {
	for _, csr := range all {
		if csr.Spec.Username != user {
			continue
		}
		total++
		if len(csr.Status.Conditions) == 0 {
			undecided++
		}
	}
	return total, undecided
}
