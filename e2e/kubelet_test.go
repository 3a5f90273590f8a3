package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
      failureThreshold: 120
    volumeMounts: [{name: work, mountPath: /work}]
  - name: sidecar-2
    image: e2e.local/busybox:1
    restartPolicy: Always
    command: [sh, -c, "trap 'echo stopped; sleep 2; exit 0' TERM; echo sidecar-2 >> /work/order; while :; do sleep 0.2; done"]
    startupProbe:
      exec: {command: [grep, sidecar-2, /work/order]}
      periodSeconds: 1
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

const probes = `
apiVersion: v1
kind: Pod
metadata: {name: probed, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/server:1
    livenessProbe: {httpGet: {path: /check/live, port: 8080}, periodSeconds: 1, failureThreshold: 2}
    readinessProbe: {httpGet: {path: /check/ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
    startupProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, failureThreshold: 1000}
    livenessProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, failureThreshold: 1}
    readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
`

func TestProbes(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(probes)
	pod := ns.readyPod("probed")
	ns.turn(pod, "ready", "off")
	pod = ns.podThat("probed", "is not ready", func(p *corev1.Pod) bool { return !podReady(p) })
	ns.mustEqual("restarts after a failed readiness probe", restarts(pod), int32(0))
	ns.turn(pod, "ready", "on")
	ns.readyPod("probed")

	ns.turn(pod, "live", "off")
	ns.podThat("probed", "was restarted and is ready", func(p *corev1.Pod) bool {
		return restarts(p) == 1 && podReady(p)
	})
	ns.event("probed", "Unhealthy", "Liveness probe failed")
	ns.event("probed", "Killing", "failed liveness probe")
}

// TestStartupProbe: while it fails, the liveness probe, which would fail too,
// must not run.
func TestStartupProbe(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(probes)
	ns.event("slow", "Unhealthy", "Startup probe failed")
	time.Sleep(5 * time.Second) // several periods of a liveness probe
	slow := ns.pod("slow")
	ns.mustEqual("restarts before the start", restarts(slow), int32(0))
	ns.mustEqual("started", *slow.Status.ContainerStatuses[0].Started, false)
	ns.exec("slow", "touch", "/started")
	slow = ns.podThat("slow", "has started", func(p *corev1.Pod) bool {
		return *p.Status.ContainerStatuses[0].Started
	})
	ns.mustEqual("readiness with nobody on the probed port", podReady(slow), false)
	ns.exec("slow", "rm", "/started")
	ns.podThat("slow", "was restarted by the liveness probe", func(p *corev1.Pod) bool { return restarts(p) > 0 })
}

// TestQoS looks where the kernel keeps what a pod may use.
func TestQoS(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sleeper("guaranteed", "    resources: {limits: {cpu: 200m, memory: 64Mi}}\n"))
	ns.apply(sleeper("burstable", "    resources: {requests: {cpu: 100m}, limits: {memory: 32Mi}}\n"))
	ns.apply(sleeper("besteffort", ""))
	for _, tc := range []struct {
		pod    string
		class  corev1.PodQOSClass
		dir    string
		limits map[setting]string
	}{
		{"guaranteed", corev1.PodQOSGuaranteed, "", map[setting]string{memoryLimit: "67108864", cpuQuota: quota(20000), cpuShares: shares(204)}},
		{"burstable", corev1.PodQOSBurstable, "burstable", map[setting]string{memoryLimit: "33554432", cpuQuota: quota(-1), cpuShares: shares(102)}},
		{"besteffort", corev1.PodQOSBestEffort, "besteffort", map[setting]string{cpuQuota: quota(-1), cpuShares: shares(2)}},
	} {
		pod := ns.readyPod(tc.pod)
		ns.mustEqual(tc.pod+"'s class", pod.Status.QOSClass, tc.class)
		ns.cgroupPlace(string(pod.UID), tc.dir)
		for s, want := range tc.limits {
			got, err := ns.node.cgroupValue(s, string(pod.UID))
			if err != nil || got != want {
				t.Errorf("%s of %s is %q (%v), want %q", s.v1, tc.pod, got, err, want)
			}
		}
	}
}

// cgroupPlace checks between the machine's root and the pod: the directories of
// the classes are nested below kubepods, guaranteed pods are in it directly.
func (ns *namespace) cgroupPlace(uid, class string) {
	ns.Helper()
	path, err := ns.node.cgroupOf("memory", uid)
	if err != nil {
		ns.Fatal(err)
	}
	got := ""
	for _, name := range []string{"burstable", "besteffort"} {
		if strings.Contains(path, name) {
			got = name
		}
	}
	if got != class || !strings.Contains(path, "kubepods") {
		ns.Errorf("the cgroup is %s, want it in kubepods %s", path, class)
	}
}

