package host

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Memory of a node, in bytes. brink itself has 225 MB with a control plane and 98 MB
// without one when idle (docs/benchmarks.md), and half as much again while it is asked.
const (
	minServerMemory = 460 << 20 // a board of 512 MB less what the firmware keeps
	minAgentMemory  = 230 << 20
	serverUses      = 225 << 20
	agentUses       = 98 << 20
	systemUses      = 64 << 20
)

// checkMemory says what is left for pods on a small board.
func checkMemory(f Facts, joins bool) Check {
	const name = "memory"
	least, uses, fix := uint64(minServerMemory), uint64(serverUses), "run only an agent here, which takes 98 MiB, or give it swap in compressed memory (zram)"
	if joins {
		least, uses, fix = minAgentMemory, agentUses, "give it swap in compressed memory (zram)"
	}
	if f.Memory == 0 || f.Memory >= least {
		return ok(name, "%d MiB", f.Memory>>20)
	}
	if strings.Contains(f.Model, "Raspberry Pi") {
		fix += ", and put gpu_mem=16 into config.txt if no screen is used"
	}
	left := uint64(0)
	if f.Memory > uses+systemUses {
		left = f.Memory - uses - systemUses
	}
	return warn(name, fix, "this machine has %d MiB of memory, of which brink takes %d when idle and the system some %d: about %d are left for pods",
		f.Memory>>20, uses>>20, systemUses>>20, left>>20)
}

// checkSwap warns of swap on a flash card, which wears out. The kubelet starts with swap,
// and pods get none of it.
func (m machine) checkSwap() Check {
	const name = "swap"
	for line := range strings.Lines(m.read("proc/swaps")) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] == "Filename" {
			continue
		}
		if onCard := strings.HasPrefix(words[0], "/dev/mmcblk"); onCard || words[1] == "file" && m.rootOnCard() {
			return warn(name, "use compressed memory instead: apt install zram-tools, and swapoff "+words[0]+" (on Raspberry Pi OS before 13: systemctl disable --now dphys-swapfile)",
				"swap is on a flash card (%s), which it wears out and which is too slow for it", words[0])
		}
		return ok(name, "%s", words[0])
	}
	return ok(name, "none")
}

// rootOnCard reports whether the root file system is on a flash card.
func (m machine) rootOnCard() bool {
	for line := range strings.Lines(m.read("proc/self/mounts")) {
		if words := strings.Fields(line); len(words) > 1 && words[1] == "/" && strings.HasPrefix(words[0], "/dev/mmcblk") {
			return true
		}
	}
	return false
}

// distributions are others' Kubernetes, by a file that only an installation has.
var distributions = []struct{ file, name, remove string }{
	{"usr/local/bin/k3s-uninstall.sh", "k3s", "/usr/local/bin/k3s-uninstall.sh"},
	{"usr/local/bin/k3s-agent-uninstall.sh", "k3s", "/usr/local/bin/k3s-agent-uninstall.sh"},
	{"var/lib/rancher/k3s", "k3s", "rm -r /var/lib/rancher/k3s /etc/rancher/k3s, when nothing in there is needed"},
	{"var/lib/rancher/rke2", "rke2", "rke2-uninstall.sh"},
	{"var/lib/k0s", "k0s", "k0s stop && k0s reset"},
	{"etc/kubernetes/kubelet.conf", "kubeadm", "kubeadm reset"},
	{"var/snap/microk8s", "MicroK8s", "snap remove --purge microk8s"},
}

// otherLinks are what such an installation leaves in the kernel.
var otherLinks = []string{"cni0", "flannel.1", "kube-ipvs0", "kube-bridge", "cilium_host"}

// checkLeftovers looks for another Kubernetes. It may be there and not run.
func (m machine) checkLeftovers() Check {
	const name = "other Kubernetes"
	for _, d := range distributions {
		if m.exists(d.file) {
			return warn(name, "if it is not used any more: "+d.remove, "%s is installed here, or was (/%s)", d.name, d.file)
		}
	}
	for _, link := range otherLinks {
		if m.exists(filepath.Join("sys/class/net", link)) {
			return warn(name, "ip link delete "+link+", or reboot, if nothing uses it", "the link %s of another Kubernetes is here", link)
		}
	}
	return ok(name, "none")
}

// checkAppArmor detects a machine whose kernel has AppArmor and nothing to load profiles with.
func (m machine) checkAppArmor(f Facts) Check {
	const name = "AppArmor"
	if m.read("sys/module/apparmor/parameters/enabled") != "Y" {
		return ok(name, "is off")
	}
	if !f.AppArmor {
		return warn(name, installHint(f.Distribution, "apparmor"), "AppArmor is on and apparmor_parser is not installed: containers run without a profile, and pods that ask for one do not start")
	}
	return ok(name, "containers get a profile")
}

func (m machine) checkSELinux() Check {
	const name = "SELinux"
	switch m.read("sys/fs/selinux/enforce") {
	case "1":
		if m.exists("usr/share/selinux/packages/container.pp.bz2") || m.exists("usr/share/selinux/packages/targeted/container.pp.bz2") || m.exists("var/lib/selinux/targeted/active/modules/200/container") {
			return ok(name, "is enforcing, and knows containers")
		}
		return warn(name, "dnf install container-selinux, or SELINUX=permissive in /etc/selinux/config and setenforce 0",
			"SELinux is enforcing and has no policy for containers: they run without labels, and may be kept from their files")
	case "0":
		return ok(name, "is permissive")
	}
	return ok(name, "is off")
}

// moduleHint returns how to get a module that the running kernel does not have.
func moduleHint(f Facts, want feature) string {
	release := f.Kernel
	switch id := first(f.Distribution); {
	case id == "ubuntu" && strings.Contains(f.Model, "Raspberry Pi"):
		return "apt install linux-modules-extra-raspi"
	case id == "ubuntu":
		return "apt install linux-modules-extra-" + release
	case id == "fedora", id == "rhel", id == "centos", id == "rocky", id == "almalinux":
		return "dnf install kernel-modules-" + release
	}
	return fmt.Sprintf("use a kernel with CONFIG_%s, or install the package with the kernel's extra modules", want.config)
}

func first(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return words[0]
}
