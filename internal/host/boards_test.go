package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"brink/internal/testdisk"
)

// ports are those of a server that other machines need, and one that they do not.
var ports = []Port{{Number: 8472, UDP: true, Public: true}, {Number: 6443, Public: true}, {Number: 10256}}

// networkd are the files of a running systemd-networkd.
func networkd(changes files) files {
	return files{"proc/321/comm": "systemd-network\n", "run/systemd/netif/state": "x"}.and(changes)
}

const (
	takesDHCPCD   = "dhcpcd takes the links of pods, and may replace the default route when a pod starts: add the line denyinterfaces veth* brink* to /etc/dhcpcd.conf and restart it, as by: systemctl restart dhcpcd"
	networkdFix   = `: write /etc/systemd/network/05-brink.network with the four lines [Match], Name=veth* brink*, [Link], Unmanaged=yes, as by: printf '[Match]\nName=veth* brink*\n[Link]\nUnmanaged=yes\n' >/etc/systemd/network/05-brink.network && networkctl reload`
	legacyForward = "rules of iptables-legacy drop forwarded packets, pods may reach no other node and no outside: iptables-legacy -I FORWARD -s 10.42.0.0/16 -j ACCEPT && iptables-legacy -I FORWARD -d 10.42.0.0/16 -j ACCEPT, or remove its rules if nothing needs them"
	ufwFix        = "ufw allow 8472/udp && ufw allow 6443/tcp && ufw allow from 10.42.0.0/16 && ufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16"
)

var legacy = files{"proc/net/ip_tables_names": "nat\nfilter\n", "usr/sbin/iptables-legacy": "x"}

