package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"brink/e2e/machine"
)

func TestCustomResources(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "crd.yaml"))
	crd := "turbines." + ns.name + ".e2e.local"
	t.Cleanup(func() { _, _ = ns.tryKubectl("delete", "crd", crd) })
	ns.kubectl("wait", "crd/"+crd, "--for=condition=Established", "--timeout=170s")

	ns.eventually("the resource to be served", func() error {
		r := ns.kubectlResult(ns.turbine("good", "{blades: 3}"), "apply", "-f", "-")
		if r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	table := strings.Fields(ns.kubectl("get", "tb"+ns.name, "good"))
	if len(table) < 4 || table[1] != "BLADES" || table[3] != "3" {
		t.Errorf("kubectl get shows %q, want a column BLADES with 3", table)
	}
	ns.mustEqual("the default", ns.kubectl("get", crd, "good", "-o", "jsonpath={.spec.height}"), "80")
	for _, tc := range []struct{ spec, reason string }{
		{"{blades: 1}", "should be greater than or equal to 2"},
		{"{blades: three}", "must be of type integer"},
		{"{height: 3}", "spec.blades: Required value"},
		{"{blades: 12}", "many blades need a tall tower"},
	} {
		r := ns.kubectlResult(ns.turbine("bad", tc.spec), "create", "--validate=false", "-f", "-")
		if r.Code == 0 {
			t.Errorf("spec %s was accepted", tc.spec)
		}
		ns.mustContain(r.Stderr, tc.reason)
	}
}

func (ns *namespace) turbine(name, spec string) string {
	return fmt.Sprintf("apiVersion: %s.e2e.local/v1\nkind: Turbine\nmetadata: {name: %s}\nspec: %s\n", ns.name, name, spec)
}

// TestWebhook: the API server asks a pod through its Service.
func TestWebhook(t *testing.T) {
	sharedNamespace(t).calls(testdata(t, "webhook.yaml"))
}

const webhookByProxy = `
apiVersion: v1
kind: Pod
metadata: {name: hook, labels: {app: hook}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "e2e.local/server:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: hook}
spec: {selector: {app: hook}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: $NS}
webhooks:
- name: refuse.e2e.local
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  clientConfig:
    caBundle: $CA
    service: {namespace: default, name: kubernetes, path: /api/v1/namespaces/$NS/services/hook/proxy/validate}
  namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: $NS}
  rules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
`

// TestWebhookByTheAPIServer: one that is named by the API server's own Service and a
// path there, with its bundle of CAs, as those are that aggregated servers bring.
func TestWebhookByTheAPIServer(t *testing.T) {
	ns := sharedNamespace(t)
	ca, err := os.ReadFile(ns.node.tls().ServerCA())
	if err != nil {
		t.Fatal(err)
	}
	ns.apply(strings.ReplaceAll(webhookByProxy, "$CA", base64.StdEncoding.EncodeToString(ca)))
	t.Cleanup(func() { _, _ = ns.tryKubectl("delete", "validatingwebhookconfiguration", ns.name) })
	ns.readyPod("hook")
	ns.eventually("the webhook to let something through", func() error {
		_, err := ns.tryKubectl("create", "configmap", "probe-"+machine.RandomID())
		return err
	})
	ns.eventually("the webhook to refuse", func() error {
		r := ns.kubectlResult(labelled("refused-"+machine.RandomID(), "refuse"), "create", "-f", "-")
		return contains(r.Stderr, "the e2e webhook refuses this object")
	})
}

// calls checks that the API server asks a webhook in a pod, and refuses what it
// cannot ask about.
func (ns *namespace) calls(webhook string) {
	t := ns.T
	t.Helper()
	cert, key := newCertificate(t, "webhook."+ns.name+".svc")
	ns.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: webhook-tls}\ndata: {tls.crt: %s, tls.key: %s}\n", cert, key))
	ns.apply(strings.ReplaceAll(webhook, "$CA", cert))
	t.Cleanup(func() { _, _ = ns.tryKubectl("delete", "validatingwebhookconfiguration", ns.name) })
	ns.readyPod("webhook")

	ns.eventually("the webhook to refuse", func() error {
		r := ns.kubectlResult("", "create", "configmap", "probe-"+machine.RandomID())
		if r.Code != 0 { // not reachable yet: fails closed
			return errors.New(r.Stderr)
		}
		r = ns.kubectlResult(labelled("refused-"+machine.RandomID(), "refuse"), "create", "-f", "-")
		if !strings.Contains(r.Stderr, "the e2e webhook refuses this object") {
			return errors.New(r.String())
		}
		return nil
	})
	ns.kubectlFor(labelled("welcome", "other"), "create", "-f", "-")
	ns.kubectl("delete", "pod", "webhook")
	ns.eventually("a dead webhook to fail closed", func() error {
		r := ns.kubectlResult(labelled("late-"+machine.RandomID(), "other"), "create", "-f", "-")
		if !strings.Contains(r.Stderr, "failed calling webhook") {
			return errors.New(r.String())
		}
		return nil
	})
}

