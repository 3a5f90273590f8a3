package kubelet

import (
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	"k8s.io/kubernetes/pkg/kubelet/util"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
)

// seeing tells of pods. Upstream asks a tracker of latencies to look at each pod of
// the API server when it comes out of the watch, before anything is made for it. Of
// a static pod the API server knows a mirror, which names it.
type seeing struct {
	util.PodStartupLatencyTracker
	saw func(uid string)
}

// ObservedPodOnWatch is called before the kubelet hears of the pod.
func (s seeing) ObservedPodOnWatch(pod *corev1.Pod, when time.Time) {
	s.saw(string(pod.UID))
	if static := pod.Annotations[kubetypes.ConfigMirrorAnnotationKey]; static != "" {
		s.saw(static)
	}
	s.PodStartupLatencyTracker.ObservedPodOnWatch(pod, when)
}

// Tunables are the kernel settings that the kubelet changes, and their values
// (container_manager_linux.go: setupKernelTunables).
func Tunables() map[string]string {
	return map[string]string{
		sysctl.VMOvercommitMemory: strconv.Itoa(sysctl.VMOvercommitMemoryAlways),
		sysctl.VMPanicOnOOM:       strconv.Itoa(sysctl.VMPanicOnOOMInvokeOOMKiller),
		sysctl.KernelPanic:        strconv.Itoa(sysctl.KernelPanicRebootTimeout),
		sysctl.KernelPanicOnOops:  strconv.Itoa(sysctl.KernelPanicOnOopsAlways),
		sysctl.RootMaxKeys:        strconv.Itoa(sysctl.RootMaxKeysSetting),
		sysctl.RootMaxBytes:       strconv.Itoa(sysctl.RootMaxBytesSetting),
	}
}

// resolving follows links where upstream compares a path with the kernel's table of
// mounts as it is: with a link in the path of its directory the kubelet finds no
// shared mount there, and binds the directory over itself once more at every start.
// The containers that run go on seeing what is below.
type resolving struct{ hostutil.HostUtils }

// MakeRShared makes the mount on which path lies shared.
func (r resolving) MakeRShared(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return r.HostUtils.MakeRShared(path)
}
