package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/e2e/machine"
)

// movers is a Deployment whose pods leave a lost node soon.
const movers = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: movers}
spec:
  replicas: 3
  selector: {matchLabels: {app: movers}}
  template:
    metadata: {labels: {app: movers}}
    spec:
      terminationGracePeriodSeconds: 1
` + hasty + `      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: movers}}}
      containers: [{name: server, image: e2e.local/server:1}]
---
apiVersion: v1
kind: Service
metadata: {name: movers}
spec:
  type: NodePort
  selector: {app: movers}
  ports: [{port: 80, targetPort: 8080}]
`

// hasty are the tolerations of a pod that does not wait long for its node.
const hasty = `      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
`

// ready waits for a node's Ready condition.
func (ns *namespace) nodeIs(n *node, want corev1.ConditionStatus) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("node %s with Ready=%s", n.ID, want), func() error {
		if c := machine.ReadyCondition(n.object(ns.T)); c.Status != want {
			return fmt.Errorf("it is %s: %s", c.Status, c.Message)
		}
		return nil
	})
}

// onOthers waits until all pods of a set are Ready and none on a node.
func (ns *namespace) onOthers(selector string, count int, n *node) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("%d pods of %s on other nodes than %s", count, selector, n.ID), func() error {
		ready := 0
		for _, pod := range ns.pods(selector) {
			if pod.Spec.NodeName != n.ID && podReady(&pod) && pod.DeletionTimestamp == nil {
				ready++
			}
		}
		if ready != count {
			return fmt.Errorf("there are %d", ready)
		}
		return nil
	})
}

// TestPartition: a node that nobody reaches, and that reaches nobody, for longer
// than its pods may wait.
func TestPartition(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2, "kube-controller-manager-arg: [node-monitor-grace-period=25s]")
	ns := newNamespace(t, c.server)
	ns.apply(movers)
	pods := ns.readyPods("app=movers", 3)
	lost := c.agents[0]
	if _, err := podOf(pods, lost); err != nil {
		lost = c.agents[1] // 3 pods are not all on the server
	}
	healed := false
	t.Cleanup(func() {
		if !healed {
			_ = lost.Heal()
		}
	})
	if err := lost.Isolate(); err != nil {
		t.Fatal(err)
	}
	ns.nodeIs(lost, corev1.ConditionUnknown)
	ns.eventually("the taint of a lost node", func() error { return lost.isUnreachable(t) })
	ns.onOthers("app=movers", 3, lost)
	if running := lost.containers(t); running == 0 {
		t.Error("the lost node has stopped its pods: it cannot know that they have moved")
	}
	begun := time.Now()
	healed = true
	if err := lost.Heal(); err != nil {
		t.Fatal(err)
	}
	ns.nodeIs(lost, corev1.ConditionTrue)
	t.Logf("Ready %v after the link is back", time.Since(begun).Round(time.Second))
	ns.eventually("the pods that have moved to end where they were", func() error {
		for _, pod := range ns.pods("app=movers") {
			if pod.Spec.NodeName == lost.ID {
				return fmt.Errorf("%s is still there", pod.Name)
			}
		}
		if n := lost.containers(t); n > 0 {
			return fmt.Errorf("%d containers run", n)
		}
		return nil
	})
}

// isUnreachable returns nil when the node has the taint of one that is lost.
func (n *node) isUnreachable(t *testing.T) error {
	t.Helper()
	taints := n.object(t).Spec.Taints
	for _, taint := range taints {
		if taint.Key == corev1.TaintNodeUnreachable && taint.Effect == corev1.TaintEffectNoExecute {
			return nil
		}
	}
	return fmt.Errorf("taints are %v", taints)
}

// containers counts those of the test server on the machine.
func (n *node) containers(t *testing.T) int {
	t.Helper()
	count := 0
	for _, pid := range n.Processes() {
		if strings.HasPrefix(machine.CommandLine(pid), "/server") {
			count++
		}
	}
	return count
}

// TestServerAway: agents work on while the server is killed, stopped and started,
// and so does an agent's pod while its brink is killed.
func TestServerAway(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	ns := newNamespace(t, c.server)
	before := ns.patientMovers(c.agents)
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	// The node that is asked has pods of the other agent behind its NodePort too.
	url := "http://" + c.agents[0].Addr.String() + ":" + ns.nodePort("movers", "") + "/hostname"
	ns.getFrom(sw.Netns(), url)
	asking := ask(sw.Netns(), url)
	t.Cleanup(asking.stop)
	for _, outage := range []struct {
		what string
		end  func() error
		last time.Duration
	}{
		{"killing", c.server.Kill, 15 * time.Second},
		{"stopping", c.server.Stop, 80 * time.Second}, // longer than a node may be silent
	} {
		if err := outage.end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(outage.last)
		if err := c.server.Start(); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for _, n := range c.agents {
			ns.eventually("a heartbeat of "+n.ID+" after "+outage.what+" the server", func() error { return n.beats(t, begun) })
		}
		t.Logf("agents are back %v after the server", time.Since(begun).Round(time.Second))
	}
	for _, n := range c.agents {
		n.tookItCalmly(t)
	}
	if err := errors.Join(c.agents[1].Kill(), c.agents[1].Start()); err != nil {
		t.Fatal(err)
	}
	if asked, failed := asking.end(); asked < 100 || len(failed) > 0 {
		t.Errorf("%d requests, of which failed:\n%s", asked, strings.Join(failed, "\n"))
	}
	ns.noneRestarted(before)
	ns.eventuallyExec(before[0].Name, "1", "cat", "/version") // the tunnels are back too
}

// noneRestarted checks that the movers are still the same pods and never restarted.
func (ns *namespace) noneRestarted(before []corev1.Pod) {
	ns.Helper()
	after := map[string]int32{}
	for _, pod := range ns.pods("app=movers") {
		after[pod.Name] = restarts(&pod)
	}
	for _, pod := range before {
		if count, ok := after[pod.Name]; !ok || count != 0 {
			ns.Errorf("%s: there %t, %d restarts", pod.Name, ok, count)
		}
	}
}

// patientMovers are three pods on the agents that wait for their nodes as long as the
// API server has them wait.
func (ns *namespace) patientMovers(agents []*node) []corev1.Pod {
	ns.Helper()
	patient := strings.Replace(movers, hasty, "", 1)
	ns.apply(strings.Replace(patient, "      topologySpread", "      nodeSelector: {node: agent}\n      topologySpread", 1))
	for _, n := range agents {
		ns.kubectl("label", "node", n.ID, "node=agent")
	}
	pods := ns.readyPods("app=movers", 3)
	for _, wait := range pods[0].Spec.Tolerations {
		if wait.TolerationSeconds == nil || *wait.TolerationSeconds != 300 {
			ns.Errorf("a pod without tolerations waits for its node as by %+v, not 300 s", wait)
		}
	}
	ns.mustEqual("its tolerations", len(pods[0].Spec.Tolerations), 2)
	return pods
}

// tookItCalmly checks that an agent whose server was away has not filled its log and
// bears no taint. It tries every ten seconds.
func (n *node) tookItCalmly(t *testing.T) {
	t.Helper()
	if said := strings.Count(machine.Tail(n.LogFile("err", n.Starts), 1<<20), "Failed to update lease"); said > 2 {
		t.Errorf("%s has said %d times that it has no server", n.ID, said)
	}
	for _, taint := range n.object(t).Spec.Taints {
		t.Errorf("%s is tainted with %s after its server was away", n.ID, taint.Key)
	}
}

// beats returns nil when the node has renewed its lease since then.
func (n *node) beats(t *testing.T, since time.Time) error {
	t.Helper()
	lease, err := n.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), n.ID, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !lease.Spec.RenewTime.After(since) {
		return fmt.Errorf("the last was at %v", lease.Spec.RenewTime)
	}
	return nil
}
