package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// testdata is a manifest of that directory.
func testdata(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDeployment(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	pods := ns.readyPods("app=web", 2)
	sets := ns.replicaSets("app=web")
	if len(sets) != 1 {
		t.Fatalf("one template made %d ReplicaSets", len(sets))
	}
	mustBeOwnedBy(t, &sets[0], "Deployment", "web")
	for _, pod := range pods {
		mustBeOwnedBy(t, &pod, "ReplicaSet", sets[0].Name)
		ns.mustEqual("the host name in "+pod.Name, ns.exec(pod.Name, "hostname"), pod.Name)
	}
	ns.kubectl("scale", "deployment/web", "--replicas=4")
	ns.readyPods("app=web", 4)
	ns.kubectl("scale", "deployment/web", "--replicas=2")
	pods = ns.readyPods("app=web", 2)

	killedContainerComesBack(ns, pods[0])
	deletedPodIsReplaced(ns, pods[1])
}

// killedContainerComesBack kills a container's first process from outside, as
// the kernel or a crash does.
func killedContainerComesBack(ns *namespace, pod corev1.Pod) {
	pids, err := ns.node.ContainerProcesses(pod.Status.ContainerStatuses[0].ContainerID)
	if err != nil {
		ns.Fatal(err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		ns.Fatal(err)
	}
	again := ns.podThat(pod.Name, "was restarted and is ready", func(p *corev1.Pod) bool {
		return restarts(p) == 1 && podReady(p)
	})
	ns.mustEqual("the pod's UID", again.UID, pod.UID)
	ns.mustEqual("the pod's address", again.Status.PodIP, pod.Status.PodIP)
	last := again.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 {
		ns.Errorf("the killed container is reported as %+v, want exit code 137", last)
	}
}

func deletedPodIsReplaced(ns *namespace, pod corev1.Pod) {
	ns.kubectl("delete", "pod", pod.Name)
	for _, other := range ns.readyPods("app=web", 2) {
		if other.Name == pod.Name {
			ns.Errorf("pod %s is there again instead of a new one", pod.Name)
		}
	}
}

func (ns *namespace) replicaSets(selector string) []appsv1.ReplicaSet {
	ns.Helper()
	list, err := ns.client.AppsV1().ReplicaSets(ns.name).List(ns.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		ns.Fatal(err)
	}
	return list.Items
}

func mustBeOwnedBy(t *testing.T, obj metav1.Object, kind, name string) {
	t.Helper()
	owner := metav1.GetControllerOf(obj)
	if owner == nil || owner.Kind != kind || owner.Name != name {
		t.Errorf("%s is controlled by %+v, want %s %s", obj.GetName(), owner, kind, name)
	}
}

// loadPod asks the web service's cluster address as long as it runs.
const loadPod = `
apiVersion: v1
kind: Pod
metadata: {name: load, labels: {app: load}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: load
    image: e2e.local/server:1
    args: [load, "http://$(WEB_SERVICE_HOST)/version"]
    readinessProbe:
      httpGet: {path: /, port: 8080}
      periodSeconds: 1
      timeoutSeconds: 10
`

// loadStats is what the load pod says of itself.
type loadStats struct {
	Requests int            `json:"requests"`
	Failures []string       `json:"failures"`
	Answers  map[string]int `json:"answers"`
}

// load asks the load pod through the API server's pod proxy.
func (ns *namespace) load() loadStats {
	ns.Helper()
	var s loadStats
	text := ns.kubectl("get", "--raw", "/api/v1/namespaces/"+ns.name+"/pods/load:8080/proxy/")
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		ns.Fatalf("%v: %s", err, text)
	}
	return s
}

// answers waits until the service has given an answer that it had not before.
func (ns *namespace) answers(want string) loadStats {
	ns.Helper()
	before := ns.load()
	var s loadStats
	ns.eventually("version "+want+" through the service", func() error {
		s = ns.load()
		if s.Answers[want] <= before.Answers[want] {
			return fmt.Errorf("the answers are %v", s.Answers)
		}
		return nil
	})
	return s
}

func TestRollingUpdateUnderLoad(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	ns.readyPods("app=web", 2)
	ns.get("http://" + ns.serviceIP("web") + "/version") // the rules are there
	ns.apply(loadPod)
	ns.readyPod("load")
	before := ns.answers("1")
	history := ns.recordPods("app=web")

	ns.kubectl("set", "image", "deployment/web", "server="+server2)
	ns.rolledOut("web")
	during := ns.answers("2")
	if during.Requests-before.Requests < 50 {
		t.Errorf("the client made only %d requests: not a load", during.Requests-before.Requests)
	}
	ns.versionsOf("app=web", "2")

	ns.kubectl("rollout", "undo", "deployment/web")
	ns.rolledOut("web")
	ns.versionsOf("app=web", "1")
	s := ns.answers("1")
	if failures := s.Failures[len(before.Failures):]; len(failures) > 0 {
		t.Errorf("%d of %d requests failed during update and rollback:\n%s",
			len(failures), s.Requests-before.Requests, strings.Join(failures, "\n"))
	}
	history.neverFewerReady(ns, 2)
}

// neverFewerReady checks maxUnavailable 0: pods that go count no more.
func (h *podHistory) neverFewerReady(ns *namespace, n int) {
	ns.Helper()
	least, seen := n, 0
	h.replay(ns, func(_ podEvent, before map[string]*corev1.Pod) {
		ready := 0
		for _, pod := range before {
			if podReady(pod) && pod.DeletionTimestamp == nil {
				ready++
			}
		}
		if seen++; seen > n { // the first events are the pods that were there
			least = min(least, ready)
		}
	})
	ns.mustEqual("the least number of ready pods", least, n)
}

func (ns *namespace) rolledOut(deployment string) {
	ns.Helper()
	ns.kubectl("rollout", "status", "deployment/"+deployment, "--timeout=170s")
}

// versionsOf waits until every pod of a selector answers with a version.
func (ns *namespace) versionsOf(selector, want string) {
	ns.Helper()
	ns.eventually("only version "+want, func() error {
		for _, pod := range ns.pods(selector) {
			got, err := ns.node.Netns().Get("http://" + pod.Status.PodIP + ":8080/version")
			if err != nil || got != want {
				return fmt.Errorf("%s answers %q, %w", pod.Name, got, err)
			}
		}
		return nil
	})
}

func TestRecreate(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	ns.kubectl("patch", "deployment", "web", "--patch",
		`{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}`)
	ns.readyPods("app=web", 2)
	history := ns.recordPods("app=web")
	ns.kubectl("set", "image", "deployment/web", "server="+server2)
	ns.rolledOut("web")
	ns.readyPods("app=web", 2)
	ns.versionsOf("app=web", "2")

	began := 0
	history.replay(ns, func(e podEvent, before map[string]*corev1.Pod) {
		if e.kind != watch.Added || e.pod.Spec.Containers[0].Image != server2 {
			return
		}
		began++
		for _, pod := range before {
			if pod.Spec.Containers[0].Image == server1 && alive(pod) {
				t.Errorf("%s began while %s of the old version was %s", e.pod.Name, pod.Name, pod.Status.Phase)
			}
		}
	})
	ns.mustEqual("the number of new pods", began, 2)
}

func alive(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodPending
}

// canaryPatch is the new version whose pods are not ready by themselves as long
// as the ConfigMap says so: time to pause the update in.
const canaryPatch = `
spec:
  template:
    spec:
      containers:
      - name: server
        image: e2e.local/server:2
        env: [{name: BEGIN_OFF, valueFrom: {configMapKeyRef: {name: canary, key: "off", optional: true}}}]
`

// TestPausedCanary stops an update after its first pod: both versions answer
// until it is resumed.
func TestPausedCanary(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	ns.readyPods("app=web", 2)

	ns.kubectl("create", "configmap", "canary", "--from-literal=off=ready")
	ns.kubectl("patch", "deployment", "web", "--patch", canaryPatch)
	canary := ns.newPod()
	ns.kubectl("rollout", "pause", "deployment/web")
	ns.kubectl("delete", "configmap", "canary")
	ns.turn(canary, "ready", "on")
	ns.eventually("the canary's availability", func() error {
		for _, rs := range ns.replicaSets("app=web") {
			if templateImage(rs) == server2 && rs.Status.AvailableReplicas == 1 {
				return nil
			}
		}
		return errors.New("it is not available yet")
	})
	// An update that is not paused goes on in the moment of availability.
	time.Sleep(5 * time.Second)
	if err := ns.canary(1); err != nil {
		t.Errorf("the paused update went on: %v", err)
	}
	seen := map[string]bool{}
	ns.eventually("answers of both versions", func() error {
		seen[ns.get("http://"+ns.serviceIP("web")+"/version")] = true
		if !seen["1"] || !seen["2"] {
			return fmt.Errorf("only %v", seen)
		}
		return nil
	})

	ns.kubectl("rollout", "resume", "deployment/web")
	ns.rolledOut("web")
	ns.versionsOf("app=web", "2")
}

// newPod waits for the one pod of the new version to run.
func (ns *namespace) newPod() *corev1.Pod {
	ns.Helper()
	ns.eventually("one pod of the new version", func() error { return ns.canary(1) })
	for _, pod := range ns.pods("app=web") {
		if pod.Spec.Containers[0].Image == server2 {
			return ns.podThat(pod.Name, "runs", func(p *corev1.Pod) bool {
				return p.Status.Phase == corev1.PodRunning && p.Status.PodIP != ""
			})
		}
	}
	ns.Fatal("the pod of the new version is gone")
	return nil
}

// canary returns nil when exactly n pods run the new version and both old ones are left.
func (ns *namespace) canary(n int) error {
	images := map[string]int{}
	for _, pod := range ns.pods("app=web") {
		images[pod.Spec.Containers[0].Image]++
	}
	if images[server2] != n || images[server1] != 2 {
		return fmt.Errorf("the pods are %v", images)
	}
	return nil
}

func templateImage(rs appsv1.ReplicaSet) string { return rs.Spec.Template.Spec.Containers[0].Image }

// TestPausedDeployment: a change of a paused template makes nothing new.
func TestPausedDeployment(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	ns.readyPods("app=web", 2)
	ns.kubectl("rollout", "pause", "deployment/web")
	ns.kubectl("set", "image", "deployment/web", "server="+server2)
	ns.kubectl("scale", "deployment/web", "--replicas=3")
	ns.readyPods("app=web", 3) // the controller has seen the change and still scales
	if sets := ns.replicaSets("app=web"); len(sets) != 1 || !slices.ContainsFunc(sets, func(rs appsv1.ReplicaSet) bool {
		return templateImage(rs) == server1
	}) {
		t.Errorf("a paused Deployment made a new ReplicaSet: there are %d", len(sets))
	}
	ns.kubectl("rollout", "resume", "deployment/web")
	ns.rolledOut("web")
	ns.versionsOf("app=web", "2")
}
