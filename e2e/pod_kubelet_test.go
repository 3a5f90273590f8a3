package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestCommandAndArgs is the table of the Kubernetes documentation: the image has
// ENTRYPOINT [/bin/echo image-entrypoint] and CMD [image-cmd].
func TestCommandAndArgs(t *testing.T) {
	ns := sharedNamespace(t)
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: args}\nspec:\n  restartPolicy: Never\n  containers:\n"
	cases := []struct{ name, lines, want string }{
		{"neither", "", "image-entrypoint image-cmd"},
		{"command", `command: [/bin/echo, command]`, "command"},
		{"args", `args: [args]`, "image-entrypoint args"},
		{"both", `command: [/bin/echo, command], args: [args, "$(WHO)"], env: [{name: WHO, value: expanded}]`, "command args expanded"},
	}
	for _, tc := range cases {
		manifest += fmt.Sprintf("  - {name: %s, image: %q, %s}\n", tc.name, entrypoint, tc.lines)
	}
	ns.apply(strings.ReplaceAll(manifest, ", }", "}"))
	ns.mustEqual("the pod's phase", ns.finishedPod("args").Status.Phase, corev1.PodSucceeded)
	for _, tc := range cases {
		ns.mustEqual("the output of "+tc.name, ns.logs("args", "--container="+tc.name), tc.want)
	}
}

const ordered = `
apiVersion: v1
kind: Pod
metadata: {name: ordered}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 20
  volumes:
  - {name: work, emptyDir: {}}
  initContainers:
  - name: first
    image: e2e.local/busybox:1
    command: [sh, -c, "sleep 2; echo first >> /work/order"]
    volumeMounts: [{name: work, mountPath: /work}]
  - name: sidecar-1
    image: e2e.local/busybox:1
    restartPolicy: Always
    command: [sh, -c, "trap 'echo stopped; sleep 2; exit 0' TERM; sleep 2; echo sidecar-1 >> /work/order; while :; do sleep 0.2; done"]
    startupProbe:
      exec: {command: [grep, sidecar-1, /work/order]}
      periodSeconds: 1
      timeoutSeconds: 10
      failureThreshold: 120
    volumeMounts: [{name: work, mountPath: /work}]
  - name: sidecar-2
    image: e2e.local/busybox:1
    restartPolicy: Always
    command: [sh, -c, "trap 'echo stopped; sleep 2; exit 0' TERM; echo sidecar-2 >> /work/order; while :; do sleep 0.2; done"]
    startupProbe:
      exec: {command: [grep, sidecar-2, /work/order]}
      periodSeconds: 1
      timeoutSeconds: 10
      failureThreshold: 120
    volumeMounts: [{name: work, mountPath: /work}]
  - name: last
    image: e2e.local/busybox:1
    command: [sh, -c, "echo last >> /work/order"]
    volumeMounts: [{name: work, mountPath: /work}]
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "echo main >> /work/order; cat /work/order; sleep 2"]
    volumeMounts: [{name: work, mountPath: /work}]
`

func TestInitContainersAndSidecars(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(ordered)
	ns.mustEqual("the phase after the main container's end", ns.finishedPod("ordered").Status.Phase, corev1.PodSucceeded)
	ns.mustEqual("the order", strings.Join(lines(ns.logs("ordered", "--container=main")), " "),
		"first sidecar-1 sidecar-2 last main")
	first, second := ns.stoppedAt("sidecar-1"), ns.stoppedAt("sidecar-2")
	if first.Before(second) {
		t.Errorf("sidecar-1 was stopped at %v, before sidecar-2 at %v", first, second)
	}
}

// stoppedAt is when a sidecar of the ordered pod was told to stop.
func (ns *namespace) stoppedAt(container string) time.Time {
	ns.Helper()
	stamp, text, _ := strings.Cut(ns.logs("ordered", "--container="+container, "--timestamps"), " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil || text != "stopped" {
		ns.Fatalf("%s wrote %q: %v", container, text, err)
	}
	return at
}

const hooks = `
apiVersion: v1
kind: Pod
metadata: {name: hooks}
spec:
  terminationGracePeriodSeconds: 20
  volumes:
  - {name: node, hostPath: {path: $DIR/hostpath-$NS, type: DirectoryOrCreate}}
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "trap 'cat /node/prestop > /node/term; exit 0' TERM; while :; do sleep 0.2; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo started > /node/poststart"]}}
      preStop: {exec: {command: [sh, -c, "sleep 1; echo stopping > /node/prestop"]}}
    volumeMounts: [{name: node, mountPath: /node}]
`

// TestLifecycleHooks: SIGTERM comes after the preStop hook has ended.
func TestLifecycleHooks(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(hooks)
	ns.readyPod("hooks")
	ns.hostFile("poststart", "started")
	ns.kubectl("delete", "pod", "hooks")
	ns.hostFile("prestop", "stopping")
	ns.hostFile("term", "stopping")
}

// TestImagePullFailure: there is no such registry; the reason is shown.
func TestImagePullFailure(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(strings.ReplaceAll(sleeper("missing", ""), busybox1, "127.0.0.1:1/none:1"))
	ns.podThat("missing", "waits for its image", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) != 1 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return false
		}
		reason := p.Status.ContainerStatuses[0].State.Waiting.Reason
		return reason == "ErrImagePull" || reason == "ImagePullBackOff"
	})
	ns.event("missing", "Failed", "127.0.0.1:1")
}

// TestPodLogsOnNode: log collectors find containers by the names in
// /var/log/containers.
func TestPodLogsOnNode(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(talker)
	ns.readyPod("talker")
	ns.eventually("the talker's log on the node", func() error {
		links, _ := filepath.Glob(ns.node.Inside("/var/log/containers/talker_" + ns.name + "_main-*.log"))
		if len(links) != 1 {
			return fmt.Errorf("there are %d links", len(links))
		}
		target, err := os.Readlink(links[0])
		if err != nil {
			return err
		}
		text, err := os.ReadFile(ns.node.Inside(target))
		if err == nil && !strings.Contains(string(text), "stdout F "+ns.name+"-line-1-end") {
			err = fmt.Errorf("the log is:\n%s", text)
		}
		return err
	})
}
