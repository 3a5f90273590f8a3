package upstream

import (
	"log/slog"
	"runtime"
	"slices"
	"strings"
)

// exitingFuncs are the functions of Kubernetes, by package, that log an error and end
// the process by os.Exit in the next statement. Nothing of ours runs after that call,
// so the error must be shown when it is logged: it is all that anybody ever hears of
// why the node is gone. klog's own ways to end the process are caught by klog.OsExit.
//
// A test reads the sources of the modules that are linked and compares.
var exitingFuncs = map[string][]string{
	"k8s.io/kubernetes/pkg/kubelet":             {"Run", "initializeRuntimeDependentModules"},
	"k8s.io/kubernetes/pkg/kubelet/certificate": {"addCertRotation"},
	"k8s.io/kubernetes/pkg/kubelet/kuberuntime": {"NewKubeGenericRuntimeManager"},
	"k8s.io/kubernetes/pkg/kubelet/server": {
		"ListenAndServeKubeletReadOnlyServer", "ListenAndServeKubeletServer", "ListenAndServePodResources", "ListenAndServePodsServer",
	},
}

// isFinal reports whether r is an error that a function in exitingFuncs logs.
func isFinal(r slog.Record) bool {
	if r.Level < slog.LevelError || r.PC == 0 {
		return false
	}
	frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
	return isExiting(frame.Function)
}

// isExiting reports whether a function is in exitingFuncs or a closure in one of them.
// It is named as the runtime does: import/path.(*Type).Method.func1.
func isExiting(function string) bool {
	slash := strings.LastIndexByte(function, '/') + 1
	last, rest, _ := strings.Cut(function[slash:], ".")
	enders := exitingFuncs[function[:slash]+last]
	return slices.ContainsFunc(strings.Split(rest, "."), func(part string) bool { return slices.Contains(enders, part) })
}