// quota is how a CPU limit looks in the kernel, in microseconds of each 100 ms.
func quota(us int) string {
	if !cgroup2() {
		return strconv.Itoa(us)
	}
	if us < 0 {
		return "max 100000"
	}
	return fmt.Sprintf("%d 100000", us)
}

// shares is a pod's CPU request in version 1 or, as the kubelet maps the range
// 2..262144 to 1..10000, its weight in version 2.
func shares(n int) string {
	if !cgroup2() {
		return strconv.Itoa(n)
	}
	return strconv.Itoa(1 + (n-2)*9999/262142)
}

const limited = `
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "tail /dev/zero"]
    resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "while :; do :; done"]
    resources: {limits: {cpu: 50m}}
`

func TestLimits(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(limited)
	ended := ns.finishedPod("greedy").Status.ContainerStatuses[0].State.Terminated
	ns.mustEqual("the reason of the greedy container's end", ended.Reason, "OOMKilled")
	ns.mustEqual("its exit code", ended.ExitCode, int32(137))
	ns.mustContain(ns.kubectl("describe", "pod", "greedy"), "OOMKilled")

	busy := ns.readyPod("busy")
	ns.eventually("the busy container to be throttled", func() error {
		stat, err := ns.node.cgroupValue(cpuStat, string(busy.UID))
		if err != nil {
			return err
		}
		for _, line := range lines(stat) {
			name, value, _ := strings.Cut(line, " ")
			if periods, _ := strconv.Atoi(value); name == "nr_throttled" && periods > 10 {
				return nil
			}
		}
		return errors.New(stat)
	})
	ns.kubectl("delete", "pod", "busy", "--wait=false")
}

const sharedPIDs = `
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
  - name: other
    image: e2e.local/busybox:1
    command: [sleep, "200000"]
`

// TestPause: the pause process is the init of a shared PID namespace: it becomes
// the parent of orphans and waits for them.
func TestPause(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sharedPIDs)
	ns.readyPod("shared")
	ns.mustEqual("PID 1", ns.exec("shared", "cat", "/proc/1/comm"), "pause")
	ns.mustContain(ns.exec("shared", "ps", "-o", "args"), "sleep 100000", "sleep 200000")

	// The inner shell ends at once and leaves its child.
	pid := ns.exec("shared", "sh", "-c", `sh -c 'sleep 5 >/dev/null 2>&1 </dev/null & echo $!'`)
	ns.mustContain(ns.exec("shared", "cat", "/proc/"+pid+"/status"), "PPid:\t1\n")
	ns.eventually("the orphan to be reaped", func() error {
		out, err := ns.tryKubectl("exec", "shared", "--", "sh", "-c", "grep State /proc/"+pid+"/status || echo gone")
		if err == nil && strings.TrimSpace(out) != "gone" {
			err = errors.New("the process is " + out)
		}
		return err
	})
}

