package host

import (
	"fmt"
	"slices"
	"strings"
)

// memoryWord turns the memory cgroup on. Kernels before 5.10 of Raspberry Pi OS also wanted
// cgroup_memory=1.
const memoryWord = "cgroup_enable=memory"

// checkMemoryCgroup is the check that most boards fail at first: the firmware of a
// Raspberry Pi turns the controller off unless it is told otherwise.
func (m machine) checkMemoryCgroup(f Facts) Check {
	const name, message = "memory cgroup", "the memory cgroup is disabled, the kubelet cannot run without it"
	switch {
	case f.Cgroup.Version == 0:
		return fail(name, "mount cgroup2 on /sys/fs/cgroup", "no cgroup file system is mounted on /sys/fs/cgroup")
	case f.Cgroup.Has("memory"):
		return ok(name, "the memory cgroup is enabled (cgroup v%d)", f.Cgroup.Version)
	}
	running := strings.Fields(m.read("proc/cmdline"))
	on, off := lastIndex(running, memoryWord), lastIndex(running, "cgroup_disable=memory")
	switch {
	case on >= 0 && on > off:
		return fail(name, "update the kernel and reboot, or use one with CONFIG_MEMCG",
			"%s is on the kernel's command line, and this kernel (%s) ignores it: %s", memoryWord, f.Kernel, message)
	case strings.Contains(f.Model, "Raspberry Pi"):
		why, fix := m.piFix(on >= 0)
		return fail(name, fix, "%s%s", message, why)
	case off >= 0:
		return fail(name, "remove cgroup_disable=memory from the kernel command line in the boot loader and reboot", message)
	}
	return fail(name, "boot with "+memoryWord+m.bootFile()+", or use a kernel with CONFIG_MEMCG", message)
}

func lastIndex(words []string, word string) int {
	for i, w := range slices.Backward(words) {
		if w == word {
			return i
		}
	}
	return -1
}

// Files of the kernel's command line. The firmware's moved in Raspberry Pi OS 12.
const (
	piFile    = "boot/firmware/cmdline.txt"
	piOldFile = "boot/cmdline.txt"
)

// piFix says why the word is not effective on a Raspberry Pi, and what to do. isOn says
// that the running kernel has it, but not last.
func (m machine) piFix(isOn bool) (why, fix string) {
	file := piFile
	if !m.exists(piFile) && m.exists(piOldFile) {
		file = piOldFile
	}
	line, rest, _ := strings.Cut(m.read(file), "\n")
	add := fmt.Sprintf("add %s cgroup_memory=1 to the end of the line in /%s and reboot, as by: sed -i '1s/$/ %s cgroup_memory=1/' /%s && reboot", memoryWord, file, memoryWord, file)
	switch {
	case isOn:
		return ", as cgroup_disable=memory comes after " + memoryWord, "remove cgroup_disable=memory from /" + file + " and reboot"
	case hasWord(line):
		return ", and /" + file + " was changed since the last boot", "reboot"
	case hasWord(rest):
		return fmt.Sprintf(", as %s is not in the first line of /%s, the only one that counts", memoryWord, file), "make it one line and reboot"
	case file == piFile && hasWord(m.read(piOldFile)):
		return ", as the firmware reads /" + piFile + " and not /" + piOldFile, add
	}
	return "", add
}

func hasWord(line string) bool { return slices.Contains(strings.Fields(line), memoryWord) }

// bootFile says where other boards and machines keep the kernel's command line.
func (m machine) bootFile() string {
	for _, f := range []struct{ file, how string }{
		{"boot/armbianEnv.txt", " (extraargs=%s in /boot/armbianEnv.txt)"},
		{"boot/dietpiEnv.txt", " (extraargs=%s in /boot/dietpiEnv.txt)"},
		{"boot/extlinux/extlinux.conf", " (%s at the end of the line append in /boot/extlinux/extlinux.conf)"},
		{"etc/default/grub", " (GRUB_CMDLINE_LINUX=%s in /etc/default/grub, then update-grub)"},
	} {
		if m.exists(f.file) {
			return fmt.Sprintf(f.how, memoryWord)
		}
	}
	return ""
}

func checkControllers(f Facts) Check {
	const name = "cgroup controllers"
	needed := []string{"cpu", "cpuset", "pids"}
	if f.Cgroup.Version == 1 {
		needed = append(needed, "cpuacct", "devices", "freezer")
	}
	var missing []string
	for _, controller := range needed {
		if !f.Cgroup.Has(controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		return fail(name, "use a kernel that has them and no cgroup_disable= that turns them off",
			"cgroup controllers are missing on /sys/fs/cgroup: %s", strings.Join(missing, ", "))
	}
	return ok(name, "%s are there", strings.Join(needed, ", "))
}

// checkCgroupsWritable detects containers. The kubelet would end the process.
func checkCgroupsWritable(f Facts) Check {
	const name = "cgroups writable"
	if dirs := f.Cgroup.ReadOnly; len(dirs) > 0 {
		return fail(name, "mount -o remount,bind,rw "+dirs[0]+" and the like, or have the container's manager do so (privileged; for systemd-nspawn SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes)",
			"control groups are mounted read-only, no pod could start: %s", strings.Join(dirs, ", "))
	}
	return ok(name, "brink may make control groups")
}

func checkCgroupVersion(f Facts) Check {
	const name = "cgroup version"
	if f.Cgroup.Version == 1 {
		return warn(name, "boot with systemd.unified_cgroup_hierarchy=1, or update the distribution, before the next version of Kubernetes",
			"this machine uses cgroup v1, which Kubernetes 1.37 no longer supports")
	}
	return ok(name, "cgroup v%d", f.Cgroup.Version)
}

// checkCgroupDriver says who makes the groups of pods, unless the kubelet's flags or files
// name another driver.
func checkCgroupDriver(f Facts) Check {
	const name = "cgroup driver"
	switch {
	case f.SystemdCgroup():
		return ok(name, "systemd makes the control groups of pods, in slices")
	case f.Systemd && f.Cgroup.Version == 2:
		return warn(name, "run brink where /run/systemd/private or /run/dbus/system_bus_socket is",
			"systemd is the init of this machine and has no socket here, brink makes the control groups of pods beside it")
	}
	return ok(name, "brink makes the control groups of pods by itself (cgroupfs)")
}
