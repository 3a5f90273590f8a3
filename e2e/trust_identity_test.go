package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/server/pki"
)

// asKubelet is a client that acts as a node's kubelet: an administrator who acts for
// it, since the certificates of nodes count by their records only.
func (ns *namespace) asKubelet(node string) kubernetes.Interface {
	ns.Helper()
	config, err := ns.node.RestConfig()
	if err != nil {
		ns.Fatal(err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		ns.Fatal(err)
	}
	return client
}

// clientCertificate makes a certificate for a user and its key, both PEM.
func (n *node) clientCertificate(user pkix.Name) (cert, key []byte, err error) {
	ca, err := tls.LoadX509KeyPair(n.tls().ClientCA(), n.tls().Key(pki.ClientCA))
	if err != nil {
		return nil, nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	certDER, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: user,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.Leaf, private.Public(), ca.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), err
}

const secrets = `
apiVersion: v1
kind: Secret
metadata: {name: mounted}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
---
apiVersion: v1
kind: Pod
metadata: {name: holder}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: secret, secret: {secretName: mounted}}]
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
    volumeMounts: [{name: secret, mountPath: /secret}]
`

func TestKubeletIdentity(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(secrets)
	ns.readyPod("holder")
	own, stranger := ns.asKubelet(ns.node.ID), ns.asKubelet("stranger")
	secret := func(client kubernetes.Interface, name string) error {
		_, err := client.CoreV1().Secrets(ns.name).Get(t.Context(), name, metav1.GetOptions{})
		return err
	}
	if err := secret(own, "mounted"); err != nil {
		t.Errorf("a kubelet cannot read a secret of its own pod: %v", err)
	}
	label := []byte(`{"metadata":{"labels":{"e2e":"x"}}}`)
	_, patchErr := stranger.CoreV1().Nodes().Patch(t.Context(), ns.node.ID, types.StrategicMergePatchType, label, metav1.PatchOptions{})
	zero := int64(0)
	for what, err := range map[string]error{
		"a kubelet reads a secret that no pod of it has": secret(own, "other"),
		"a kubelet reads another node's secret":          secret(stranger, "mounted"),
		"a kubelet labels another node":                  patchErr,
		"a kubelet deletes another node's pod": stranger.CoreV1().Pods(ns.name).Delete(t.Context(), "holder",
			metav1.DeleteOptions{GracePeriodSeconds: &zero}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", what, err)
		}
	}
	ns.mirrorPodRefused(own)
	ns.claimsRefused(own, stranger)
}

// claimsRefused: a node cannot have itself the pods of others.
func (ns *namespace) claimsRefused(own, stranger kubernetes.Interface) {
	ns.Helper()
	thief := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "stranger"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.0.0/24", PodCIDRs: []string{"10.42.0.0/24"}}}
	_, rangeErr := stranger.CoreV1().Nodes().Create(ns.Context(), thief, metav1.CreateOptions{})
	service := []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"10.43.0.1"}]}}`)
	_, addressErr := own.CoreV1().Nodes().Patch(ns.Context(), ns.node.ID, types.MergePatchType, service, metav1.PatchOptions{}, "status")
	for want, err := range map[string]error{
		"may not choose the range of its pods": rangeErr,
		"may not claim the address 10.43.0.1":  addressErr,
	} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
			ns.Errorf("%v, want it forbidden with %q", err, want)
		}
	}
}

// mirrorPodRefused: NodeRestriction lets a kubelet make mirror pods only.
func (ns *namespace) mirrorPodRefused(own kubernetes.Interface) {
	ns.Helper()
	_, err := own.CoreV1().Pods(ns.name).Create(ns.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "smuggled"},
		Spec: corev1.PodSpec{NodeName: ns.node.ID,
			Containers: []corev1.Container{{Name: "main", Image: busybox1}}},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		ns.Errorf("a kubelet creates an ordinary pod: %v, want it forbidden", err)
	}
}

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`

// audited is a request as the API server's audit log has it.
type audited struct {
	Verb string
	User struct {
		Username string
		Groups   []string
	}
	ImpersonatedUser any
	ObjectRef        struct{ Resource, Namespace, Name, Subresource string }
	ResponseStatus   struct{ Code int }

	RequestReceivedTimestamp time.Time
}

// audits has the next start write an audit log, whose file it returns.
func (n *node) audits(t *testing.T) string {
	t.Helper()
	policy, log := filepath.Join(n.Dir, "policy.yaml"), filepath.Join(n.Dir, "audit.log")
	n.Config = append(n.Config, "kube-apiserver-arg:", "  - audit-policy-file="+policy, "  - audit-log-path="+log)
	if err := errors.Join(os.WriteFile(policy, []byte(auditPolicy), 0o644), n.WriteConfig()); err != nil {
		t.Fatal(err)
	}
	return log
}

// readAudit returns what is in an audit log, without a line that is being written.
func readAudit(log string) ([]audited, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var all []audited
	for in := json.NewDecoder(bufio.NewReader(f)); ; {
		var r audited
		if in.Decode(&r) != nil {
			return all, nil
		}
		all = append(all, r)
	}
}

// TestAuditedIdentities turns the audit log on, by a flag that is passed through,
// and looks who asks for what: nobody has another one's rights because all are
// one process.
func TestAuditedIdentities(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	log := n.audits(t)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.apply(testdata(t, "web.yaml"))
	ns.readyPods("app=web", 2)
	account := func(name string) string { return "system:serviceaccount:kube-system:" + name }
	for _, want := range []struct{ verb, resource, namespace, user string }{
		{"create", "nodes", "", "system:node:" + n.ID},
		{"patch", "nodes/status", "", "system:node:" + n.ID},
		{"update", "leases", "kube-node-lease", "system:node:" + n.ID},
		{"patch", "pods/status", ns.name, "system:node:" + n.ID},
		{"create", "pods/binding", ns.name, "system:kube-scheduler"},
		{"create", "replicasets", ns.name, account("deployment-controller")},
		{"create", "pods", ns.name, account("replicaset-controller")},
		{"create", "endpointslices", ns.name, account("endpointslice-controller")},
		{"watch", "endpointslices", "", "system:kube-proxy"},
		{"create", "deployments", ns.name, "system:admin"},
	} {
		what := fmt.Sprintf("%s of %s by %s in the audit log", want.verb, want.resource, want.user)
		ns.eventually(what, func() error { return asks(log, want.verb, want.resource, want.namespace, want.user) })
	}
}

// asks returns nil when the user, and nobody else, has made such a request with
// success.
func asks(log, verb, resource, namespace, user string) error {
	all, err := readAudit(log)
	if err != nil {
		return err
	}
	var has bool
	for _, r := range all {
		asked := r.ObjectRef.Resource
		if r.ObjectRef.Subresource != "" {
			asked += "/" + r.ObjectRef.Subresource
		}
		if r.Verb != verb || asked != resource || r.ObjectRef.Namespace != namespace || r.ResponseStatus.Code >= 300 {
			continue
		}
		has = has || r.User.Username == user
		if verb != "watch" && (r.User.Username != user || r.ImpersonatedUser != nil) {
			return fmt.Errorf("%s did so too, as %v", r.User.Username, r.ImpersonatedUser)
		}
	}
	if !has {
		return fmt.Errorf("there is no such request")
	}
	return nil
}
