package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"brink/e2e/machine"
)

// TestStartDiesWithReason: the embedded kubelet ends the process by itself when
// it cannot listen. Whoever started brink must still be told why.
func TestStartDiesWithReason(t *testing.T) {
	const elsewhere = "192.0.2.99" // of no machine, RFC 5737
	n := prepareNode(t, "  - address="+elsewhere)
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.Exited:
	case <-time.After(patience):
		t.Fatalf("brink runs with a kubelet that cannot listen\n%s", n.LogTail())
	}
	if code := n.Cmd.ProcessState.ExitCode(); code <= 0 {
		t.Errorf("brink ended with %v", n.Cmd.ProcessState)
	}
	stderr := machine.Tail(n.LogFile("err", n.Starts), 64<<10)
	if err := errors.Join(contains(stderr, elsewhere), contains(stderr, "cannot assign requested address")); err != nil {
		t.Error(err)
	}
	if strings.Contains(stderr, "goroutine ") {
		t.Errorf("a stack trace instead of a reason:\n%s", stderr)
	}
}

// closedWebhook refuses everything, because nothing serves it.
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

// closedFor is longer than anything that a start waits for.
const closedFor = 70 * time.Second

// TestClosedWebhook: with a webhook that fails closed on everything no node can
// report that it is Ready. But brink must go on, so that the webhook can be
// deleted, and pods must not notice.
func TestClosedWebhook(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	before := ns.lives()
	ns.kubectlFor(closedWebhook, "apply", "-f", "-")
	ns.eventually("everything to be refused", func() error {
		r := ns.kubectlResult("", "create", "configmap", "probe-"+machine.RandomID())
		return contains(r.Stderr, "failed calling webhook")
	})
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(closedFor)
	ns.kubectl("delete", "validatingwebhookconfiguration", "closed")
	err := n.Await("a Ready node", func() error { return n.Says("out", "node "+n.ID+" is Ready") })
	if err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the pod's life", ns.lives()["box"], before["box"])
	ns.eventually("objects to be taken again", func() error { return n.create("after") })
}

// TestDeletedNode: a kubelet registers its node once, when it starts. Who deletes
// the node of a brink that runs is told what brings it back.
func TestDeletedNode(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.kubectl("delete", "node", n.ID)
	ns.eventually("brink status to say what to do", func() error {
		r, err := n.Status()
		if err != nil {
			return err
		}
		if r.Code == 0 {
			return errors.New(r.String())
		}
		return errors.Join(contains(r.Stdout, n.ID), contains(r.Stdout, "restart"))
	})
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the node's Ready condition", n.readiness(), "Ready")
}