// boards are what people have on boards and hosts, and what they are told.
var boards = []struct {
	name     string
	changes  files
	programs map[string]string
	want     []wanted
}{
	{"swap on a card", files{"proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/mmcblk0p3 partition 102396 0 -2\n"}, nil, []wanted{
		{"swap", Warn, "swap is on a flash card (/dev/mmcblk0p3), which it wears out and which is too slow for it: use compressed memory instead: apt install zram-tools, and swapoff /dev/mmcblk0p3 (on Raspberry Pi OS before 13: systemctl disable --now dphys-swapfile)"},
	}},
	{"a swap file on a card", files{"proc/swaps": "Filename Type Size Used Priority\n/var/swap file 102396 0 -2\n", "proc/self/mounts": "/dev/mmcblk0p2 / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"}, nil, []wanted{
		{"swap", Warn, "swap is on a flash card (/var/swap), which it wears out and which is too slow for it: use compressed memory instead: apt install zram-tools, and swapoff /var/swap (on Raspberry Pi OS before 13: systemctl disable --now dphys-swapfile)"},
	}},
	{"swap in memory", files{"proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 102396 0 100\n"}, nil, nil},
	{"vxlan on Ubuntu on a Raspberry Pi", ubuntu(files{"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00"}), nil, []wanted{
		{"vxlan", Warn, "the kernel 6.1.0-28-amd64 has no vxlan, it is needed for the pod network between nodes: apt install linux-modules-extra-raspi"},
	}},
	{"vxlan on Ubuntu", ubuntu(nil), nil, []wanted{
		{"vxlan", Warn, "the kernel 6.1.0-28-amd64 has no vxlan, it is needed for the pod network between nodes: apt install linux-modules-extra-6.1.0-28-amd64"},
	}},
	{"vxlan on Fedora", ubuntu(files{"etc/os-release": "ID=fedora\n"}), nil, []wanted{
		{"vxlan", Warn, "the kernel 6.1.0-28-amd64 has no vxlan, it is needed for the pod network between nodes: dnf install kernel-modules-6.1.0-28-amd64"},
	}},
	{"the kernel was updated and not booted", files{
		"lib/modules/6.1.0-28-amd64/modules.builtin": "", "lib/modules/6.1.0-28-amd64/modules.dep": "", "lib/modules/6.1.0-31-amd64/modules.dep": "x",
	}, nil, []wanted{
		{"kernel", Warn, "the modules of the running kernel 6.1.0-28-amd64 are gone, as after an update: what is not loaded yet cannot be loaded: reboot"},
	}},
	{"firewalld that lets nothing in", files{"proc/99/comm": "firewalld\n"}, map[string]string{
		"firewall-cmd --get-default-zone": "public", "firewall-cmd --query-port=8472/udp": "!no", "firewall-cmd --query-port=6443/tcp": "!no",
		"firewall-cmd --zone=trusted --query-source=10.42.0.0/16": "!no",
	}, []wanted{{"firewalld", Warn, "firewalld keeps out 8472/udp, 6443/tcp, pods (10.42.0.0/16): firewall-cmd --permanent --add-port=8472/udp --add-port=6443/tcp && firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && firewall-cmd --reload"}}},
	{"firewalld that lets brink in", files{"proc/99/comm": "firewalld\n"}, map[string]string{
		"firewall-cmd --get-default-zone": "public", "firewall-cmd --query-port=8472/udp": "yes", "firewall-cmd --query-port=6443/tcp": "yes",
		"firewall-cmd --zone=trusted --query-source=10.42.0.0/16": "yes",
	}, nil},
	{"firewalld that trusts all", files{"proc/99/comm": "firewalld\n"}, map[string]string{"firewall-cmd --get-default-zone": "trusted"}, nil},
	{"ufw without rules", files{"etc/ufw/ufw.conf": "# x\nENABLED=yes\nLOGLEVEL=low\n", "etc/default/ufw": "DEFAULT_FORWARD_POLICY=\"DROP\"\n"}, nil, []wanted{
		{"ufw", Warn, "ufw keeps out 8472/udp, 6443/tcp, pods (10.42.0.0/16) to this machine, pods (10.42.0.0/16) to others: " + ufwFix},
	}},
	{"ufw with rules", files{"etc/ufw/ufw.conf": "ENABLED=yes\n", "etc/ufw/user.rules": "*filter\n" +
		"### tuple ### allow any 6443 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 6443 -j ACCEPT\n" +
		"### tuple ### allow udp 8472 0.0.0.0/0 any 192.168.1.0/24 in\n### tuple ### allow any any 0.0.0.0/0 any 10.42.0.0/16 in\n" +
		"### tuple ### route:allow any any 0.0.0.0/0 any 10.42.0.0/16 in\n"}, nil, nil},
	{"ufw that is off", files{"etc/ufw/ufw.conf": "ENABLED=no\n"}, nil, nil},
	{"legacy iptables that drop", legacy, map[string]string{"iptables-legacy -S FORWARD": "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER"}, []wanted{{"iptables-legacy", Warn, legacyForward}}},
	{"legacy iptables that let pods through", legacy, map[string]string{"iptables-legacy -S FORWARD": "-P FORWARD DROP\n-A FORWARD -s 10.42.0.0/16 -j ACCEPT"}, nil},
	{"legacy iptables whose tables the kernel has not loaded", legacy.and(files{"proc/net/ip_tables_names": ""}), nil, nil},
	{"NetworkManager", files{"proc/77/comm": "NetworkManager\n", "etc/NetworkManager/conf.d/x": "x"}, nil, nil},
	{"NetworkManager without a place for brink's file", files{"proc/77/comm": "NetworkManager\n"}, nil, []wanted{
		{"NetworkManager", Warn, "NetworkManager may take the links of pods, and brink cannot write to /etc/NetworkManager/conf.d (no such file or directory): put into a file there: [keyfile] and in the next line unmanaged-devices+=interface-name:veth*;interface-name:brink*"},
	}},
	{"dhcpcd", files{"proc/55/comm": "dhcpcd\n", "etc/dhcpcd.conf": "hostname\n# denyinterfaces veth* brink*\ndenyinterfaces veth*\n"}, nil, []wanted{{"dhcpcd", Warn, takesDHCPCD}}},
	{"dhcpcd that leaves pods alone", files{"proc/55/comm": "dhcpcd\n", "etc/dhcpcd.conf": "denyinterfaces veth*,brink0 brink*\n"}, nil, nil},
	{"dhcpcd of one link", files{"proc/55/comm": "dhcpcd\n", "etc/dhcpcd.conf": "allowinterfaces eth0\n"}, nil, nil},
	{"networkd that takes every link", networkd(files{"etc/systemd/network/10-all.network": "[Match]\nName=*\n[Network]\nDHCP=yes\n"}), nil, []wanted{
		{"systemd-networkd", Warn, "systemd-networkd takes the links of pods, by /etc/systemd/network/10-all.network" + networkdFix},
	}},
	{"networkd that takes all of Ethernet", networkd(files{"run/systemd/network/20-eth.network": "[Match]\nType=ether\n"}), nil, []wanted{
		{"systemd-networkd", Warn, "systemd-networkd takes the links of pods, by /run/systemd/network/20-eth.network" + networkdFix},
	}},
	{"networkd with brink's file before", networkd(files{
		"etc/systemd/network/10-all.network": "[Match]\nName=*\n", "etc/systemd/network/05-brink.network": "[Match]\nName=veth* brink*\n[Link]\nUnmanaged=yes\n",
	}), nil, nil},
	{"networkd with files for other links", networkd(files{
		"etc/systemd/network/10-host0.network": "[Match]\nName=host0 en*\n", "usr/lib/systemd/network/89-ethernet.network": "[Match]\nType=ether\nKind=!*\n",
		"lib/systemd/network/80-container-ve.network": "[Match]\nName=ve-*\nDriver=veth\n", "etc/systemd/network/empty.network": "",
	}), nil, nil},
	{"networkd that does not run", files{"etc/systemd/network/10-all.network": "[Match]\nName=*\n"}, nil, nil},
	{"k3s is installed", files{"usr/local/bin/k3s-uninstall.sh": "x", "var/lib/rancher/k3s/x": "x"}, nil, []wanted{
		{"other Kubernetes", Warn, "k3s is installed here, or was (/usr/local/bin/k3s-uninstall.sh): if it is not used any more: /usr/local/bin/k3s-uninstall.sh"},
	}},
	{"kubeadm was used", files{"etc/kubernetes/kubelet.conf": "x"}, nil, []wanted{
		{"other Kubernetes", Warn, "kubeadm is installed here, or was (/etc/kubernetes/kubelet.conf): if it is not used any more: kubeadm reset"},
	}},
	{"a link of flannel", files{"sys/class/net/flannel.1/x": "x"}, nil, []wanted{
		{"other Kubernetes", Warn, "the link flannel.1 of another Kubernetes is here: ip link delete flannel.1, or reboot, if nothing uses it"},
	}},
	{"AppArmor without its parser", files{"sys/module/apparmor/parameters/enabled": "Y\n", "sys/kernel/security/apparmor/profiles": "x"}, nil, []wanted{
		{"AppArmor", Warn, "AppArmor is on and apparmor_parser is not installed: containers run without a profile, and pods that ask for one do not start: apt install apparmor"},
	}},
	{"AppArmor", files{"sys/module/apparmor/parameters/enabled": "Y\n", "sys/kernel/security/apparmor/profiles": "x", "sbin/apparmor_parser": "x"}, nil, nil},
	{"SELinux enforcing", files{"sys/fs/selinux/enforce": "1"}, nil, []wanted{
		{"SELinux", Warn, "SELinux is enforcing and has no policy for containers: they run without labels, and may be kept from their files: dnf install container-selinux, or SELINUX=permissive in /etc/selinux/config and setenforce 0"},
	}},
	{"SELinux with a policy for containers", files{"sys/fs/selinux/enforce": "1", "usr/share/selinux/packages/container.pp.bz2": "x"}, nil, nil},
	{"SELinux permissive", files{"sys/fs/selinux/enforce": "0"}, nil, nil},
}

