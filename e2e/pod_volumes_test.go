package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
			fmt.Sprintf("from-configmap hunter2 %s %s hello %d", ns.node.ID, pod.Status.PodIP, 48<<20)},
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
	ns.mustContain(r.Stderr, "Read-only file system")

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
