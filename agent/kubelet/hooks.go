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

// podObserver calls observe with the uid of each pod. It takes the place of upstream's tracker
// of latencies, which hears of each pod of the API server when the watch delivers it,
// before anything is made for the pod. A static pod, which is from a file on the node, has
// a mirror in the API server, with the static pod's uid in an annotation.
type podObserver struct {
	util.PodStartupLatencyTracker
	observe func(uid string)
}

// ObservedPodOnWatch is called before the kubelet learns of the pod.
func (o podObserver) ObservedPodOnWatch(pod *corev1.Pod, when time.Time) {
	o.observe(string(pod.UID))
	if static := pod.Annotations[kubetypes.ConfigMirrorAnnotationKey]; static != "" {
		o.observe(static)
	}
	o.PodStartupLatencyTracker.ObservedPodOnWatch(pod, when)
}

// Tunables returns the kernel settings that the kubelet changes, and their values
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

// resolving follows links before upstream compares a path with the kernel's table of
// mounts. With a link in the path of its directory, the kubelet would find no shared mount
// there and bind the directory on itself again at every start, and running containers
// would still see what is below.
type resolving struct{ hostutil.HostUtils }

// MakeRShared makes the mount that path is on shared.
func (r resolving) MakeRShared(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return r.HostUtils.MakeRShared(path)
}
