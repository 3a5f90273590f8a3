package host

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// files of a made-up machine by path; "->" starts the target of a link.
type files map[string]string

// and returns a copy of f with changes; an empty content removes a file.
func (f files) and(changes files) files {
	out := files{}
	for path, content := range f {
		out[path] = content
	}
	for path, content := range changes {
		out[path] = content
		if content == "" {
			delete(out, path)
		}
	}
	return out
}

// build writes the files and returns the machine. Programs run as told: the
// output of the first command that starts with a key, an error for those that
// start with "!".
func build(t *testing.T, f files, programs map[string]string) machine {
	t.Helper()
	root := t.TempDir()
	for path, content := range f {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "->"); ok {
			if err := os.Symlink(target, full); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(full, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(_, name string, args ...string) (string, error) {
		command := strings.Join(append([]string{filepath.Base(name)}, args...), " ")
		out, known := programs[command]
		if !known {
			t.Errorf("unexpected command %q", command)
		}
		if out == "missing" {
			return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
		}
		if text, failed := strings.CutPrefix(out, "!"); failed {
			return text, errors.New("exit status 1")
		}
		return out, nil
	}
	return machine{root: root, run: run, bind: func(netip.Addr) error { return nil }}
}

const fullCapabilities = "000001ffffffffff"

// debian12 is a PC or board with a current Debian: what a node likes to see.
var debian12 = files{
	"etc/protocols":                              "# numbers\nip\t0\tIP\ntcp\t6\tTCP\n",
	"etc/hosts":                                  "127.0.0.1 localhost\n",
	"proc/self/status":                           "Name:\tbrink\nUid:\t0\t0\t0\t0\nCapEff:\t" + fullCapabilities + "\nSeccomp:\t0\n",
	"proc/self/uid_map":                          "         0          0 4294967295\n",
	"proc/self/mounts":                           "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0\n",
	"proc/meminfo":                               "MemTotal:        3882824 kB\nMemFree:         1000000 kB\nSwapTotal:        102396 kB\n",
	"proc/cmdline":                               "root=/dev/sda1 ro quiet\n",
	"proc/sys/kernel/osrelease":                  "6.1.0-28-amd64\n",
	"proc/sys/net/ipv4/ip_forward":               "0\n",
	bridgeNetfilter:                              "1\n",
	"proc/sys/fs/inotify/max_user_instances":     "128\n",
	"proc/sys/fs/inotify/max_user_watches":       "29711\n",
	"sys/fs/cgroup/cgroup.controllers":           "cpuset cpu io memory hugetlb pids rdma misc\n",
	"run/systemd/system/x":                       "x",
	"run/systemd/private":                        "x",
	"etc/os-release":                             "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nID=debian\n",
	"usr/sbin/nft":                               "x",
	"lib/modules/6.1.0-28-amd64/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
	"lib/modules/6.1.0-28-amd64/modules.dep": "kernel/fs/overlayfs/overlay.ko:\nkernel/drivers/net/veth.ko:\nkernel/net/bridge/bridge.ko: kernel/net/802/stp.ko\n" +
		"kernel/net/bridge/br_netfilter.ko: x\nkernel/net/netfilter/nf_tables.ko.xz: x\nkernel/net/netfilter/nft_chain_nat.ko:\nkernel/net/netfilter/nft_nat.ko:\n" +
		"kernel/net/netfilter/nft_ct.ko:\nkernel/net/netfilter/nft_numgen.ko:\nkernel/net/ipv4/netfilter/nft_fib_ipv4.ko:\nkernel/net/ipv4/netfilter/nft_reject_ipv4.ko:\n" +
		"kernel/net/netfilter/nft_masq.ko:\nkernel/drivers/net/vxlan/vxlan.ko: x\n",
}

// modprobes are the commands that load what debian12 has as modules.
func modprobes() map[string]string {
	out := map[string]string{"nft --version": "nftables v1.0.6 (Lester Gooch #5)"}
	for _, m := range []string{"overlay", "veth", "bridge", "br_netfilter", "nf_tables", "nft_nat", "nft_ct", "nft_numgen", "nft_fib_ipv4", "nft_reject_ipv4", "nft_masq", "vxlan"} {
		out["modprobe "+m] = ""
	}
	return out
}

// cgroupV1 is how Debian 10 and older mount them.
var cgroupV1 = files{
	"sys/fs/cgroup/cgroup.controllers": "",
	"proc/self/mounts": "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n" +
		"cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n" +
		"cgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\ncgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n" +
		"cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
	"proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ncpu\t1\t1\t1\ncpuacct\t2\t1\t1\nmemory\t4\t1\t1\ndevices\t5\t1\t1\nfreezer\t6\t1\t1\npids\t7\t1\t1\n",
}

// looks are trees of machines, and what the facts about each must be.
var looks = []struct {
	name  string
	files files
	want  func(t *testing.T, f Facts)
}{
	{"cgroup v2 with systemd", debian12, func(t *testing.T, f Facts) {
		if f.Cgroup.Version != 2 || !f.Cgroup.Has("memory") || !f.Systemd || !f.SystemdCgroup() {
			t.Errorf("%+v", f)
		}
		if f.Memory != 3882824<<10 {
			t.Errorf("memory %d", f.Memory)
		}
		if f.Kernel != "6.1.0-28-amd64" || f.NFTVersion != "1.0.6" || f.UserNamespace || f.EffectiveUID != 0 {
			t.Errorf("%+v", f)
		}
		if !f.Capabilities.Has(CapSysResource) || f.SELinux || f.AppArmor {
			t.Errorf("%+v", f)
		}
	}},
	{"cgroup v2 with another init", debian12.and(files{"run/systemd/system/x": ""}), func(t *testing.T, f Facts) {
		if f.Systemd || f.SystemdCgroup() {
			t.Errorf("%+v", f)
		}
	}},
	{"systemd with D-Bus only", debian12.and(files{"run/systemd/private": "", "run/dbus/system_bus_socket": "x"}), func(t *testing.T, f Facts) {
		if !f.SystemdCgroup() {
			t.Errorf("%+v", f)
		}
	}},
	{"systemd out of reach", debian12.and(files{"run/systemd/private": ""}), func(t *testing.T, f Facts) {
		if !f.Systemd || f.SystemdCgroup() || f.MakesSlices() {
			t.Errorf("%+v", f)
		}
	}},
	{"cgroup v1 and hybrid", debian12.and(cgroupV1), func(t *testing.T, f Facts) {
		want := []string{"memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer"}
		got := slices.Clone(f.Cgroup.Controllers)
		slices.Sort(want)
		slices.Sort(got)
		if f.Cgroup.Version != 1 || !slices.Equal(got, want) || f.SystemdCgroup() || !f.MakesSlices() {
			t.Errorf("%+v", f.Cgroup)
		}
	}},
	{"no cgroups", debian12.and(files{"proc/self/mounts": "proc /proc proc rw 0 0\n"}), func(t *testing.T, f Facts) {
		if f.Cgroup.Version != 0 || len(f.Cgroup.Controllers) != 0 {
			t.Errorf("%+v", f.Cgroup)
		}
	}},
	{"tasks", debian12.and(files{"proc/sys/kernel/pid_max": "4194304\n", "proc/sys/kernel/threads-max": "3900\n"}), func(t *testing.T, f Facts) {
		if f.Tasks != 3900 {
			t.Errorf("%d", f.Tasks)
		}
	}},
	{"a capability missing", debian12.and(files{"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\nSeccomp:\t0\n"}), func(t *testing.T, f Facts) {
		if f.Capabilities.Has(CapSysResource) || !f.Capabilities.Has(CapSysAdmin) {
			t.Errorf("%x", uint64(f.Capabilities))
		}
	}},
	{"a user namespace", debian12.and(files{"proc/self/uid_map": "0 100000 65536\n"}), func(t *testing.T, f Facts) {
		if !f.UserNamespace {
			t.Error("not noticed")
		}
	}},
	{"SELinux", debian12.and(files{"sys/fs/selinux/enforce": "1"}), func(t *testing.T, f Facts) {
		if !f.SELinux {
			t.Error("not noticed")
		}
	}},
	{"AppArmor", debian12.and(files{
		"sys/module/apparmor/parameters/enabled": "Y\n", "sys/kernel/security/apparmor/profiles": "x", "sbin/apparmor_parser": "x",
	}), func(t *testing.T, f Facts) {
		if !f.AppArmor {
			t.Error("not noticed")
		}
	}},
	{"AppArmor without the program to load profiles", debian12.and(files{
		"sys/module/apparmor/parameters/enabled": "Y\n", "sys/kernel/security/apparmor/profiles": "x",
	}), func(t *testing.T, f Facts) {
		if f.AppArmor {
			t.Error("containers would fail to start")
		}
	}},
	{"a board", debian12.and(files{"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00", "usr/sbin/nft": ""}), func(t *testing.T, f Facts) {
		if f.Model != "Raspberry Pi 4 Model B Rev 1.4" || f.NFT != "" || f.NFTVersion != "" {
			t.Errorf("%+v", f)
		}
	}},
}

func TestLook(t *testing.T) {
	t.Parallel()
	for _, c := range looks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, err := build(t, c.files, modprobes()).look()
			if err != nil {
				t.Fatal(err)
			}
			c.want(t, f)
		})
	}
}

func TestLookWithoutProc(t *testing.T) {
	t.Parallel()
	if _, err := build(t, files{}, nil).look(); err == nil || !strings.Contains(err.Error(), "mount proc") {
		t.Errorf("error is %v", err)
	}
}

func TestLookAtThisMachine(t *testing.T) {
	t.Parallel()
	f, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	if f.Kernel != string(release) {
		t.Errorf("kernel is %q, uname says %q", f.Kernel, release)
	}
	if f.EffectiveUID != os.Geteuid() || f.Memory == 0 {
		t.Errorf("%+v", f)
	}
}
