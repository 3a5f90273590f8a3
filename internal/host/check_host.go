package host

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"brink/internal/clock"
	"brink/internal/wire/nodeuser"
)

func checkRoot(f Facts) Check {
	const name = "root"
	if f.EffectiveUID != 0 {
		return fail(name, "run it with sudo or as a systemd service", "brink needs root to run containers, and runs as user %d", f.EffectiveUID)
	}
	return ok(name, "running as root")
}

// checkCapabilities detects containers and units that take rights from root.
func checkCapabilities(f Facts) Check {
	const name = "capabilities"
	for _, c := range []struct {
		number int
		name   string
	}{{CapSysAdmin, "CAP_SYS_ADMIN"}, {CapNetAdmin, "CAP_NET_ADMIN"}} {
		if !f.Capabilities.Has(c.number) && f.EffectiveUID == 0 {
			return fail(name, "run brink outside of containers or in a privileged one", "root has no %s here", c.name)
		}
	}
	if f.UserNamespace {
		return fail(name, "run brink outside of unprivileged containers", "user 0 here is not root of the machine but of a user namespace")
	}
	return ok(name, "root may mount and configure the network")
}

// minKernel is the version that kube-proxy in nftables mode requires.
var minKernel = [2]int{5, 13}

func (m machine) checkKernel(f Facts) Check {
	const name = "kernel"
	if older(version(f.Kernel), minKernel) {
		return fail(name, "update the kernel", "the kernel %s is older than %d.%d, which services by nftables need", f.Kernel, minKernel[0], minKernel[1])
	}
	others, _ := filepath.Glob(m.path("lib/modules/*/modules.dep"))
	if len(others) > 0 && !m.exists("lib/modules/"+f.Kernel) {
		return warn(name, "reboot", "the modules of the running kernel %s are gone, as after an update: what is not loaded yet cannot be loaded", f.Kernel)
	}
	return ok(name, "%s", f.Kernel)
}

var firstNumbers = regexp.MustCompile(`^(\d+)\.(\d+)`)

// version returns the first two numbers. For what cannot be read it returns numbers so
// high that every check passes.
func version(s string) [2]int {
	found := firstNumbers.FindStringSubmatch(s)
	if found == nil {
		return [2]int{1 << 16, 0}
	}
	major, _ := strconv.Atoi(found[1])
	minor, _ := strconv.Atoi(found[2])
	return [2]int{major, minor}
}

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// checkSeccomp warns where the kernel has no seccomp. containerd refuses a pod with a
// profile there, so such a node runs its pods without.
func checkSeccomp(f Facts) Check {
	const name = "seccomp"
	if !f.Seccomp {
		return warn(name, "use a kernel with CONFIG_SECCOMP_FILTER", "the kernel cannot filter system calls, pods run without a seccomp profile")
	}
	return ok(name, "pods get the profile RuntimeDefault")
}

// installHint returns the command that installs a package with the same name everywhere.
func installHint(distribution []string, name string) string {
	for _, id := range distribution {
		switch id {
		case "debian", "ubuntu", "raspbian":
			return "apt install " + name
		case "fedora", "rhel", "centos":
			return "dnf install " + name
		case "alpine":
			return "apk add " + name
		case "arch":
			return "pacman -S " + name
		case "suse", "opensuse":
			return "zypper install " + name
		}
	}
	return "install the package " + name
}

// checkForwarding requires IPv4: a cluster has IPv6 only if it is told to.
func (m machine) checkForwarding() Check {
	const name, file, file6 = "ip forwarding", "proc/sys/net/ipv4/ip_forward", "proc/sys/net/ipv6/conf/all/forwarding"
	state := func(file string) string {
		switch m.read(file) {
		case "1":
			return "enabled"
		case "":
			return "not there"
		}
		return "off, brink will enable it where pods have it"
	}
	if m.read(file) != "1" {
		if err := writable(m.path(file)); err != nil {
			return fail(name, "set net.ipv4.ip_forward=1 on the machine, or let brink write to /proc/sys",
				"IPv4 forwarding is off and /%s cannot be written (%v)", file, err)
		}
	}
	return ok(name, "IPv4 %s; IPv6 %s", state(file), state(file6))
}

