package upstream

import (
	"log/slog"
	"runtime"
	"slices"
	"strings"
)

// lastWords are the functions of Kubernetes that log an error and end the
// process by os.Exit in the next statement, a package each. Nothing of ours runs
// after that call, so the error has to be shown when it is logged: it is all
// that anybody ever hears of why the node is gone. klog's own ways to end the
// process are caught by klog.OsExit.
//
// A test reads the sources of the modules that are linked and compares.
var lastWords = map[string][]string{
	"k8s.io/kubernetes/pkg/kubelet":             {"Run", "initializeRuntimeDependentModules"},
	"k8s.io/kubernetes/pkg/kubelet/certificate": {"addCertRotation"},
	"k8s.io/kubernetes/pkg/kubelet/kuberuntime": {"NewKubeGenericRuntimeManager"},
	"k8s.io/kubernetes/pkg/kubelet/server": {
		"ListenAndServeKubeletReadOnlyServer", "ListenAndServeKubeletServer", "ListenAndServePodResources", "ListenAndServePodsServer",
	},
}

// isLastWord tells whether r is an error of a function in lastWords.
func isLastWord(r slog.Record) bool {
	if r.Level < slog.LevelError || r.PC == 0 {
		return false
	}
	frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
	return endsProcess(frame.Function)
}

// endsProcess tells whether a function, as the runtime names it, is in lastWords
// or a closure in one of them: import/path.(*Type).Method.func1.
func endsProcess(function string) bool {
	slash := strings.LastIndexByte(function, '/') + 1
	last, rest, _ := strings.Cut(function[slash:], ".")
	enders := lastWords[function[:slash]+last]
	return slices.ContainsFunc(strings.Split(rest, "."), func(part string) bool { return slices.Contains(enders, part) })
}
