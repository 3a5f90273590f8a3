// Package host looks at the machine: what brink has to adapt to (Look) and what
// keeps it from working (Checks). It changes nothing except that Checks loads a
// kernel module that is there and not loaded. It reads /proc and /sys by itself,
// without libraries, so that the tests can hand it made-up trees of machines
// that nobody has at hand.
package host

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Facts is what the machine is like. Nothing in it is a judgement.
type Facts struct {
	// Cgroup is the control group hierarchy in use.
	Cgroup Cgroup
	// Systemd tells whether systemd is the init of this machine.
	Systemd bool
	// EffectiveUID of this process.
	EffectiveUID int
	// Capabilities is the effective set of this process.
	Capabilities Capabilities
	// UserNamespace tells that user 0 here is not user 0 of the machine.
	UserNamespace bool
	// SELinux and AppArmor tell that the kernel enforces or logs by them now
	// and, for AppArmor, that the program to load a profile is there.
	SELinux, AppArmor bool
	// Seccomp tells that the kernel filters system calls.
	Seccomp bool
	// Kernel is the release, as uname -r prints it.
	Kernel string
	// Arch is the GOARCH of this binary.
	Arch string
	// Memory and Swap are totals in bytes.
	Memory, Swap uint64
	// Tasks is how many processes and threads the kernel lets there be, 0 when it
	// cannot be told.
	Tasks uint64
	// NFT is the path of the nft program, empty when there is none.
	NFT string
	// NFTVersion is like "1.0.6", empty when it cannot be told.
	NFTVersion string
	// BridgeNetfilter tells that bridged packets pass netfilter hooks, without
	// which replies between pods of one node miss their address translation.
	BridgeNetfilter bool
	// Model is what a board calls itself, like "Raspberry Pi 4 Model B Rev 1.4".
	Model string
	// Distribution is ID and ID_LIKE of os-release, most specific first.
	Distribution []string
}

// Cgroup describes the hierarchies on /sys/fs/cgroup.
type Cgroup struct {
	// Version is 1 or 2; 0 when none is mounted. A hybrid is 1: its unified
	// hierarchy has no controllers.
	Version int
	// Controllers are those that can be used, like "memory".
	Controllers []string
}

// Has tells whether controller can be used.
func (c Cgroup) Has(controller string) bool {
	for _, have := range c.Controllers {
		if have == controller {
			return true
		}
	}
	return false
}

// SystemdCgroup tells whether cgroups are to be made through systemd. On
// version 2 systemd is the single writer of the tree and undoes what others do
// in it; on version 1 it leaves others' groups alone.
func (f Facts) SystemdCgroup() bool { return f.Systemd && f.Cgroup.Version == 2 }

// Capabilities is a set of Linux capabilities, a bit for each.
type Capabilities uint64

// The capabilities that make a difference to brink, from linux/capability.h.
const (
	CapNetAdmin    = 12
	CapSysAdmin    = 21
	CapSysResource = 24
)

// Has tells whether the capability with this number is in the set.
func (c Capabilities) Has(number int) bool { return c>>number&1 == 1 }

// Look reads the facts of this machine. An error means that /proc cannot be
// read; a fact that cannot be found out has its zero value.
func Look() (Facts, error) { return thisMachine().look() }

// machine is where to look: at the real one, or at a tree in a test.
type machine struct {
	root string
	// run executes a program of the machine and returns its output.
	run func(stdin, name string, args ...string) (string, error)
	// bind listens on an address for a moment.
	bind func(netip.Addr) error
}

func thisMachine() machine { return machine{root: "/", run: execute, bind: bind} }

func execute(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m machine) path(name string) string { return filepath.Join(m.root, name) }

// read returns a file without surrounding space, empty when there is none.
// Files of the device tree end in a zero byte.
func (m machine) read(name string) string {
	b, _ := os.ReadFile(m.path(name))
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}