// ubuntu is Ubuntu with a kernel whose VXLAN is in another package.
func ubuntu(changes files) files {
	return noModules.and(files{
		"etc/os-release":                         "ID=ubuntu\nID_LIKE=debian\n",
		"lib/modules/6.1.0-28-amd64/modules.dep": "kernel/net/none.ko:\n",
		"boot/config-6.1.0-28-amd64":             strings.Replace(builtInConfig, "CONFIG_VXLAN=y", "# CONFIG_VXLAN is not set", 1),
	}).and(changes)
}

func TestBoards(t *testing.T) {
	t.Parallel()
	for _, c := range boards {
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
			o := CheckOptions{VXLAN: true, Ports: ports}
			checks := slices.DeleteFunc(m.checks(facts, o), func(c Check) bool { return strings.HasPrefix(c.Name, "port ") })
			requireChecks(t, checks, c.want)
		})
	}
}

// TestRunningElsewhere: a program in another network namespace does not manage this one's
// links.
func TestRunningElsewhere(t *testing.T) {
	t.Parallel()
	m := build(t, debian12.and(files{
		"proc/self/ns/net": "->net:[1]", "proc/11/comm": "dhcpcd\n", "proc/11/ns/net": "->net:[2]", "proc/12/comm": "dhcpcd\n", "proc/12/ns/net": "->net:[1]",
		"proc/13/comm": "dhcpcd-x\n",
	}), nil)
	if got := m.running("dhcpcd"); !slices.Equal(got, []string{"12"}) {
		t.Errorf("it runs as %v", got)
	}
}

// TestHostsFileThatCannotBeMade: root may write everywhere but to a read-only mount.
func TestHostsFileThatCannotBeMade(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	etc := testdisk.Mount(t, "tmpfs", syscall.MS_RDONLY, "")
	if err := os.Symlink(etc, filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	requireChecks(t, []Check{machine{root: root}.checkHosts()}, []wanted{
		{"hosts file", Fail, "there is no /etc/hosts, which every pod needs, and brink cannot make one (read-only file system): write 127.0.0.1 localhost into it"},
	})
}