const volumes = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: green, key: from-configmap}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {tier: front}, annotations: {note: hello}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: empty, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: node, hostPath: {path: $DIR/hostpath-$NS, type: DirectoryOrCreate}}
  - {name: settings, configMap: {name: settings}}
  - {name: password, secret: {secretName: password, defaultMode: 0400}}
  - name: all
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: e2e-audience, expirationSeconds: 600}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
      - configMap: {name: settings, items: [{key: color, path: sub/color}]}
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
    resources: {limits: {memory: 48Mi}}
    env:
    - {name: KEY, valueFrom: {configMapKeyRef: {name: settings, key: key}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    volumeMounts: &mounts
    - {name: empty, mountPath: /empty}
    - {name: memory, mountPath: /memory}
    - {name: node, mountPath: /node}
    - {name: settings, mountPath: /settings}
    - {name: password, mountPath: /password}
    - {name: all, mountPath: /all}
  - name: other
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
    volumeMounts: *mounts
`

func TestVolumesAndEnvironment(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(volumes)
	pod := ns.readyPod("volumes")
	ns.exec("volumes", "sh", "-c", "echo shared > /empty/file; echo out > /node/file")
	for _, tc := range []struct{ command, want string }{
		{"echo $KEY $WORD $NODE_NAME $POD_IP $NOTE $MEMORY",
			fmt.Sprintf("from-configmap hunter2 %s %s hello %d", ns.node.id, pod.Status.PodIP, 48<<20)},
		{"cat /settings/color /all/sub/color", "greengreen"},
		{"cat /password/word", "hunter2"},
		{"stat -L -c %a /password/word", "400"},
		{"cat /all/labels", `tier="front"`},
		{"stat -f -c %T /memory /password", "tmpfs\ntmpfs"},
		{"cat /empty/file", "shared"},
	} {
		ns.mustEqual(tc.command, ns.exec("volumes", "sh", "-c", tc.command), tc.want)
	}
	ns.mustEqual("the file in the other container",
		strings.TrimSpace(ns.kubectl("exec", "volumes", "--container=other", "--", "cat", "/empty/file")), "shared")
	ns.hostFile("file", "out")
	ns.projectedToken(ns.exec("volumes", "cat", "/all/token"))

	ns.kubectl("patch", "configmap", "settings", "--patch", `{"data":{"color":"blue"}}`)
	ns.eventually("the changed ConfigMap in the pod", func() error {
		if got := ns.exec("volumes", "cat", "/settings/color"); got != "blue" {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// projectedToken asks the API server whose token it is, for its audience and for
// another one.
func (ns *namespace) projectedToken(token string) {
	ns.Helper()
	review := func(audience string) authenticationv1.TokenReviewStatus {
		r, err := ns.client.AuthenticationV1().TokenReviews().Create(ns.Context(), &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}},
		}, metav1.CreateOptions{})
		if err != nil {
			ns.Fatal(err)
		}
		return r.Status
	}
	good := review("e2e-audience")
	ns.mustEqual("the token's user", good.User.Username, "system:serviceaccount:"+ns.name+":default")
	ns.mustEqual("the token in another audience", review("another").Authenticated, false)

	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		ns.Fatal(err)
	}
	var bound struct {
		Kubernetes struct {
			Pod struct{ Name string } `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(claims, &bound); err != nil {
		ns.Fatal(err)
	}
	ns.mustEqual("the pod that the token is bound to", bound.Kubernetes.Pod.Name, "volumes")
}

const restricted = `
apiVersion: v1
kind: Pod
metadata: {name: restricted}
spec:
  terminationGracePeriodSeconds: 1
  securityContext:
    runAsUser: 1234
    runAsGroup: 2345
    fsGroup: 3456
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
  volumes:
  - {name: empty, emptyDir: {}}
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
    volumeMounts: [{name: empty, mountPath: /empty}]
  - name: added
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
    securityContext:
      runAsUser: 0
      runAsNonRoot: false
      seccompProfile: {type: Unconfined}
      capabilities: {drop: [ALL], add: [NET_ADMIN]}
---
apiVersion: v1
kind: Pod
metadata: {name: refused}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true}
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sleep, "100000"]
`

func TestSecurityContext(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(restricted)
	ns.readyPod("restricted")
	ns.mustEqual("id", ns.exec("restricted", "sh", "-c", "echo $(id -u) $(id -g)"), "1234 2345")
	ns.exec("restricted", "touch", "/empty/file")
	ns.mustEqual("the group of a file on the volume", ns.exec("restricted", "stat", "-c", "%g", "/empty"), "3456")
	r := ns.kubectlResult("", "exec", "restricted", "--", "touch", "/file")
	ns.mustContain(r.stderr, "Read-only file system")

	status := ns.exec("restricted", "cat", "/proc/1/status")
	ns.mustContain(status, "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2")
	other := ns.kubectl("exec", "restricted", "--container=added", "--", "cat", "/proc/1/status")
	ns.mustContain(other, "CapEff:\t0000000000001000", "Seccomp:\t0")

	ns.podThat("refused", "may not be created", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	ns.mustContain(ns.kubectl("describe", "pod", "refused"), "runAsNonRoot")
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
		links, _ := filepath.Glob(ns.node.inside("/var/log/containers/talker_" + ns.name + "_main-*.log"))
		if len(links) != 1 {
			return fmt.Errorf("there are %d links", len(links))
		}
		target, err := os.Readlink(links[0])
		if err != nil {
			return err
		}
		text, err := os.ReadFile(ns.node.inside(target))
		if err == nil && !strings.Contains(string(text), "stdout F "+ns.name+"-line-1-end") {
			err = fmt.Errorf("the log is:\n%s", text)
		}
		return err
	})
}
