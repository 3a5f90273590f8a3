package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// expected are lines of a healthy node that are right to be there, with the reason
// why. A line is taken when it contains all parts of one of them.
var expected = []struct {
	reason string
	parts  []string
}{
	{"the server was restarted beside the agent: it is told that it is away", []string{"level=WARN", "component=tunnel-client", "tunnel is lost, dialing again"}},
	{"the same", []string{"level=WARN", "component=servers", "no server answers"}},
	{"the same, where the server's start takes longer than a kubelet's request", []string{"level=ERROR", "component=kubernetes", "request canceled while waiting for connection"}},
	{"the same", []string{"level=ERROR", `msg="Failed to update lease" component=kubernetes`, "context deadline exceeded"}},
	{"the kubelet of a machine that does much else", []string{`msg="Housekeeping took longer than expected"`}},
	{"on cgroup v1 a shim that ends says so on its own output", []string{`msg="cgroups: epoll wait" error=shutdown`}},
}

// day is what people do with a cluster on a usual day, by kinds of objects.
const day = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: e2e}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  ttlSecondsAfterFinished: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: e2e.local/busybox:1, command: ["true"]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: numbered}
spec:
  replicas: 2
  serviceName: numbered
  selector: {matchLabels: {app: numbered}}
  template:
    metadata: {labels: {app: numbered}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: e2e.local/busybox:1
        command: [sleep, "100000"]
        envFrom: [{configMapRef: {name: settings}}]
        volumeMounts: [{name: password, mountPath: /password}, {name: scratch, mountPath: /scratch}]
      volumes: [{name: password, secret: {secretName: password}}, {name: scratch, emptyDir: {medium: Memory}}]
`

// TestHealthyLog goes through a day's usual acts. Nothing is wrong on any of them,
// so no line of a log may say that something is.
func TestHealthyLog(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	aDay(newNamespace(t, c.server), c)
	agent, leaver := c.agents[0], c.agents[1]
	// A restart of each, the server's beside an agent that stays.
	for _, n := range []*node{agent, c.server} {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	ns := newNamespace(t, c.server)
	ns.nodeIs(agent, "True")
	aDay(ns, c)
	// A node is taken away as the documentation says.
	ns.kubectl("drain", leaver.ID, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
	if err := leaver.Stop(); err != nil {
		t.Fatal(err)
	}
	ns.kubectl("delete", "node", leaver.ID)
	ns.kubectl("delete", "namespace", ns.name)
	for _, n := range []*node{agent, c.server} {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}
	for _, n := range c.nodes() {
		for _, line := range n.complaints(t) {
			t.Errorf("%s wrote %s", n.Role(), line)
		}
	}
}

// aDay makes, changes and removes one of each.
func aDay(ns *namespace, c *cluster) {
	ns.Helper()
	ns.apply(testdata(ns.T, "web.yaml"))
	ns.apply(day)
	ns.apply(placed("spread", len(c.nodes()), `      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: spread}}}`))
	ns.readyPods("app=web", 2)
	ns.readyPods("app=numbered", 2)
	spread := ns.readyPods("app=spread", len(c.nodes()))
	for _, pod := range spread {
		ns.exec(pod.Name, "true")
		ns.logs(pod.Name)
	}
	ns.get("http://" + ns.serviceIP("web") + "/hostname")
	ns.kubectl("set", "env", "deployment/web", "ROUND=2")
	ns.kubectl("rollout", "status", "deployment/web", "--timeout=180s")
	ns.kubectl("scale", "deployment/spread", "--replicas=1")
	ns.readyPods("app=spread", 1)
	ns.kubectl("delete", "pod", "numbered-0")
	ns.readyPods("app=numbered", 2)
	ns.kubectl("delete", "deployment", "spread")
	other := newNamespace(ns.T, ns.node)
	other.apply(day)
	other.readyPods("app=numbered", 2)
	other.kubectl("delete", "namespace", other.name, "--timeout=120s")
}

// complaints are the lines of all starts that are no information, and those that
// did not come through brink's log at all.
func (n *node) complaints(t *testing.T) []string {
	t.Helper()
	var out []string
	for start := 1; start <= n.Starts; start++ {
		text, err := os.ReadFile(n.LogFile("err", start))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines(string(text)) {
			if isComplaint(line) && !isExpected(line) {
				out = append(out, fmt.Sprintf("(start %d) %s", start, line))
			}
		}
	}
	return out
}

func isComplaint(line string) bool {
	return line != "" && !strings.Contains(line, " level=INFO ")
}

func isExpected(line string) bool {
	for _, e := range expected {
		if containsAll(line, e.parts) {
			return true
		}
	}
	return false
}

func containsAll(line string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(line, part) {
			return false
		}
	}
	return true
}
