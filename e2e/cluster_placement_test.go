package e2e

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"brink/e2e/image"
)

// placed is a Deployment whose pods have more lines in their specification.
func placed(name string, replicas int, spec string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  replicas: %d
  selector: {matchLabels: {app: %s}}
  template:
    metadata: {labels: {app: %s}}
    spec:
      terminationGracePeriodSeconds: 1
%s
      containers: [{name: main, image: e2e.local/busybox:1, command: [sleep, "100000"]}]
`, name, replicas, name, name, spec)
}

// spread counts the Ready pods of a set by node.
func (ns *namespace) spread(selector string, replicas int) map[string]int {
	ns.Helper()
	out := map[string]int{}
	for _, pod := range ns.readyPods(selector, replicas) {
		out[pod.Spec.NodeName]++
	}
	return out
}

// TestPlacement has each way by which the scheduler tells nodes apart.
func TestPlacement(t *testing.T) {
	t.Parallel()
	c, ns := clusterNamespace(t)
	nodes := c.nodes()
	label := "e2e.brink/" + ns.name
	for i, n := range nodes { // two zones of two nodes
		ns.kubectl("label", "node", n.ID, fmt.Sprintf("%s=zone-%d", label, i/2))
	}
	t.Cleanup(func() { _, _ = ns.tryKubectl("label", "nodes", "--all", label+"-") })

	t.Run("spreading over nodes", func(t *testing.T) { ns.in(t).spreadsOverNodes(nodes) })
	t.Run("spreading over zones", func(t *testing.T) { ns.in(t).spreadsOverZones(nodes, label) })
	t.Run("anti-affinity", func(t *testing.T) { ns.in(t).keepsApart() })
	t.Run("affinity", func(t *testing.T) { ns.in(t).keepsTogether() })
	t.Run("node affinity", func(t *testing.T) { ns.in(t).prefersZone(nodes, label) })
	t.Run("least allocated", func(t *testing.T) { ns.in(t).prefersEmptiest(nodes) })
}

// spreadsOverNodes puts two of eight pods on each of four nodes.
func (ns *namespace) spreadsOverNodes(nodes []*node) {
	ns.Helper()
	ns.apply(placed("spread", 8, `      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: spread}}}`))
	for _, n := range nodes {
		if got := ns.spread("app=spread", 8); got[n.ID] != 2 {
			ns.Errorf("8 pods on 4 nodes are %v", got)
			break
		}
	}
}

// spreadsOverZones puts three of six pods into each of two zones.
func (ns *namespace) spreadsOverZones(nodes []*node, label string) {
	ns.Helper()
	ns.apply(placed("zones", 6, `      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: `+label+`, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: zones}}}`))
	got := ns.spread("app=zones", 6)
	if first := got[nodes[0].ID] + got[nodes[1].ID]; first != 3 {
		ns.Errorf("6 pods in 2 zones are %v", got)
	}
}

// keepsApart has a fifth pod wait that may not be beside one of the others.
func (ns *namespace) keepsApart() {
	ns.Helper()
	ns.apply(placed("apart", 5, `      affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: apart}}}]}}`))
	ns.eventually("a pod on each of 4 nodes", func() error {
		on := map[string]int{}
		for _, pod := range ns.pods("app=apart") {
			if podReady(&pod) {
				on[pod.Spec.NodeName]++
			}
		}
		if len(on) != 4 {
			return fmt.Errorf("pods that keep apart are %v", on)
		}
		return nil
	})
	pending := slices.DeleteFunc(ns.pods("app=apart"), func(p corev1.Pod) bool { return p.Spec.NodeName != "" })
	if len(pending) != 1 {
		ns.Fatalf("%d pods wait, want one of 5 on 4 nodes", len(pending))
	}
	ns.pendingBecause(pending[0].Name, "didn't match pod anti-affinity rules")
}

// keepsTogether puts pods where another one is.
func (ns *namespace) keepsTogether() {
	ns.Helper()
	ns.apply(placed("anchor", 1, ""))
	anchor := ns.readyPods("app=anchor", 1)[0].Spec.NodeName
	ns.apply(placed("close", 3, `      affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: anchor}}}]}}`))
	if got := ns.spread("app=close", 3); got[anchor] != 3 {
		ns.Errorf("pods that want to be on %s are %v", anchor, got)
	}
}

// prefersZone puts pods on nodes with a label.
func (ns *namespace) prefersZone(nodes []*node, label string) {
	ns.Helper()
	ns.apply(placed("zone", 4, `      affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: `+label+`, operator: In, values: [zone-1]}]}]}}}`))
	got := ns.spread("app=zone", 4)
	if got[nodes[2].ID]+got[nodes[3].ID] != 4 {
		ns.Errorf("pods for the second zone are %v", got)
	}
}

// prefersEmptiest fills all nodes but one; the next pods go there. Each is of another set:
// those of one set would be spread over all nodes.
func (ns *namespace) prefersEmptiest(nodes []*node) {
	ns.Helper()
	for i, n := range nodes[:3] {
		name := fmt.Sprintf("heavy-%d", i)
		ns.apply(placed(name, 1, "      nodeSelector: {kubernetes.io/hostname: "+n.ID+"}"))
		ns.kubectl("set", "resources", "deployment/"+name, "--requests=cpu=1200m,memory=1Gi")
		ns.kubectl("rollout", "status", "deployment/"+name, "--timeout=120s")
	}
	for _, name := range []string{"light-1", "light-2", "light-3", "light-4"} {
		ns.apply(placed(name, 1, ""))
		if got := ns.spread("app="+name, 1); got[nodes[3].ID] != 1 {
			ns.Errorf("%s is on %v, not on %s, the emptiest node", name, got, nodes[3].ID)
		}
	}
}

// TestDaemonSetFollowsNodes: nodes come, go by being deleted, and are tainted.
func TestDaemonSetFollowsNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	ns := newNamespace(t, c.server)
	ns.apply(strings.Replace(serversOnAll, "      tolerations: [{operator: Exists}]\n", "", 1))
	ns.readyPods("app=pods", 2)
	next := c.join(t, 1)[0]
	if _, err := podOf(ns.readyPods("app=pods", 3), next); err != nil {
		t.Error(err)
	}
	ns.prefersImage(c, next)
	ns.respectsTaints(next)
	ns.kubectl("taint", "node", next.ID, "e2e=off:NoExecute")
	ns.readyPods("app=pods", 2)
	ns.kubectl("taint", "node", next.ID, "e2e-")
	ns.readyPods("app=pods", 3)
	if err := next.Stop(); err != nil {
		t.Fatal(err)
	}
	ns.kubectl("delete", "node", next.ID)
	ns.eventually("the deleted node's pod to be gone", func() error {
		if n := len(ns.pods("app=pods")); n != 2 {
			return fmt.Errorf("there are %d pods", n)
		}
		return nil
	})
}

// respectsTaints: only a pod that tolerates a node's taint is placed there.
func (ns *namespace) respectsTaints(n *node) {
	ns.Helper()
	ns.kubectl("taint", "node", n.ID, "e2e=away:NoSchedule")
	on := "  nodeSelector: {kubernetes.io/hostname: " + n.ID + "}\n"
	ns.apply(sleeper("kept-away", on))
	ns.apply(sleeper("tolerates", on+"  tolerations: [{key: e2e, operator: Equal, value: away}]\n"))
	ns.readyPod("tolerates")
	ns.pendingBecause("kept-away", "had untolerated taint")
	ns.kubectl("taint", "node", n.ID, "e2e-")
	ns.readyPod("kept-away")
	ns.kubectl("delete", "pod", "kept-away", "tolerates")
}

// prefersImage: of two nodes that are alike but for an image, a pod goes to the one
// that has it. Both are idle here, and a large image counts little.
func (ns *namespace) prefersImage(c *cluster, with *node) {
	ns.Helper()
	name := "e2e.local/large:1"
	content := make([]byte, 200<<20)
	_, _ = rand.Read(content) // what can be compressed is small in the kubelet's eyes
	archive := filepath.Join(with.Dir, "large.tar")
	box, err := image.BusyboxFiles()
	if err == nil {
		err = image.Write(archive, image.Image{Name: name, Layers: [][]image.File{box, {{Name: "large", Mode: 0o644, Content: content}}}})
	}
	if err != nil {
		ns.Fatal(err)
	}
	r, err := with.Brink(append(append([]string{"images", "import"}, with.Flags("data-dir")...), archive)...)
	if err != nil || r.Code != 0 {
		ns.Fatalf("brink images import: %v %v", err, r)
	}
	ns.eventually("the image in the node's status", func() error {
		for _, i := range with.object(ns.T).Status.Images {
			if slices.Contains(i.Names, name) {
				return nil
			}
		}
		return fmt.Errorf("%s is not there", name)
	})
	ns.kubectl("cordon", c.server.ID)
	defer ns.kubectl("uncordon", c.server.ID)
	for i := range 4 {
		pod := fmt.Sprintf("large-%d", i)
		ns.apply(strings.Replace(sleeper(pod, ""), "e2e.local/busybox:1", name, 1))
		if got := ns.readyPod(pod).Spec.NodeName; got != with.ID {
			ns.Errorf("%s runs on %s, not on %s that has its image", pod, got, with.ID)
		}
		ns.kubectl("delete", "pod", pod)
	}
}

const identities = `
apiVersion: v1
kind: Service
metadata: {name: ids}
spec:
  clusterIP: None
  selector: {app: ids}
  ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ids}
