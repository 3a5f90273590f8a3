package host

import (
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"
)

// wanted is a check that is not ok: its name, result and line.
type wanted struct {
	name   string
	result Result
	line   string
}

func requireChecks(t *testing.T, checks []Check, want []wanted) {
	t.Helper()
	var got []wanted
	for _, c := range checks {
		if strings.Contains(c.String(), "\n") {
			t.Errorf("%s is not one line: %q", c.Name, c)
		}
		if (c.Result == OK) != (c.Fix == "") || c.Message == "" {
			t.Errorf("%s is %s with the message %q and the fix %q", c.Name, c.Result, c.Message, c.Fix)
		}
		if c.Result != OK {
			got = append(got, wanted{c.Name, c.Result, c.String()})
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got\n%s\nwant\n%s", format(got), format(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got\n%s\nwant\n%s", format(got[i:i+1]), format(want[i:i+1]))
		}
	}
}

func format(checks []wanted) string {
	var b strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&b, "  %s | %s | %s\n", c.name, c.result, c.line)
	}
	return b.String()
}

func gzipped(text string) string {
	var b strings.Builder
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

const v1Line = "this machine uses cgroup v1, which Kubernetes 1.37 no longer supports: boot with systemd.unified_cgroup_hierarchy=1, or update the distribution, before the next version of Kubernetes"

// piLine is what is said of a Raspberry Pi whose line has no word yet.
func piLine(why, file string) string {
	return "the memory cgroup is disabled, the kubelet cannot run without it" + why + ": add cgroup_enable=memory cgroup_memory=1 to the end of the line in " + file +
		" and reboot, as by: sed -i '1s/$/ cgroup_enable=memory cgroup_memory=1/' " + file + " && reboot"
}

var noModules = files{
	"lib/modules/6.1.0-28-amd64/modules.builtin": "",
	"lib/modules/6.1.0-28-amd64/modules.dep":     "",
}
var noMemory = files{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}
var raspberry = noMemory.and(files{"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00"})

const builtInConfig = "CONFIG_OVERLAY_FS=y\nCONFIG_VETH=y\nCONFIG_BRIDGE=y\nCONFIG_BRIDGE_NETFILTER=y\nCONFIG_NF_TABLES=y\nCONFIG_NFT_NAT=y\nCONFIG_NFT_MASQ=y\nCONFIG_NFT_CT=y\nCONFIG_NFT_NUMGEN=y\nCONFIG_NFT_FIB_IPV4=y\nCONFIG_NFT_REJECT_IPV4=y\nCONFIG_VXLAN=y\n"

// machines are changes to a good machine, and what the checks say about them.
var machines = []struct {
	name     string
	changes  files
	programs map[string]string
	options  CheckOptions
	want     []wanted
}{
	{"a good machine", nil, nil, CheckOptions{VXLAN: true, NodeName: "shop-1"}, nil},
	{"not root", files{"proc/self/status": "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nSeccomp:\t0\n"}, nil, CheckOptions{}, []wanted{
		{"root", Fail, "brink needs root to run containers, and runs as user 1000: run it with sudo or as a systemd service"},
	}},
	{"root without rights", files{"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nSeccomp:\t0\n"}, nil, CheckOptions{}, []wanted{
		{"capabilities", Fail, "root has no CAP_SYS_ADMIN here: run brink outside of containers or in a privileged one"},
	}},
	{"a kernel without seccomp", files{"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t" + fullCapabilities + "\n"}, nil, CheckOptions{}, []wanted{
		{"seccomp", Warn, "the kernel cannot filter system calls, pods run without a seccomp profile: use a kernel with CONFIG_SECCOMP_FILTER"},
	}},
	{"few files and no right to more", files{
		"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\nSeccomp:\t0\n",
		"proc/self/limits": "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 1024                 files\n",
	}, nil, CheckOptions{}, []wanted{
		{"open files", Warn, "brink may have 1024 files open, a node with many pods needs 4096: give more by LimitNOFILE=1048576 in its unit, ulimit -n or limits.conf"},
	}},
	{"few files that a start raises", files{
		"proc/self/limits": "Max open files            1024                 1024                 files\n",
	}, nil, CheckOptions{}, nil},
	{"a limit without a number", files{
		"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\nSeccomp:\t0\n",
		"proc/self/limits": "Max open files            1024                 unlimited            files\n",
	}, nil, CheckOptions{}, nil},
	{"few files of a running brink", files{
		"proc/4711/limits": "Max open files            1024                 2048                 files\n",
		"proc/4711/cgroup": "0::/\n",
	}, nil, CheckOptions{PID: 4711}, []wanted{
		{"open files", Warn, "brink may have 2048 files open, a node with many pods needs 4096: give more by LimitNOFILE=1048576 in its unit, ulimit -n or limits.conf"},
	}},
	{"an unprivileged container", files{"proc/self/uid_map": "0 100000 65536\n"}, nil, CheckOptions{}, []wanted{
		{"capabilities", Fail, "user 0 here is not root of the machine but of a user namespace: run brink outside of unprivileged containers"},
	}},
	{"Raspberry Pi OS 12", raspberry.and(files{"boot/firmware/cmdline.txt": "console=tty1", "boot/cmdline.txt": "moved"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, piLine("", "/boot/firmware/cmdline.txt")},
	}},
	{"Raspberry Pi OS 11", raspberry.and(files{"boot/cmdline.txt": "console=tty1"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, piLine("", "/boot/cmdline.txt")},
	}},
	{"the words are in the file that the firmware does not read", raspberry.and(files{"boot/firmware/cmdline.txt": "console=tty1", "boot/cmdline.txt": "console=tty1 cgroup_enable=memory"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, piLine(", as the firmware reads /boot/firmware/cmdline.txt and not /boot/cmdline.txt", "/boot/firmware/cmdline.txt")},
	}},
	{"the words are there and the board was not rebooted", raspberry.and(files{"boot/firmware/cmdline.txt": "console=tty1 cgroup_enable=memory\n", "proc/cmdline": "cgroup_disable=memory console=tty1"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "the memory cgroup is disabled, the kubelet cannot run without it, and /boot/firmware/cmdline.txt was changed since the last boot: reboot"},
	}},
	{"the words are in a line of their own", raspberry.and(files{"boot/firmware/cmdline.txt": "console=tty1\ncgroup_memory=1 cgroup_enable=memory\n"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "the memory cgroup is disabled, the kubelet cannot run without it, as cgroup_enable=memory is not in the first line of /boot/firmware/cmdline.txt, the only one that counts: make it one line and reboot"},
	}},
	{"the words come before the one that turns it off", raspberry.and(files{"boot/firmware/cmdline.txt": "cgroup_enable=memory cgroup_disable=memory", "proc/cmdline": "cgroup_enable=memory cgroup_disable=memory"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "the memory cgroup is disabled, the kubelet cannot run without it, as cgroup_disable=memory comes after cgroup_enable=memory: remove cgroup_disable=memory from /boot/firmware/cmdline.txt and reboot"},
	}},
	{"the words are there and the kernel ignores them", raspberry.and(files{"boot/firmware/cmdline.txt": "cgroup_enable=memory", "proc/cmdline": "cgroup_disable=memory cgroup_enable=memory"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "cgroup_enable=memory is on the kernel's command line, and this kernel (6.1.0-28-amd64) ignores it: the memory cgroup is disabled, the kubelet cannot run without it: update the kernel and reboot, or use one with CONFIG_MEMCG"},
	}},
	{"no memory cgroup on an Armbian board", noMemory.and(files{"boot/armbianEnv.txt": "verbosity=1"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "the memory cgroup is disabled, the kubelet cannot run without it: boot with cgroup_enable=memory (extraargs=cgroup_enable=memory in /boot/armbianEnv.txt), or use a kernel with CONFIG_MEMCG"},
	}},
	{"systemd out of reach", files{"run/systemd/private": ""}, nil, CheckOptions{}, []wanted{
		{"cgroup driver", Warn, "systemd is the init of this machine and has no socket here, brink makes the control groups of pods beside it: run brink where /run/systemd/private or /run/dbus/system_bus_socket is"},
	}},
	{"cgroup v2 read-only", files{"proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 ro,nosuid,nodev 0 0\n"}, nil, CheckOptions{}, []wanted{
		{"cgroups writable", Fail, "control groups are mounted read-only, no pod could start: /sys/fs/cgroup: mount -o remount,bind,rw /sys/fs/cgroup and the like, or have the container's manager do so (privileged; for systemd-nspawn SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes)"},
	}},
	{"cgroup v1 read-only", cgroupV1.and(files{"proc/self/mounts": strings.Replace(cgroupV1["proc/self/mounts"], "pids cgroup rw", "pids cgroup ro", 1)}), nil, CheckOptions{}, []wanted{
		{"cgroups writable", Fail, "control groups are mounted read-only, no pod could start: /sys/fs/cgroup/pids: mount -o remount,bind,rw /sys/fs/cgroup/pids and the like, or have the container's manager do so (privileged; for systemd-nspawn SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes)"},
		{"cgroup version", Warn, v1Line},
	}},
	{"memory cgroup turned off", noMemory.and(files{"proc/cmdline": "ro cgroup_disable=memory quiet"}), nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "the memory cgroup is disabled, the kubelet cannot run without it: remove cgroup_disable=memory from the kernel command line in the boot loader and reboot"},
	}},
	{"no memory cgroup for another reason", noMemory, nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "the memory cgroup is disabled, the kubelet cannot run without it: boot with cgroup_enable=memory, or use a kernel with CONFIG_MEMCG"},
	}},
	{"no cgroups at all", files{"proc/self/mounts": "proc /proc proc rw 0 0\n"}, nil, CheckOptions{}, []wanted{
		{"memory cgroup", Fail, "no cgroup file system is mounted on /sys/fs/cgroup: mount cgroup2 on /sys/fs/cgroup"},
		{"cgroup controllers", Fail, "cgroup controllers are missing on /sys/fs/cgroup: cpu, cpuset, pids: use a kernel that has them and no cgroup_disable= that turns them off"},
	}},
	{"cgroup v1", cgroupV1, nil, CheckOptions{}, []wanted{{"cgroup version", Warn, v1Line}}},
	{"cgroup v1 with controllers not mounted", cgroupV1.and(files{
		"proc/self/mounts": "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n",
	}), nil, CheckOptions{}, []wanted{
		{"cgroup controllers", Fail, "cgroup controllers are missing on /sys/fs/cgroup: cpuset, pids, devices, freezer: use a kernel that has them and no cgroup_disable= that turns them off"},
		{"cgroup version", Warn, v1Line},
	}},
	{"an old kernel", files{
		"proc/sys/kernel/osrelease": "5.10.0-33-arm64", "boot/config-5.10.0-33-arm64": builtInConfig,
	}, nil, CheckOptions{}, []wanted{
		{"kernel", Fail, "the kernel 5.10.0-33-arm64 is older than 5.13, which services by nftables need: update the kernel"},
	}},
	{"no nft on Debian", files{"usr/sbin/nft": ""}, nil, CheckOptions{}, []wanted{
		{"nft", Fail, "the program nft is not installed, services need it: apt install nftables"},
	}},
	{"no nft on Raspberry Pi OS", files{"usr/sbin/nft": "", "etc/os-release": "ID=raspbian\nID_LIKE=debian\n"}, nil, CheckOptions{}, []wanted{
		{"nft", Fail, "the program nft is not installed, services need it: apt install nftables"},
	}},
	{"no nft on Rocky Linux", files{"usr/sbin/nft": "", "etc/os-release": "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"}, nil, CheckOptions{}, []wanted{
		{"nft", Fail, "the program nft is not installed, services need it: dnf install nftables"},
	}},
	{"no nft on Alpine", files{"usr/sbin/nft": "", "etc/os-release": "ID=alpine\n"}, nil, CheckOptions{}, []wanted{
		{"nft", Fail, "the program nft is not installed, services need it: apk add nftables"},
	}},
	{"no nft on an unknown system", files{"usr/sbin/nft": "", "etc/os-release": ""}, nil, CheckOptions{}, []wanted{
		{"nft", Fail, "the program nft is not installed, services need it: install the package nftables"},
	}},
	{"an old nft", nil, map[string]string{"nft --version": "nftables v0.9.8 (E.D.S.)"}, CheckOptions{}, []wanted{
		{"nft", Fail, "ROOT/usr/sbin/nft is version 0.9.8, too old for services: update the package nftables to 1.0.1 or later"},
	}},
	{"no nft, and brink has one", files{"usr/sbin/nft": ""}, nil, CheckOptions{NFT: "1.0.6"}, nil},
	{"an nft that does not run", nil, map[string]string{"nft --version": "!error while loading shared libraries: libnftables.so.1"}, CheckOptions{}, []wanted{
		{"nft", Fail, "ROOT/usr/sbin/nft does not tell its version: update the package nftables to 1.0.1 or later"},
	}},
	{"no /etc/protocols", files{"etc/protocols": ""}, nil, CheckOptions{}, []wanted{
		{"nft", Fail, "ROOT/usr/sbin/nft cannot name protocols without /etc/protocols, services break: apt install netbase"},
	}},
	{"no /etc/protocols, and brink has an nft", files{"etc/protocols": ""}, nil, CheckOptions{NFT: "1.0.6"}, nil},
	{"no /etc/hosts", files{"etc/hosts": ""}, nil, CheckOptions{}, nil},
	{"modules that do not load", files{bridgeNetfilter: ""}, map[string]string{
		"modprobe br_netfilter": "!modprobe: ERROR: could not insert 'br_netfilter': Operation not permitted\nmore",
	}, CheckOptions{}, []wanted{
		{"bridge netfilter", Fail, "the kernel module br_netfilter cannot be loaded (modprobe: ERROR: could not insert 'br_netfilter': Operation not permitted), it is needed for services between pods of one node: run modprobe br_netfilter outside of a container, or see what keeps it from loading"},
	}},
	{"no modprobe", files{bridgeNetfilter: ""}, map[string]string{"modprobe br_netfilter": "missing"}, CheckOptions{}, []wanted{
		{"bridge netfilter", Fail, "the kernel module br_netfilter cannot be loaded, it is needed for services between pods of one node, and modprobe is not installed: apt install kmod"},
	}},
	{"without pods nothing of theirs is needed", noModules.and(files{
		"proc/self/status":             "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nSeccomp:\t0\n",
		"proc/self/uid_map":            "0 100000 65536\n",
		"proc/self/mounts":             "proc /proc proc rw 0 0\n",
		"usr/sbin/nft":                 "",
		"boot/config-6.1.0-28-amd64":   "CONFIG_X=y\n",
		"proc/sys/net/ipv4/ip_forward": "",
		"proc/sys/kernel/osrelease":    "4.19.0",
		bridgeNetfilter:                "",
	}), nil, CheckOptions{ControlPlaneOnly: true, VXLAN: true}, nil},
	{"without pods the machine is looked at still", files{"proc/meminfo": "MemTotal: 262144 kB\n"}, nil, CheckOptions{ControlPlaneOnly: true, NodeName: "my_host"}, []wanted{
		{"memory", Warn, "this machine has 256 MiB of memory, of which brink takes 225 when idle and the system some 64: about 0 are left for pods: run only an agent here, which takes 98 MiB, or give it swap in compressed memory (zram)"},
		{"node name", Fail, "\"my_host\" cannot be the name of a node, only lower case letters, digits, - and . can be in it: rename the machine with hostnamectl, or give another name with --node-name"},
	}},
	{"features built in", noModules.and(files{"boot/config-6.1.0-28-amd64": builtInConfig}), nil, CheckOptions{VXLAN: true}, nil},
	{"the kernel carries its configuration", noModules.and(files{
		"proc/config.gz": gzipped("CONFIG_X=y\n" + strings.Replace(builtInConfig, "CONFIG_VXLAN=y", "# CONFIG_VXLAN is not set", 1)),
	}), nil, CheckOptions{VXLAN: true}, []wanted{
		{"vxlan", Warn, "the kernel 6.1.0-28-amd64 has no vxlan, it is needed for the pod network between nodes: use a kernel with CONFIG_VXLAN, or install the package with the kernel's extra modules"},
	}},
	{"a kernel without overlayfs", files{"lib/modules/6.1.0-28-amd64/modules.dep": strings.Replace(debian12["lib/modules/6.1.0-28-amd64/modules.dep"], "overlay.ko", "x.ko", 1)}, nil, CheckOptions{}, []wanted{
		{"overlayfs", Fail, "the kernel 6.1.0-28-amd64 has no overlay, it is needed for images: use a kernel with CONFIG_OVERLAY_FS, or install the package with the kernel's extra modules"},
	}},
	{"a kernel that says nothing about itself", noModules, nil, CheckOptions{VXLAN: true}, nil},
	{"modules that this container does not see", noModules.and(files{
		"boot/config-6.1.0-28-amd64": strings.ReplaceAll(builtInConfig, "=y", "=m"),
	}), nil, CheckOptions{VXLAN: true}, nil},
	{"forwarding that cannot be enabled", files{"proc/sys/net/ipv4/ip_forward": ""}, nil, CheckOptions{}, []wanted{
		{"ip forwarding", Fail, "IPv4 forwarding is off and /proc/sys/net/ipv4/ip_forward cannot be written (no such file or directory): set net.ipv4.ip_forward=1 on the machine, or let brink write to /proc/sys"},
	}},
	{"few inotify instances", files{"proc/sys/fs/inotify/max_user_instances": "64"}, nil, CheckOptions{}, []wanted{
		{"inotify", Warn, "the limit fs.inotify.max_user_instances is 64, pods will fail to watch files: put fs.inotify.max_user_instances=512 into /etc/sysctl.d/90-brink.conf and run sysctl --system"},
	}},
	{"little memory", files{"proc/meminfo": "MemTotal: 450000 kB\n", "proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\x00"}, nil, CheckOptions{}, []wanted{
		{"memory", Warn, "this machine has 439 MiB of memory, of which brink takes 225 when idle and the system some 64: about 150 are left for pods: run only an agent here, which takes 98 MiB, or give it swap in compressed memory (zram), and put gpu_mem=16 into config.txt if no screen is used"},
	}},
	{"enough for an agent", files{"proc/meminfo": "MemTotal: 262144 kB\n"}, nil, CheckOptions{Joins: true}, nil},
	{"little for an agent", files{"proc/meminfo": "MemTotal: 204800 kB\n"}, nil, CheckOptions{Joins: true}, []wanted{
		{"memory", Warn, "this machine has 200 MiB of memory, of which brink takes 98 when idle and the system some 64: about 38 are left for pods: give it swap in compressed memory (zram)"},
	}},
	{"512 MB less what the firmware keeps", files{"proc/meminfo": "MemTotal: 478208 kB\n"}, nil, CheckOptions{}, nil},
	{"a name that is none", nil, nil, CheckOptions{NodeName: "my_host"}, []wanted{
		{"node name", Fail, `"my_host" cannot be the name of a node, only lower case letters, digits, - and . can be in it: rename the machine with hostnamectl, or give another name with --node-name`},
	}},
}

