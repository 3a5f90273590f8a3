package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"brink/e2e/machine"
)

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
		limits map[machine.Setting]string
	}{
		{"guaranteed", corev1.PodQOSGuaranteed, "", map[machine.Setting]string{machine.MemoryLimit: "67108864", machine.CPUQuota: quota(20000), machine.CPUShares: shares(204)}},
		{"burstable", corev1.PodQOSBurstable, "burstable", map[machine.Setting]string{machine.MemoryLimit: "33554432", machine.CPUQuota: quota(-1), machine.CPUShares: shares(102)}},
		{"besteffort", corev1.PodQOSBestEffort, "besteffort", map[machine.Setting]string{machine.CPUQuota: quota(-1), machine.CPUShares: shares(2)}},
	} {
		pod := ns.readyPod(tc.pod)
		ns.mustEqual(tc.pod+"'s class", pod.Status.QOSClass, tc.class)
		ns.cgroupPlace(string(pod.UID), tc.dir)
		for s, want := range tc.limits {
			for what, id := range map[string]string{"pod": string(pod.UID), "container": containerID(pod)} {
				got, err := ns.node.CgroupValue(s, id)
				if err != nil || got != want {
					t.Errorf("%s of the %s %s is %q (%v), want %q", s.V1, what, tc.pod, got, err, want)
				}
			}
		}
	}
}

// containerID is that of a pod's first container, as its cgroup is named.
func containerID(pod *corev1.Pod) string {
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	return id
}

// cgroupPlace checks between the machine's root and the pod: the directories of
// the classes are nested below kubepods, guaranteed pods are in it directly.
func (ns *namespace) cgroupPlace(uid, class string) {
	ns.Helper()
	path, err := ns.node.CgroupOf("memory", uid)
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
	if !machine.Cgroup2() {
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
	if !machine.Cgroup2() {
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
		stat, err := ns.node.CgroupValue(machine.CPUStat, containerID(busy))
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
	pid := ns.exec("shared", "sh", "-c", `sh -c 'sleep 300000 >/dev/null 2>&1 </dev/null & echo $!'`)
	ns.mustContain(ns.exec("shared", "cat", "/proc/"+pid+"/status"), "PPid:\t1\n")
	ns.exec("shared", "kill", pid)
	ns.eventually("the orphan to be reaped", func() error {
		out, err := ns.tryKubectl("exec", "shared", "--", "sh", "-c", "grep State /proc/"+pid+"/status || echo gone")
		if err == nil && strings.TrimSpace(out) != "gone" {
			err = errors.New("the process is " + out)
		}
		return err
	})
}
