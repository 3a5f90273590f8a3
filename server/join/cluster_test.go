package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/server/token"
)

// cluster is client-go's fake, taught what the controller relies on and the fake
// leaves out: uids, creation times, conflicts and preconditions. Tests of it run in a
// synctest bubble.
type cluster struct {
	*fake.Clientset
	t       *testing.T
	tokens  *token.StatusHandler
	sources map[string][]netip.Addr // of tunnels, by node; set before start
	mu      sync.Mutex
	version int
	before  func(*Controller) // called before it runs; nil for nothing
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{Clientset: fake.NewClientset(), t: t, tokens: &token.StatusHandler{}}
	c.PrependReactor("create", "*", c.create)
	c.PrependReactor("update", "*", c.update)
	c.PrependReactor("delete", "*", c.delete)
	return c
}

// nextVersion is a resource version, and makes uids too.
func (c *cluster) nextVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	return strconv.Itoa(c.version)
}

func (c *cluster) create(a clienttesting.Action) (bool, runtime.Object, error) {
	object, err := meta.Accessor(a.(clienttesting.CreateAction).GetObject())
	if err != nil {
		return true, nil, err
	}
	version := c.nextVersion()
	object.SetUID(types.UID("uid-" + version))
	object.SetResourceVersion(version)
	object.SetCreationTimestamp(metav1.NewTime(time.Now()))
	return false, nil, nil
}

func (c *cluster) current(a clienttesting.Action, name string) (metav1.Object, error) {
	object, err := c.Tracker().Get(a.GetResource(), a.GetNamespace(), name)
	if err != nil {
		return nil, err
	}
	return meta.Accessor(object)
}

func (c *cluster) update(a clienttesting.Action) (bool, runtime.Object, error) {
	object, err := meta.Accessor(a.(clienttesting.UpdateAction).GetObject())
	if err != nil {
		return true, nil, err
	}
	has, err := c.current(a, object.GetName())
	if err != nil {
		return true, nil, err
	}
	if has.GetResourceVersion() != object.GetResourceVersion() {
		return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), object.GetName(), fmt.Errorf("it is at %s", has.GetResourceVersion()))
	}
	object.SetResourceVersion(c.nextVersion())
	return false, nil, nil
}

func (c *cluster) delete(a clienttesting.Action) (bool, runtime.Object, error) {
	deletion := a.(clienttesting.DeleteActionImpl)
	has, err := c.current(a, deletion.Name)
	if err != nil {
		return true, nil, err
	}
	want := deletion.DeleteOptions.Preconditions
	if want == nil || *want.UID == has.GetUID() && *want.ResourceVersion == has.GetResourceVersion() {
		return false, nil, nil
	}
	return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), deletion.Name, fmt.Errorf("it is at %s", has.GetResourceVersion()))
}

// start runs a controller until the test ends.
func (c *cluster) start() *Controller {
	c.t.Helper()
	joining := token.NewSecret(jointoken.Token{ID: "abcdef", Secret: "abcdef0123456789"}, 0, "") // of all machines
	if err := c.Tracker().Add(joining); err != nil {
		c.t.Fatal(err)
	}
	controller := New(Config{Client: c, Informers: informers.NewSharedInformerFactory(c, 0), OwnNode: "own", TokenStatus: c.tokens,
		Sources: func(node string) []netip.Addr { return c.sources[node] }})
	if c.before != nil {
		c.before(controller)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- controller.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("the controller ended: %v", err)
		}
	})
	return controller
}

// eventually is for what the controller does by itself. It waits longer than a controller
// that is patient, by the bubble's clock.
func (c *cluster) eventually(what string, is func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(2 * patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %s", what, 2*patience)
		}
	}
}

func (c *cluster) addNode(name string, addresses ...string) {
	c.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
	if _, err := c.CoreV1().Nodes().Create(c.t.Context(), node, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) removeNode(name string) {
	c.t.Helper()
	if err := c.CoreV1().Nodes().Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// record is nil when there is none.
func (c *cluster) record(name string) *corev1.Secret {
	c.t.Helper()
	s, err := c.CoreV1().Secrets(namespace).Get(c.t.Context(), name+recordSuffix, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// isBound waits until the record of a node knows the node.
func (c *cluster) isBound(name string) {
	c.t.Helper()
	node, err := c.CoreV1().Nodes().Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the record of "+name+" knows its node", func() bool {
		r := c.record(name)
		return r != nil && r.Annotations[nodeUID] == string(node.UID)
	})
}

// asked puts a request to the controller and returns its answer.
func (c *cluster) asked(csr *certificatesv1.CertificateSigningRequest) certificatesv1.CertificateSigningRequestCondition {
	c.t.Helper()
	csrs := c.CertificatesV1().CertificateSigningRequests()
	csr.Name = "csr-" + c.nextVersion()
	if _, err := csrs.Create(c.t.Context(), csr, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	var answer certificatesv1.CertificateSigningRequestCondition
	c.eventually("an answer to "+csr.Name, func() bool {
		has, err := csrs.Get(c.t.Context(), csr.Name, metav1.GetOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		if len(has.Status.Conditions) == 0 {
			return false
		}
		answer = has.Status.Conditions[0]
		return true
	})
	return answer
}

func (c *cluster) isApproved(answer certificatesv1.CertificateSigningRequestCondition) {
	c.t.Helper()
	if answer.Type != certificatesv1.CertificateApproved {
		c.t.Errorf("%s, %s: %s; want an approval", answer.Type, answer.Reason, answer.Message)
	}
}

func (c *cluster) isRefused(answer certificatesv1.CertificateSigningRequestCondition, reason, message string) {
	c.t.Helper()
	if answer.Type != certificatesv1.CertificateDenied || answer.Reason != reason || answer.Message != message {
		c.t.Errorf("%s, %s: %s\nwant a refusal, %s: %s", answer.Type, answer.Reason, answer.Message, reason, message)
	}
}

// machine is one that wants to be a node.
type machine struct {
	t   *testing.T
	key nodekey.Key
}

func newMachine(t *testing.T) machine {
	t.Helper()
	key, err := nodekey.Load(filepath.Join(t.TempDir(), "node-password"))
	if err != nil {
		t.Fatal(err)
	}
	return machine{t, key}
}

// signed is a request in DER for what template asks for, by a new key.
func signed(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func inPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func subject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

// joining is the request with which an agent joins.
func (m machine) joining(node string) *certificatesv1.CertificateSigningRequest {
	return m.joiningAs(x509.CertificateRequest{Subject: subject(node)})
}

func (m machine) joiningAs(template x509.CertificateRequest) *certificatesv1.CertificateSigningRequest {
	der := signed(m.t, template)
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{nodekey.Annotation: m.key.Prove(der)}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    inPEM(der),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			Username:   "system:bootstrap:abcdef",
			Groups:     []string{"system:bootstrappers", "system:authenticated", token.Group},
		},
	}
}

// serving is the request with which a kubelet asks for a serving certificate.
func serving(t *testing.T, node string, addresses ...string) *certificatesv1.CertificateSigningRequest {
	template := x509.CertificateRequest{Subject: subject(node), DNSNames: []string{node}}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	return servingAs(t, template, node)
}

func servingAs(t *testing.T, template x509.CertificateRequest, requester string) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    inPEM(signed(t, template)),
			SignerName: certificatesv1.KubeletServingSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth},
			Username:   "system:node:" + requester,
			Groups:     []string{"system:nodes", "system:authenticated"},
		},
	}
}
