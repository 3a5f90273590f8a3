package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pendingBecause checks that a pod is Pending and that `kubectl describe` says why.
func (ns *namespace) pendingBecause(pod, reason string) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("kubectl describe of %s with %q", pod, reason), func() error {
		text := ns.kubectl("describe", "pod", pod)
		if !strings.Contains(text, "FailedScheduling") || !strings.Contains(text, reason) {
			return fmt.Errorf("it says:\n%s", text)
		}
		return nil
	})
	ns.mustEqual(pod+"'s phase", ns.pod(pod).Status.Phase, corev1.PodPending)
}

// TestPending has the reasons that a node without taints can give; a taint is in
// TestTaintedNode.
func TestPending(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(hostPortPod("holder", 28080))
	ns.readyPod("holder")
	for _, tc := range []struct{ pod, manifest, reason string }{
		{"cpu", sleeper("cpu", "    resources: {requests: {cpu: 1000}}\n"), "Insufficient cpu"},
		{"selector", sleeper("selector", "  nodeSelector: {disk: none}\n"), "didn't match Pod's node affinity/selector"},
		{"port", hostPortPod("port", 28080), "didn't have free ports for the requested pod ports"},
	} {
		ns.apply(tc.manifest)
		ns.pendingBecause(tc.pod, tc.reason)
	}
	ns.kubectl("delete", "pod", "holder")
	ns.readyPod("port")
}

func hostPortPod(name string, port int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/server:1
    ports: [{containerPort: 8080, hostPort: %d}]
`, name, name, port)
}

// TestCustomScheduler: nobody schedules a pod of another scheduler, and nobody
// complains about it either.
func TestCustomScheduler(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sleeper("mine", "  schedulerName: my-scheduler\n"))
	// The default scheduler has gone past it when it has placed later pods.
	for _, name := range []string{"later-1", "later-2"} {
		ns.apply(sleeper(name, ""))
		ns.readyPod(name)
	}
	mine := ns.pod("mine")
	ns.mustEqual("its phase", mine.Status.Phase, corev1.PodPending)
	ns.mustEqual("its node", mine.Spec.NodeName, "")
	ns.mustEqual("the number of its conditions", len(mine.Status.Conditions), 0)
	described := lines(ns.kubectl("describe", "pod", "mine"))
	ns.mustEqual("the end of its description", strings.Join(strings.Fields(described[len(described)-1]), " "), "Events: <none>")
}

const priorities = `
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: $NS-low}
value: 100
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: $NS-high}
value: 100000
`

// slots is a resource that only this test uses, so that preemption does not
// depend on what else the shared node runs.
const slots = "e2e.brink/slots"

func TestPreemption(t *testing.T) {
	ns := sharedNamespace(t)
	patch := `[{"op":"add","path":"/status/capacity/` + strings.ReplaceAll(slots, "/", "~1") + `","value":"1"}]`
	if _, err := ns.client.CoreV1().Nodes().Patch(t.Context(), ns.node.ID, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	ns.apply(priorities)
	t.Cleanup(func() {
		_, _ = ns.tryKubectl("delete", "priorityclass", ns.name+"-low", ns.name+"-high")
	})
	limit := "    resources: {limits: {" + slots + ": 1}}\n"
	ns.apply(sleeper("low", limit+"  priorityClassName: $NS-low\n"))
	ns.readyPod("low")
	ns.apply(sleeper("equal", limit+"  priorityClassName: $NS-low\n"))
	ns.pendingBecause("equal", "Insufficient "+slots)

	ns.apply(sleeper("high", limit+"  priorityClassName: $NS-high\n"))
	ns.readyPod("high")
	ns.event("low", "Preempted", "Preempted by")
	if pods := ns.pods("app=low"); len(pods) != 0 {
		t.Errorf("the pod of low priority still runs: %s", pods[0].Status.Phase)
	}
	ns.mustEqual("the priority of the pod that waits", *ns.pod("equal").Spec.Priority, int32(100))
}