func labelled(name, label string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, labels: {e2e: %s}}\n", name, label)
}

// newCertificate is a self-signed server certificate and its key, PEM in base64.
func newCertificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", certDER), encode("PRIVATE KEY", keyDER)
}

func TestServerSideApply(t *testing.T) {
	ns := sharedNamespace(t)
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {%s}\n"
	apply := func(manager, data string, more ...string) machine.Result {
		args := append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", "-"}, more...)
		return ns.kubectlResult(fmt.Sprintf(manifest, data), args...)
	}
	ns.mustEqual("exit code of the first apply", apply("alice", "a: one, b: one").Code, 0)
	ns.mustEqual("exit code of another field's", apply("bob", "c: one").Code, 0)
	conflict := apply("bob", "a: two, c: one")
	if conflict.Code == 0 {
		t.Error("bob took alice's field without force")
	}
	ns.mustContain(conflict.Stderr, "conflict with \"alice\"", ".data.a")
	ns.mustEqual("exit code with force", apply("bob", "a: two, c: one", "--force-conflicts").Code, 0)
	// What alice no longer applies and only she had is removed; bob's stays.
	ns.mustEqual("exit code of alice's last", apply("alice", "").Code, 0)
	ns.mustEqual("the data", ns.kubectl("get", "configmap", "shared", "-o", "jsonpath={.data}"), `{"a":"two","c":"one"}`)
}

// TestWatchResumption: a watch from an old version tells all that was missed, in
// order and once.
func TestWatchResumption(t *testing.T) {
	ns := sharedNamespace(t)
	maps := ns.client.CoreV1().ConfigMaps(ns.name)
	list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "e2e=watched"})
	if err != nil {
		t.Fatal(err)
	}
	change := func(step int) {
		ns.kubectlFor(labelled(fmt.Sprintf("w%d", step), "watched"), "create", "-f", "-")
		ns.kubectl("annotate", "configmap", fmt.Sprintf("w%d", step), "e2e=x")
		ns.kubectl("delete", "configmap", fmt.Sprintf("w%d", step))
	}
	change(1)
	first := ns.watchMaps(list.ResourceVersion, 3)
	ns.mustEqual("the first watch", describe(first), "ADDED w1, MODIFIED w1, DELETED w1")
	change(2)
	change(3)
	// From the middle of what the first watch saw.
	resumed := ns.watchMaps(first[1].Object.(*corev1.ConfigMap).ResourceVersion, 7)
	ns.mustEqual("the resumed watch", describe(resumed),
		"DELETED w1, ADDED w2, MODIFIED w2, DELETED w2, ADDED w3, MODIFIED w3, DELETED w3")
}

// watchMaps collects n events after a resource version.
func (ns *namespace) watchMaps(version string, n int) []watch.Event {
	ns.Helper()
	w, err := ns.client.CoreV1().ConfigMaps(ns.name).Watch(ns.Context(),
		metav1.ListOptions{ResourceVersion: version, LabelSelector: "e2e=watched"})
	if err != nil {
		ns.Fatal(err)
	}
	defer w.Stop()
	var events []watch.Event
	timeout := time.After(patience)
	for len(events) < n {
		select {
		case e, open := <-w.ResultChan():
			if !open || e.Type == watch.Error {
				ns.Fatalf("the watch ended after %s: %v", describe(events), e.Object)
			}
			events = append(events, e)
		case <-timeout:
			ns.Fatalf("%d events came, want %d: %s", len(events), n, describe(events))
		}
	}
	return events
}

func describe(events []watch.Event) string {
	var words []string
	for _, e := range events {
		words = append(words, string(e.Type)+" "+e.Object.(*corev1.ConfigMap).Name)
	}
	return strings.Join(words, ", ")
}