spec:
  replicas: 2
  serviceName: ids
  selector: {matchLabels: {app: ids}}
  template:
    metadata: {labels: {app: ids}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: ids}}}
      containers: [{name: server, image: e2e.local/server:1}]
`

// TestStatefulSetMoves: a pod that has to leave its node is on another one under
// the same name, and never on both.
func TestStatefulSetMoves(t *testing.T) {
	t.Parallel()
	c, ns := clusterNamespace(t)
	ns.apply(identities)
	pods := ns.readyPods("app=ids", 2)
	was := pods[0]
	ns.kubectl("cordon", was.Spec.NodeName)
	uncordon := func() { _, _ = ns.tryKubectl("uncordon", was.Spec.NodeName) }
	t.Cleanup(uncordon)
	ns.kubectl("delete", "pod", was.Name, "--wait=false")
	old, seen := c.named(was.Spec.NodeName), false
	is := ns.podThat(was.Name, "on another node and Ready", func(p *corev1.Pod) bool {
		if p.UID != was.UID && !seen {
			seen = true
			if pids := old.PodProcesses(string(was.UID)); len(pids) > 0 {
				t.Errorf("a pod of the same identity is there while %v of the old one run", pids)
			}
		}
		return p.UID != was.UID && p.Spec.NodeName != was.Spec.NodeName && podReady(p)
	})
	uncordon()
	ns.mustEqual("the name by which it answers", ns.get("http://"+is.Status.PodIP+":8080/hostname"), was.Name)
	ns.eventually("the headless Service to lead to where it is now", func() error {
		for _, e := range ns.endpoints("ids") {
			if e.TargetRef.Name == was.Name && e.Addresses[0] == is.Status.PodIP {
				return nil
			}
		}
		return fmt.Errorf("endpoints are %v", ns.endpoints("ids"))
	})
}
