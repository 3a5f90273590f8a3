package e2e

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const probes = `
apiVersion: v1
kind: Pod
metadata: {name: probed, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/server:1
    livenessProbe: {httpGet: {path: /check/live, port: 8080}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 2}
    readinessProbe: {httpGet: {path: /check/ready, port: 8080}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}
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
    startupProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1000}
    livenessProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}
    readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1, timeoutSeconds: 10}
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
		return restarts(p) >= 1 && podReady(p)
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
