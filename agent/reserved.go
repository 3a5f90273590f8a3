package agent

import (
	"fmt"
	"slices"

	"brink/internal/componentargs"
	"brink/internal/host"
)

// Reserved are the resources of a machine that pods may not have. The kubelet limits all
// pods together to the rest, so that a pod that takes all memory or forks without end
// hits a limit before brink and the system do, and the scheduler counts with the
// rest. Upstream reserves nothing and leaves that to distributions.
type Reserved struct {
	// Kube and System are bytes for brink and for everything else but pods.
	Kube, System uint64
	// KubeCPU and SystemCPU are thousandths of a core.
	KubeCPU, SystemCPU int
	// Tasks is the number of processes and threads, PodTasks the most that one pod may have.
	Tasks, PodTasks uint64
}

const (
	mebi = 1 << 20
	// What a node needs with and without a control plane. docs/benchmarks.md has 225 MB
	// and 98 MB when idle.
	kubeWithServer, kubeAlone = 256 * mebi, 112 * mebi
	// The system gets a twentieth of the memory, as its caches grow with the machine,
	// and at least what a small distribution needs.
	systemLeast, systemMost = 24 * mebi, 256 * mebi
	// tasksMost is enough for brink, the shims of 110 pods and the system.
	tasksLeast, tasksMost = 256, 2048
	// podTasksMost is OpenShift's default, which the CIS benchmark accepts.
	podTasksLeast, podTasksMost = 256, 4096
)

// Reserve computes what suits the machine. On a board of 512 MB that is two fifths, less
// than brink needs: pods have to fit too, and the kubelet evicts the greediest when only
// 100 MB are left.
func Reserve(f host.Facts, withServer bool) Reserved {
	r := Reserved{Kube: kubeAlone, KubeCPU: 50, SystemCPU: 50}
	if withServer {
		r.Kube, r.KubeCPU = kubeWithServer, 100
	}
	r.System = min(max(f.Memory/20, systemLeast), systemMost)
	if most := f.Memory * 2 / 5; r.Kube+r.System > most {
		r.System = min(r.System, most/4)
		r.Kube = most - r.System
	}
	r.Tasks = min(max(f.Tasks/10, tasksLeast), tasksMost, f.Tasks/2)
	r.PodTasks = min(max(f.Tasks/4, podTasksLeast), podTasksMost)
	return r
}

// kubeletFlags returns flags for the kubelet, given the user's args. Nothing is reserved for
// brink and the system if the user reserves anything for one of them, or memory on NUMA
// nodes. Where the size of the machine is unknown there are no flags.
func (r Reserved) kubeletFlags(args []string) []string {
	var flags []string
	if !isGiven(args, reservedByUser...) && r.Kube > 0 {
		kube := fmt.Sprintf("kube-reserved=cpu=%dm,memory=%dMi", r.KubeCPU, r.Kube/mebi)
		if r.Tasks > 0 {
			kube += fmt.Sprintf(",pid=%d", r.Tasks)
		}
		flags = append(flags, kube, fmt.Sprintf("system-reserved=cpu=%dm,memory=%dMi", r.SystemCPU, r.System/mebi))
	}
	if r.Tasks > 0 {
		flags = append(flags, fmt.Sprintf("pod-max-pids=%d", r.PodTasks))
	}
	return flags
}

var reservedByUser = []string{"kube-reserved", "system-reserved", "reserved-memory"}

// isGiven reports whether one of the flags is among args.
func isGiven(args []string, flags ...string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return slices.Contains(flags, componentargs.Name(arg)) })
}

// CheckReserved returns what pods may have of the machine, for `brink check`.
func CheckReserved(f host.Facts, withServer bool, args []string) host.Check {
	c := host.Check{Name: "reserved", Result: host.OK}
	if isGiven(args, append(reservedByUser, "pod-max-pids", "config", "config-dir")...) {
		c.Message = "what pods may not have of this machine is set by --kubelet-arg"
		return c
	}
	r := Reserve(f, withServer)
	c.Message = fmt.Sprintf("pods may have %d of %d MiB memory together and %d processes each; brink keeps %d MiB, the system %d",
		(f.Memory-min(f.Memory, r.Kube+r.System))/mebi, f.Memory/mebi, r.PodTasks, r.Kube/mebi, r.System/mebi)
	return c
}
