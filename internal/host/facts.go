// Package host inspects the machine: what brink has to adapt to (Look), and what keeps it
// from working (Checks, explained by Kinds). It changes nothing, except that Checks loads
// kernel modules that are there and not loaded. It reads /proc and /sys itself, without
// libraries, so that tests can give it trees of machines that nobody has at hand.
package host

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Facts describes the machine, without judging it.
type Facts struct {
	// Cgroup is the control group hierarchy in use.
	Cgroup Cgroup
	// Systemd is true where systemd is the init of this machine.
	Systemd bool
	// SystemdAnswers is true where a socket of systemd's is there, by which programs ask
	// it for control groups.
	SystemdAnswers bool
	// EffectiveUID of this process.
	EffectiveUID int
	// Capabilities is the effective set of this process.
	Capabilities Capabilities
	// UserNamespace is true where user 0 is not user 0 of the machine.
	UserNamespace bool
	// SELinux and AppArmor are true where the kernel enforces or logs by them now.
	// AppArmor also needs the program that loads a profile.
	SELinux, AppArmor bool
	// Seccomp is true where the kernel can filter system calls.
	Seccomp bool
	// Kernel is the release, as uname -r prints it.
	Kernel string
	// Arch is the GOARCH of this binary.
	Arch string
	// Memory is the total in bytes.
	Memory uint64
	// Tasks is how many processes and threads the kernel allows, 0 when that is not
	// known.
	Tasks uint64
	// NFT is the path of the program nft, empty when there is none.
	NFT string
	// NFTVersion is like "1.0.6", empty when it is not known.
	NFTVersion string
	// Protocols is true where /etc/protocols names TCP, as the host's nft needs.
	Protocols bool
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
	// Controllers are the controllers that can be used, like "memory".
	Controllers []string
	// ReadOnly are the mounts that cannot be written.
	ReadOnly []string
}

// Has reports whether controller can be used.
func (c Cgroup) Has(controller string) bool {
	for _, have := range c.Controllers {
		if have == controller {
			return true
		}
	}
	return false
}

// SystemdCgroup reports whether cgroups have to be made through systemd. On version 2
// systemd is the only writer of the tree and undoes what others do in it. On version 1 it
// leaves others' groups alone.
func (f Facts) SystemdCgroup() bool { return f.MakesSlices() && f.Cgroup.Version == 2 }

// MakesSlices reports whether cgroups can be made through systemd. A container may show
// the directory of the machine's systemd and no way to reach it.
func (f Facts) MakesSlices() bool { return f.Systemd && f.SystemdAnswers }

// Capabilities is a set of Linux capabilities, one bit each.
type Capabilities uint64

// The capabilities that make a difference to brink, from linux/capability.h.
const (
	CapNetAdmin    = 12
	CapSysAdmin    = 21
	CapSysResource = 24
	CapSysTime     = 25
)

// Has reports whether the capability with this number is in the set.
func (c Capabilities) Has(number int) bool { return c>>number&1 == 1 }

// Look reads the facts of this machine. An error means that /proc cannot be read. A fact
// that cannot be read has its zero value.
func Look() (Facts, error) { return thisMachine().look() }

// machine is the machine to inspect: the real one, or a tree of files in a test.
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

// read returns a file's content without surrounding space, empty when there is no file.
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
		Cgroup:  m.cgroup(),
		Systemd: m.exists("run/systemd/system"),
		// The second is for root alone, and is there without a D-Bus.
		SystemdAnswers: m.exists("run/dbus/system_bus_socket") || m.exists("run/systemd/private"),
		EffectiveUID:   effectiveUID(status["Uid"]),
		UserNamespace:  m.inUserNamespace(),
		SELinux:        m.exists("sys/fs/selinux/enforce"),
		AppArmor:       m.appArmor(),
		Seccomp:        status["Seccomp"] != "",
		Kernel:         m.read("proc/sys/kernel/osrelease"),
		Arch:           runtime.GOARCH,
		Memory:         kilobytes(memory["MemTotal"]),
		Tasks:          m.tasks(),
		NFT:            m.program("nft"),
		Protocols:      m.hasProtocols(),
		Model:          m.read("proc/device-tree/model"),
		Distribution:   m.distribution(),
	}
	caps, _ := strconv.ParseUint(status["CapEff"], 16, 64)
	f.Capabilities = Capabilities(caps)
	f.NFTVersion = m.nftVersion(f.NFT)
	return f, nil
}

// bridgeNetfilter says whether bridged packets pass netfilter's hooks, without which
// replies between pods of one node miss their address translation.
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

// effectiveUID returns the second of the four numbers after "Uid:".
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

// tasks returns the lower of two limits, as the kubelet does.
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

// inUserNamespace reports whether this is not the initial user namespace, the only one
// that maps all 32 bits of ids to themselves.
func (m machine) inUserNamespace() bool {
	ids := strings.Fields(m.read("proc/self/uid_map"))
	return len(ids) > 0 && strings.Join(ids, " ") != "0 0 4294967295"
}

func (m machine) appArmor() bool {
	return strings.HasPrefix(m.read("sys/module/apparmor/parameters/enabled"), "Y") &&
		m.exists("sys/kernel/security/apparmor") &&
		m.program("apparmor_parser") != ""
}

// cgroup reads the mounts, as the kubelet and runc do. Version 1 needs the mount, not only
// a controller in the kernel.
func (m machine) cgroup() Cgroup {
	var v1 Cgroup
	for line := range strings.Lines(m.read("proc/self/mounts")) {
		mount := strings.Fields(line)
		switch {
		case len(mount) < 4:
		case mount[1] == "/sys/fs/cgroup" && mount[2] == "cgroup2":
			return Cgroup{Version: 2, Controllers: strings.Fields(m.read("sys/fs/cgroup/cgroup.controllers")), ReadOnly: readOnly(mount)}
		case mount[2] == "cgroup" && strings.HasPrefix(mount[1], "/sys/fs/cgroup/"):
			v1.Version = 1
			controllers := m.controllersOf(mount[3])
			v1.Controllers = append(v1.Controllers, controllers...)
			if len(controllers) > 0 { // the others, such as systemd's own, brink does not use
				v1.ReadOnly = append(v1.ReadOnly, readOnly(mount)...)
			}
		}
	}
	return v1
}

// readOnly returns the directory of a mount if nobody may write there.
func readOnly(mount []string) []string {
	if slices.Contains(strings.Split(mount[3], ","), "ro") {
		return mount[1:2]
	}
	return nil
}

// controllersOf returns the controllers among the options of a version 1 mount.
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

// nftVersion returns the number in "nftables v1.0.6 (Lester Gooch #5)".
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
