package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestStartDiesWithReason: the embedded kubelet ends the process by itself when
// it cannot listen. Whoever started brink must still be told why.
func TestStartDiesWithReason(t *testing.T) {
	const elsewhere = "192.0.2.99" // of no machine, RFC 5737
	n := prepareNode(t, "  - address="+elsewhere)
	if err := n.launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.exited:
	case <-time.After(patience):
		t.Fatalf("brink runs with a kubelet that cannot listen\n%s", n.logTail())
	}
	if code := n.cmd.ProcessState.ExitCode(); code <= 0 {
		t.Errorf("brink ended with %v", n.cmd.ProcessState)
	}
	stderr := tail(n.logFile("err", n.starts), 64<<10)
	if err := errors.Join(contains(stderr, elsewhere), contains(stderr, "cannot assign requested address")); err != nil {
		t.Error(err)
	}
	if strings.Contains(stderr, "goroutine ") {
		t.Errorf("a stack trace instead of a reason:\n%s", stderr)
	}
}

// closedWebhook refuses everything, for nobody serves it.
const closedWebhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: closed}
webhooks:
- name: closed.e2e.local
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 5
  clientConfig: {service: {namespace: default, name: nobody, path: /}}
  rules:
  - {apiGroups: ["*"], apiVersions: ["*"], operations: ["*"], resources: ["*/*"]}
`

// TestClosedWebhook: a webhook that fails closed on everything, and whose pod
// needs the node, must not keep the node from coming back after a power cut.
func TestClosedWebhook(t *testing.T) {
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	before := ns.lives()
	ns.kubectlFor(closedWebhook, "apply", "-f", "-")
	ns.eventually("everything to be refused", func() error {
		r := ns.kubectlResult("", "create", "configmap", "probe-"+randomID())
		return contains(r.stderr, "failed calling webhook")
	})
	if err := n.kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	ns.client = n.client
	ns.mustEqual("the pod's life", ns.lives()["box"], before["box"])
	ns.kubectl("delete", "validatingwebhookconfiguration", "closed")
	ns.eventually("objects to be taken again", func() error { return n.create("after") })
}

// TestDeletedNode: a kubelet registers its node once, when it starts. Who deletes
// the node of a brink that runs is told what brings it back.
func TestDeletedNode(t *testing.T) {
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.kubectl("delete", "node", n.id)
	ns.eventually("brink status to say what to do", func() error {
		r, err := n.brink("status", "--data-dir", n.data)
		if err != nil {
			return err
		}
		if r.code == 0 {
			return errors.New(r.String())
		}
		return errors.Join(contains(r.stdout, n.id), contains(r.stdout, "restart"))
	})
	if err := errors.Join(n.stop(), n.start()); err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the node's Ready condition", n.readiness(), "Ready")
}