func TestGarbageCollection(t *testing.T) {
	ns := sharedNamespace(t)
	ns.kubectl("create", "configmap", "parent")
	parent, err := ns.client.CoreV1().ConfigMaps(ns.name).Get(t.Context(), "parent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	child := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: child\n  ownerReferences:\n  - {apiVersion: v1, kind: ConfigMap, name: parent, uid: %s}\n"
	ns.apply(fmt.Sprintf(child, parent.UID))
	ns.apply(strings.ReplaceAll(fmt.Sprintf(child, "00000000-0000-4000-8000-000000000000"), "name: child", "name: stray"))
	ns.gone("configmap", "stray") // its owner never existed
	ns.kubectl("get", "configmap", "child")
	ns.kubectl("delete", "configmap", "parent")
	ns.gone("configmap", "child")

	ns.apply(testdata(t, "web.yaml"))
	ns.readyPods("app=web", 2)
	ns.kubectl("delete", "deployment", "web", "--cascade=orphan")
	sets := ns.replicaSets("app=web")
	if len(sets) != 1 || len(ns.pods("app=web")) != 2 || metav1.GetControllerOf(&sets[0]) != nil {
		t.Errorf("after an orphaning delete there are %d ReplicaSets, want one without owner, and its pods", len(sets))
	}
	ns.kubectl("delete", "replicaset", sets[0].Name, "--cascade=foreground")
	ns.mustEqual("pods after a foreground delete", len(ns.pods("app=web")), 0)
}

// gone waits until an object is not found.
func (ns *namespace) gone(kind, name string) {
	ns.Helper()
	ns.kubectl("wait", "--for=delete", kind+"/"+name, "--timeout=170s")
}

const quotaManifest = `
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec:
  hard: {pods: 1, requests.cpu: 100m, configmaps: 3}
`

func TestResourceQuota(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(quotaManifest)
	ns.eventually("the quota to be counted", func() error {
		q, err := ns.client.CoreV1().ResourceQuotas(ns.name).Get(t.Context(), "small", metav1.GetOptions{})
		if err == nil && q.Status.Used == nil {
			err = errors.New("nothing is")
		}
		return err
	})
	refused := func(manifest, reason string) {
		t.Helper()
		r := ns.kubectlResult(ns.expand(manifest), "create", "-f", "-")
		if r.Code == 0 {
			t.Errorf("accepted over quota, want: %s", reason)
		}
		ns.mustContain(r.Stderr, reason)
	}
	small := "    resources: {requests: {cpu: 50m}}\n"
	refused(sleeper("none", ""), "must specify requests.cpu")
	refused(sleeper("much", "    resources: {requests: {cpu: 200m}}\n"), "exceeded quota: small")
	ns.apply(sleeper("one", small))
	refused(sleeper("two", small), "exceeded quota: small")
	ns.mustContain(ns.kubectl("describe", "quota", "small"), "50m")
	ns.kubectl("delete", "pod", "one")
	ns.eventually("room for another pod", func() error {
		_, err := ns.client.CoreV1().Pods(ns.name).Get(t.Context(), "two", metav1.GetOptions{})
		if err == nil {
			return nil
		}
		if r := ns.kubectlResult(sleeper("two", small), "create", "-f", "-"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
}

const budget = `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
`

func TestEviction(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	ns.apply(budget)
	pod := ns.readyPods("app=web", 2)[0]
	ns.allowedDisruptions(0)
	evict := func() error {
		return ns.client.PolicyV1().Evictions(ns.name).Evict(t.Context(),
			&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: ns.name}})
	}
	err := evict()
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "disruption budget") {
		t.Errorf("evicting one of two needed pods: %v, want 429 for the disruption budget", err)
	}
	ns.kubectl("scale", "deployment/web", "--replicas=3")
	ns.readyPods("app=web", 3)
	ns.allowedDisruptions(1)
	if err := evict(); err != nil {
		t.Errorf("evicting one of three pods: %v", err)
	}
	ns.gone("pod", pod.Name)
	ns.readyPods("app=web", 3)
}

func (ns *namespace) allowedDisruptions(n int32) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("%d allowed disruptions", n), func() error {
		b, err := ns.client.PolicyV1().PodDisruptionBudgets(ns.name).Get(ns.Context(), "web", metav1.GetOptions{})
		if err == nil && (b.Status.DisruptionsAllowed != n || b.Status.ObservedGeneration == 0 || b.Status.ExpectedPods < 2) {
			err = fmt.Errorf("the status is %+v", b.Status)
		}
		return err
	})
}
