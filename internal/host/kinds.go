package host

// Kind explains the checks of one name to people who read about them, such as in the
// documentation: what a Check itself says is about one machine.
type Kind struct {
	// Name is the check's name. "port N" stands for each of the node's ports, as in
	// "port 6443" or "port 8472/udp".
	Name string
	// Worst is the worst result it can have.
	Worst Result
	// Asks is what has to be so, and why: a sentence without its full stop.
	Asks string
	// Cure is what the owner of the machine does when it is not so.
	Cure string
}

// Kinds explains every check that Checks makes, in its order.
func Kinds() []Kind {
	kinds := []Kind{{"proc", Fail, "/proc is mounted, by which the other checks look at the machine", "mount it"}}
	kinds = append(kinds, hostKinds...)
	for _, f := range append(features[:len(features):len(features)], vxlan) {
		worst := Fail
		if f == vxlan {
			worst = Warn
		}
		kinds = append(kinds, Kind{f.name, worst, "the kernel has " + f.module + ", which is needed for " + f.needed,
			"use a kernel with CONFIG_" + f.config + ", or install the package with its extra modules"})
	}
	return append(kinds, placeKinds...)
}

// hostKinds are those before the kernel's features.
var hostKinds = []Kind{
	{"root", Fail, "brink runs as root, without which there are no containers", "run it with sudo or as a systemd service"},
	{"capabilities", Fail, "root may mount and configure the network, and is root of the machine", "run brink outside of containers, or in a privileged one"},
	{"memory cgroup", Fail, "the memory cgroup is enabled; the firmware of a Raspberry Pi turns it off",
		"add cgroup_enable=memory cgroup_memory=1 to the end of the one line in /boot/firmware/cmdline.txt (before Raspberry Pi OS 12 /boot/cmdline.txt) and reboot"},
	{"cgroup controllers", Fail, "the cgroup controllers cpu, cpuset and pids are there, and with cgroup v1 cpuacct, devices and freezer",
		"use a kernel that has them, and no cgroup_disable= that turns them off"},
	{"cgroups writable", Fail, "control groups may be made: containers often mount them read-only", "mount -o remount,bind,rw, or have the container's manager do so"},
	{"cgroup version", Warn, "the machine uses cgroup v2, as Kubernetes 1.37 no longer supports v1", "boot with systemd.unified_cgroup_hierarchy=1, or update the distribution"},
	{"cgroup driver", Warn, "says who makes the control groups of pods: systemd where it is the init and cgroup v2 is in use, and its socket is there, otherwise brink", "run brink where it can reach systemd"},
	{"kernel", Fail, "the kernel is Linux 5.13 or later, which services by nftables need, and its modules are still there (else a warning)", "update the kernel; reboot after an update"},
	{"seccomp", Warn, "the kernel can filter system calls; without it pods run without a seccomp profile", "use a kernel with CONFIG_SECCOMP_FILTER"},
	{"nft", Fail, "there is a program nft for services: the host's, in version 1.0.1 or later and with /etc/protocols, or else brink's own, which it carries", "nothing is to be done; a build without one of its own needs the packages nftables and netbase"},
}

// placeKinds are those after the kernel's features.
var placeKinds = []Kind{
	{"hosts file", Fail, "there is an /etc/hosts, which pods get, or brink may make one", "write 127.0.0.1 localhost into it"},
	{"ip forwarding", Fail, "the kernel forwards packets between pods and other networks, or lets brink turn that on", "set net.ipv4.ip_forward=1"},
	{"bridged packets", Fail, "packets between pods of one node pass the rules of services, or brink may turn that on", "set net.bridge.bridge-nf-call-iptables=1"},
	{"reverse path filter", OK, "says how strictly the kernel checks source addresses; brink makes it loose on its VXLAN device", "nothing is to be done"},
	{"inotify", Warn, "the limits of inotify are high enough for pods that watch files", "put fs.inotify.max_user_instances=512 and fs.inotify.max_user_watches=65536 into /etc/sysctl.d/90-brink.conf and run sysctl --system"},
	{"firewalld", Warn, "a running firewalld lets in 6443/tcp on a server, 8472/udp with VXLAN, and pods", "the lines of firewall-cmd that the check names"},
	{"ufw", Warn, "an enabled ufw lets in the same, and routes what pods send", "the lines of ufw that the check names"},
	{"iptables-legacy", Warn, "no rules of iptables-legacy, which nft does not show, drop what pods send", "the lines that the check names, or remove the rules"},
	{"NetworkManager", Warn, "brink may tell a running NetworkManager to leave the links of pods alone, by " + NetworkManagerFile, "write the file that the check names"},
	{"dhcpcd", Warn, "a running dhcpcd leaves the links of pods alone", "add denyinterfaces " + podLinks + " " + ownLinks + " to /etc/dhcpcd.conf and restart it"},
	{"systemd-networkd", Warn, "a running systemd-networkd has no file that takes the links of pods, as by Name=* or Type=ether", "write " + networkdFile + " as the check says, and networkctl reload"},
	{"other Kubernetes", Warn, "nothing of k3s, rke2, k0s, kubeadm or MicroK8s is installed, and no link of theirs is left", "their own uninstaller, which the check names"},
	{"AppArmor", Warn, "where AppArmor is on, apparmor_parser is installed; without it containers run without a profile", "install the package apparmor"},
	{"SELinux", Warn, "where SELinux is enforcing, it has the policy for containers", "install the package container-selinux, or make SELinux permissive"},
	{"memory", Warn, "the machine has 460 MiB of memory for a server, 230 for an agent; the check says what is left for pods", "run only an agent there, or give it swap in compressed memory (zram)"},
	{"swap", Warn, "swap is not on a flash card", "use zram instead"},
	{FilesCheck, Warn, "brink may have 4096 files open, which a node with many pods needs", "set LimitNOFILE=1048576 in its unit, ulimit -n or limits.conf"},
	{UnitCheck, Warn, "systemd leaves pods running when brink's unit stops or restarts", "put KillMode=process and Delegate=yes into its [Service] section and run systemctl daemon-reload"},
	{"data directory", Fail, "the data directory can be written", "make it writable, or choose another with --data-dir"},
	{"file system", Fail, "the data directory is on a file system on which overlayfs and databases work, on a disk, and not mounted noexec", "choose a directory on ext4, xfs, btrfs or f2fs with --data-dir"},
	{"disk space", Warn, "1 GiB and 20,000 inodes are free in the data directory, for images", "free some, or choose another place with --data-dir"},
	{"overlay mount", Warn, "overlayfs works in the data directory; without it images are copied for each container", "choose a directory on ext4, xfs or btrfs with --data-dir"},
	{portKind, Fail, "no other program listens on a port that the node needs, no two parts of brink want the same, and its address is one of this machine", "stop that program, or choose another port or address with the flag that the check names"},
	{ClockCheck, Fail, "the clock is not before brink was built, as on a board without a battery; a start waits a minute for a time server and then sets it (a warning), unless it may not or the clock is said to be right", "set it with date, and let systemd-timesyncd, chrony or a clock with a battery keep it"},
	{"node name", Fail, "the name is one for a node: lower case letters, digits, - and ., at most 63 bytes, and not localhost", "rename the machine with hostnamectl, or give another name with --node-name"},
}

const portKind = "port N"