// checkBridged requires that packets between pods of one node pass the rules of Services.
// Before the module is loaded there is no such setting.
func (m machine) checkBridged() Check {
	const name = "bridged packets"
	if !m.exists(bridgeNetfilter) {
		return ok(name, "no setting yet, brink loads br_netfilter")
	}
	if m.read(bridgeNetfilter) == "1" {
		return ok(name, "pass the rules of services")
	}
	if err := writable(m.path(bridgeNetfilter)); err != nil {
		return fail(name, "set net.bridge.bridge-nf-call-iptables=1 on the machine, or let brink write to /proc/sys",
			"services between pods of one node need /%s, which is off and cannot be written (%v)", bridgeNetfilter, err)
	}
	return ok(name, "do not pass the rules of services, brink will change that")
}

// checkReversePath reports how the kernel checks source addresses. The greater of a
// link's setting and that for all counts. Strict is no problem: pods answer through the
// link by which they are routed. Peers may not, in the tunnel while a cluster changes its
// backend: there brink makes the check loose.
func (m machine) checkReversePath() Check {
	const name, conf = "reverse path filter", "proc/sys/net/ipv4/conf"
	switch m.read(conf + "/all/rp_filter") {
	case "":
		return ok(name, "cannot be told")
	case "1":
		return ok(name, "strict, brink makes it loose on its VXLAN device")
	case "2":
		return ok(name, "not strict")
	}
	var strict []string
	links, _ := os.ReadDir(m.path(conf))
	for _, l := range links {
		if link := l.Name(); link != "all" && link != "default" && m.read(conf+"/"+link+"/rp_filter") == "1" {
			strict = append(strict, link)
		}
	}
	if len(strict) > 0 {
		return ok(name, "strict on %s, brink makes it loose on its VXLAN device", strings.Join(strict, ", "))
	}
	return ok(name, "not strict")
}

// The kernel's defaults for a user, on all but very small machines. The kubelet,
// containerd and most workloads watch files as root, from the same allowance.
const (
	minInotifyInstances = 128
	minInotifyWatches   = 8192
)

func (m machine) checkInotify() Check {
	const name = "inotify"
	for _, limit := range []struct {
		key string
		min int
		set int
	}{
		{"max_user_instances", minInotifyInstances, 512},
		{"max_user_watches", minInotifyWatches, 65536},
	} {
		have, err := strconv.Atoi(m.read("proc/sys/fs/inotify/" + limit.key))
		if err == nil && have < limit.min {
			return warn(name, fmt.Sprintf("put fs.inotify.%s=%d into /etc/sysctl.d/90-brink.conf and run sysctl --system", limit.key, limit.set),
				"the limit fs.inotify.%s is %d, pods will fail to watch files", limit.key, have)
		}
	}
	return ok(name, "limits are sufficient")
}

// ClockCheck is the name of the check of the clock.
const ClockCheck = "clock"

// checkClock detects boards without a battery. Until they reach a time server, their
// clock starts in 1970, or at the time when the power failed. A start waits for one and then
// sets the clock, unless it may not, or a time server has said that it is right.
func checkClock(now time.Time, o CheckOptions, f Facts) Check {
	const fix = "set it with date, and let systemd-timesyncd, chrony or a clock with battery keep it"
	told, passed := clock.Stamp(now), clock.Stamp(o.NotBefore)
	switch {
	case !now.Before(o.NotBefore):
		return ok(ClockCheck, "%s", told)
	case !o.Synchronized && f.Capabilities.Has(CapSysTime):
		return warn(ClockCheck, fix, "the clock says %s, which is before %s: a start waits a minute for a time server and then sets it", told, passed)
	}
	return fail(ClockCheck, fix, "the clock says %s, which is before %s: certificates would not be valid", told, passed)
}

func checkNodeName(node string) Check {
	const name, fix = "node name", "rename the machine with hostnamectl, or give another name with --node-name"
	switch {
	case !nodeuser.HasNodeNameForm(node):
		return fail(name, fix, "%q cannot be the name of a node, only lower case letters, digits, - and . can be in it", node)
	case len(node) > nodeuser.MaxNodeName:
		return fail(name, fix, "%q cannot be the name of a node, it is longer than %d bytes", node, nodeuser.MaxNodeName)
	case node == "localhost" || strings.HasPrefix(node, "localhost."):
		return warn(name, fix, "this machine is called %q, like any other that nobody has named: a second one could not join", node)
	}
	return ok(name, "%s", node)
}