func TestChecks(t *testing.T) {
	t.Parallel()
	for _, c := range machines {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			programs := modprobes()
			for command, out := range c.programs {
				programs[command] = out
			}
			m := build(t, debian12.and(c.changes), programs)
			facts, err := m.look()
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.want {
				c.want[i].line = strings.ReplaceAll(c.want[i].line, "ROOT", m.root)
			}
			checks := m.checks(facts, c.options)
			requireChecks(t, checks, c.want)
			requireFailed(t, Failed(checks), c.want)
		})
	}
}

// TestNetworkSettings: what is told of settings that are no problem.
func TestNetworkSettings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		changes files
		want    string
	}{
		{nil, "IPv4 off, brink will enable it where pods have it; IPv6 not there | pass the rules of services | cannot be told"},
		{files{"proc/sys/net/ipv4/ip_forward": "1\n", "proc/sys/net/ipv6/conf/all/forwarding": "0\n", bridgeNetfilter: "0\n", "proc/sys/net/ipv4/conf/all/rp_filter": "1\n"},
			"IPv4 enabled; IPv6 off, brink will enable it where pods have it | do not pass the rules of services, brink will change that | strict, brink makes it loose on its VXLAN device"},
		{files{bridgeNetfilter: "", "proc/sys/net/ipv4/conf/all/rp_filter": "0\n", "proc/sys/net/ipv4/conf/default/rp_filter": "1\n",
			"proc/sys/net/ipv4/conf/eth0/rp_filter": "1\n", "proc/sys/net/ipv4/conf/lo/rp_filter": "0\n"},
			"IPv4 off, brink will enable it where pods have it; IPv6 not there | no setting yet, brink loads br_netfilter | strict on eth0, brink makes it loose on its VXLAN device"},
		{files{"proc/sys/net/ipv4/conf/all/rp_filter": "2\n", "proc/sys/net/ipv4/conf/eth0/rp_filter": "1\n"}, // the greater of the two counts
			"IPv4 off, brink will enable it where pods have it; IPv6 not there | pass the rules of services | not strict"},
	} {
		m := build(t, debian12.and(tt.changes), modprobes())
		got := m.checkForwarding().Message + " | " + m.checkBridged().Message + " | " + m.checkReversePath().Message
		if got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func requireFailed(t *testing.T, err error, want []wanted) {
	t.Helper()
	var lines []string
	for _, w := range want {
		if w.result == Fail {
			lines = append(lines, w.line)
		}
	}
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != strings.Join(lines, "\n") {
		t.Errorf("the error is %q, want %q", got, lines)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	built := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	const says, fix = "the clock says 1970-01-01T00:01:00Z, which is before 2026-05-01T12:00:00Z: ", ": set it with date, and let systemd-timesyncd, chrony or a clock with battery keep it"
	maySet, old := Facts{Capabilities: 1 << CapSysTime}, time.Unix(60, 0)
	requireChecks(t, []Check{
		checkClock(built.Add(time.Second), CheckOptions{NotBefore: built}, Facts{}),
		checkClock(old, CheckOptions{NotBefore: built}, maySet),
		checkClock(old, CheckOptions{NotBefore: built}, Facts{}),
		checkClock(old, CheckOptions{NotBefore: built, Synchronized: true}, maySet),
	}, []wanted{
		{"clock", Warn, says + "a start waits a minute for a time server and then sets it" + fix},
		{"clock", Fail, says + "certificates would not be valid" + fix},
		{"clock", Fail, says + "certificates would not be valid" + fix},
	})
}

func TestNodeNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Result{
		"pi":                     OK,
		"shop-12.berlin.example": OK,
		"0":                      OK,
		"Pi":                     Fail,
		"my_host":                Fail,
		"-x":                     Fail,
		"x.":                     Fail,
		strings.Repeat("x", 63):  OK,
		strings.Repeat("x", 64):  Fail,
		"localhost":              Warn,
		"localhost.localdomain":  Warn,
	} {
		if c := checkNodeName(name); c.Result != want {
			t.Errorf("%s: %s, want %s", name, c.Result, want)
		}
	}
}