func (m machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

func (m machine) look() (Facts, error) {
	status := m.fields("proc/self/status")
	if len(status) == 0 {
		return Facts{}, fmt.Errorf("looking at the host: /proc/self/status cannot be read: mount proc on /proc")
	}
	memory := m.fields("proc/meminfo")
	f := Facts{
		Cgroup:          m.cgroup(),
		Systemd:         m.exists("run/systemd/system"),
		EffectiveUID:    effectiveUID(status["Uid"]),
		UserNamespace:   m.inUserNamespace(),
		SELinux:         m.exists("sys/fs/selinux/enforce"),
		AppArmor:        m.appArmor(),
		Seccomp:         status["Seccomp"] != "",
		Kernel:          m.read("proc/sys/kernel/osrelease"),
		Arch:            runtime.GOARCH,
		Memory:          kilobytes(memory["MemTotal"]),
		Swap:            kilobytes(memory["SwapTotal"]),
		Tasks:           m.tasks(),
		NFT:             m.program("nft"),
		BridgeNetfilter: m.exists(bridgeNetfilter),
		Model:           m.read("proc/device-tree/model"),
		Distribution:    m.distribution(),
	}
	caps, _ := strconv.ParseUint(status["CapEff"], 16, 64)
	f.Capabilities = Capabilities(caps)
	f.NFTVersion = m.nftVersion(f.NFT)
	return f, nil
}

const bridgeNetfilter = "proc/sys/net/bridge/bridge-nf-call-iptables"

// fields reads a file of lines "key: value".
func (m machine) fields(name string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(m.read(name)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			out[key] = strings.TrimSpace(value)
		}
	}
	return out
}

// effectiveUID is the second of the four numbers that follow Uid.
func effectiveUID(value string) int {
	if ids := strings.Fields(value); len(ids) == 4 {
		if uid, err := strconv.Atoi(ids[1]); err == nil {
			return uid
		}
	}
	return -1
}

func kilobytes(value string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 64)
	return n << 10
}

// tasks is the lower of two limits, as for the kubelet.
func (m machine) tasks() uint64 {
	var least uint64
	for _, name := range []string{"pid_max", "threads-max"} {
		n, err := strconv.ParseUint(m.read("proc/sys/kernel/"+name), 10, 64)
		if err == nil && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// inUserNamespace compares with the map of the initial namespace, which is the
// only one that maps all 32 bits of ids to themselves.
func (m machine) inUserNamespace() bool {
	ids := strings.Fields(m.read("proc/self/uid_map"))
	return len(ids) > 0 && strings.Join(ids, " ") != "0 0 4294967295"
}

func (m machine) appArmor() bool {
	return strings.HasPrefix(m.read("sys/module/apparmor/parameters/enabled"), "Y") &&
		m.exists("sys/kernel/security/apparmor") &&
		m.program("apparmor_parser") != ""
}

// cgroup finds out by the mounts, as the kubelet and runc do. Version 1 needs
// the mount, not only a controller in the kernel.
func (m machine) cgroup() Cgroup {
	var v1 Cgroup
	for line := range strings.Lines(m.read("proc/self/mounts")) {
		mount := strings.Fields(line)
		switch {
		case len(mount) < 4:
		case mount[1] == "/sys/fs/cgroup" && mount[2] == "cgroup2":
			return Cgroup{Version: 2, Controllers: strings.Fields(m.read("sys/fs/cgroup/cgroup.controllers"))}
		case mount[2] == "cgroup" && strings.HasPrefix(mount[1], "/sys/fs/cgroup/"):
			v1.Version = 1
			v1.Controllers = append(v1.Controllers, m.controllersOf(mount[3])...)
		}
	}
	return v1
}

// controllersOf picks the controllers from the options of a version 1 mount.
func (m machine) controllersOf(options string) []string {
	var out []string
	for line := range strings.Lines(m.read("proc/cgroups")) {
		name, _, _ := strings.Cut(line, "\t")
		for option := range strings.SplitSeq(options, ",") {
			if option == name {
				out = append(out, name)
			}
		}
	}
	return out
}

// ProgramDirs are where distributions put modprobe, nft and mount, in the order in which
// a service manager searches them.
var ProgramDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// program returns the path of a program. It looks where a service manager would, also
// when brink was started from a shell whose path has no sbin.
func (m machine) program(name string) string {
	for _, dir := range ProgramDirs {
		path := m.path(filepath.Join(dir, name))
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// nftVersion takes the number from "nftables v1.0.6 (Lester Gooch #5)".
func (m machine) nftVersion(nft string) string {
	if nft == "" {
		return ""
	}
	out, err := m.run("", nft, "--version")
	if err != nil {
		return ""
	}
	_, version, _ := strings.Cut(out, " v")
	version, _, _ = strings.Cut(version, " ")
	return version
}

func (m machine) distribution() []string {
	var id, like []string
	for line := range strings.Lines(m.read("etc/os-release")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			id = []string{value}
		case "ID_LIKE":
			like = strings.Fields(value)
		}
	}
	return append(id, like...)
}
