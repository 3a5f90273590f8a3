package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"brink/e2e/machine"
)

// daemons is a DaemonSet whose pods write on the node; %s is more of its pod spec.
const daemons = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemon}
spec:
  selector:
    matchLabels: {app: daemon}
  template:
    metadata:
      labels: {app: daemon}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: e2e.local/busybox:1
        command: [sh, -c, "cat /version > /node/version; exec sleep 100000"]
        volumeMounts:
        - {name: node, mountPath: /node}
      volumes:
      - name: node
        hostPath: {path: $DIR/hostpath-$NS, type: DirectoryOrCreate}
%s`

// onlyThisNode keeps a DaemonSet to one node by its name, as the controller
// itself does for each of its pods.
const onlyThisNode = `
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchFields:
              - {key: metadata.name, operator: In, values: [$NODE]}
`

func TestDaemonSetUpdates(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(fmt.Sprintf(daemons, onlyThisNode))
	pod := ns.readyPods("app=daemon", 1)[0]
	ns.mustEqual("the daemon's node", pod.Spec.NodeName, ns.node.ID)
	ns.hostFile("version", "1")

	ns.kubectl("set", "image", "daemonset/daemon", "main="+busybox2)
	ns.kubectl("rollout", "status", "daemonset/daemon", "--timeout=170s")
	ns.hostFile("version", "2")
	updated := ns.readyPods("app=daemon", 1)[0]
	if updated.UID == pod.UID {
		t.Error("RollingUpdate kept the old pod")
	}

	ns.kubectl("patch", "daemonset", "daemon", "--patch",
		`{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}`)
	ns.kubectl("set", "image", "daemonset/daemon", "main="+busybox1)
	ns.eventually("the controller to see the new template", func() error {
		ds := ns.daemonSet("daemon")
		if ds.Status.ObservedGeneration != ds.Generation || ds.Status.UpdatedNumberScheduled != 0 {
			return fmt.Errorf("its status is %+v", ds.Status)
		}
		return nil
	})
	ns.mustEqual("the pod under OnDelete", ns.readyPods("app=daemon", 1)[0].UID, updated.UID)
	ns.kubectl("delete", "pod", updated.Name)
	ns.readyPods("app=daemon", 1)
	ns.hostFile("version", "1")
}

// hostFile waits for a file that a pod wrote on the node.
func (ns *namespace) hostFile(name, want string) {
	ns.Helper()
	path := filepath.Join(ns.node.Dir, "hostpath-"+ns.name, name)
	ns.eventually(path+" with "+want, func() error {
		b, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(b)) != want {
			err = fmt.Errorf("it contains %q", b)
		}
		return err
	})
}

func (ns *namespace) daemonSet(name string) *appsv1.DaemonSet {
	ns.Helper()
	ds, err := ns.client.AppsV1().DaemonSets(ns.name).Get(ns.Context(), name, metav1.GetOptions{})
	if err != nil {
		ns.Fatal(err)
	}
	return ds
}

// TestOneDaemonPerNode adds nodes that exist only in the API: what counts is for
// which nodes the controller makes pods.
func TestOneDaemonPerNode(t *testing.T) {
	n := startNode(t)
	ns := newNamespace(t, n)
	addNode(ns, "plain")
	addNode(ns, "tainted", corev1.Taint{Key: "dedicated", Value: "edge", Effect: corev1.TaintEffectNoSchedule})
	for _, tc := range []struct {
		what, spec string
		want       []string
	}{
		{"no constraint", "", []string{n.ID, "plain"}},
		{"matchFields", onlyThisNode, []string{n.ID}},
		{"toleration", "      tolerations:\n      - {key: dedicated, operator: Exists}\n", []string{n.ID, "plain", "tainted"}},
	} {
		ns.apply(fmt.Sprintf(daemons, tc.spec))
		ns.eventually("daemons with "+tc.what, func() error { return ns.daemonsOn(tc.want) })
		ns.kubectl("delete", "daemonset", "daemon", "--cascade=background")
		ns.eventually("the daemons' end", func() error { return ns.daemonsOn(nil) })
	}
}

// addNode makes a Node that says Ready as long as the test runs: for others no
// daemons are made.
func addNode(ns *namespace, name string, taints ...corev1.Taint) {
	ns.Helper()
	_, err := ns.client.CoreV1().Nodes().Create(ns.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{Taints: taints},
	}, metav1.CreateOptions{})
	if err != nil {
		ns.Fatal(err)
	}
	go func() {
		for ns.Context().Err() == nil {
			// An error is seen as missing daemons.
			_ = sayReady(ns, name)
			time.Sleep(5 * time.Second)
		}
	}()
}

func sayReady(ns *namespace, name string) error {
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Test","lastHeartbeatTime":%q}]}}`,
		time.Now().UTC().Format(time.RFC3339))
	_, err := ns.client.CoreV1().Nodes().Patch(ns.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

// daemonsOn returns nil when there is exactly one daemon for each of the nodes. The
// pods of nodes that cannot run them stay Pending, aimed at their node.
func (ns *namespace) daemonsOn(nodes []string) error {
	got := map[string]int{}
	for _, pod := range ns.pods("app=daemon") {
		terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		got[terms[0].MatchFields[0].Values[0]]++
	}
	for _, node := range nodes {
		if got[node] != 1 {
			return fmt.Errorf("node %s has %d: %v", node, got[node], got)
		}
	}
	if len(got) != len(nodes) {
		return fmt.Errorf("there are daemons for %v, want %v", got, nodes)
	}
	return nil
}

// talker writes lines that say whose they are.
const talker = `
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  tolerations:
  - {operator: Exists}
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "i=0; while :; do i=$((i+1)); echo $NS-line-$i-end; sleep 1; done"]
`

// dockerContainers is the log collector's second directory.
const dockerContainers = "/var/lib/docker/containers"

// TestTaintedNode is a node that was started with taints and labels: what the
// widely known log collector manifest tolerates.
func TestTaintedNode(t *testing.T) {
	t.Parallel()
	n := startNode(t,
		"node-taint:", "  - node-role.kubernetes.io/master=:NoSchedule",
		"node-label:", "  - e2e.brink/place=shop")
	ns := newNamespace(t, n)
	ns.mustContain(ns.kubectl("get", "nodes", "--selector=e2e.brink/place=shop", "--output=name"), n.ID)
	ns.apply(sleeper("plain", ""))
	ns.runCollector()
	ns.pendingBecause("plain", "untolerated taint")
}

// runCollector applies the widely known log collector and waits for its pod.
func (ns *namespace) runCollector() corev1.Pod {
	ns.Helper()
	// There on nodes that have Docker; else it is made for the pod and stays.
	if err := ns.node.AddDir(dockerContainers); err != nil {
		ns.Fatal(err)
	}
	ns.kubectlFor(testdata(ns.T, "fluentd.yaml"), "--namespace=kube-system", "apply", "-f", "-")
	var pod corev1.Pod
	ns.eventually("a running fluentd-elasticsearch pod", func() error {
		list, err := ns.client.CoreV1().Pods("kube-system").List(ns.Context(),
			metav1.ListOptions{LabelSelector: "name=fluentd-elasticsearch"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 || !podReady(&list.Items[0]) {
			return fmt.Errorf("there are %d pods, or it is not ready", len(list.Items))
		}
		pod = list.Items[0]
		return nil
	})
	return pod
}

func (ns *namespace) collectorLimits(pod corev1.Pod) {
	ns.Helper()
	ns.mustEqual("the collector's QoS class", pod.Status.QOSClass, corev1.PodQOSBurstable)
	got, err := ns.node.CgroupValue(machine.MemoryLimit, string(pod.UID))
	if err != nil || got != fmt.Sprint(200<<20) {
		ns.Errorf("the collector's memory limit is %s (%v), want 200Mi", got, err)
	}
	r := ns.kubectlResult("", "--namespace=kube-system", "exec", pod.Name, "--",
		"touch", dockerContainers+"/x")
	ns.mustContain(r.Stderr, "Read-only file system")
}

// sleeper is a pod that does nothing, with more lines of its spec.
func sleeper(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
%s`, name, name, spec)
}
