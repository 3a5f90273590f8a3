package guest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brink/e2e/machine"
)

// asked are what is looked at from inside of the guest: a kind, and a command that
// writes a line for each thing, its name first.
var asked = []struct{ kind, command string }{
	// What a network namespace has of its own, and what kubelets set for all.
	{"sysctl", `sysctl -a 2>/dev/null | grep -E '^(net\.|vm\.overcommit_memory|vm\.panic_on_oom|kernel\.panic|kernel\.keys)'`},
	{"mount", `while read -r _ _ _ _ point options rest; do echo "$point $options ${rest#*- }"; done </proc/1/mountinfo`},
	{"unit", `if [ -d /run/systemd/system ]; then systemctl list-unit-files --no-legend --no-pager | while read -r name state _; do echo "$name $state"; done; fi`},
	{"failed", `if [ -d /run/systemd/system ]; then systemctl list-units --failed --plain --no-legend --no-pager | cut -d' ' -f1; fi`},
}

// passing are entries that come and go by themselves: counters, what belongs to a link
// that is told of by itself, and what systemd mounts for a moment.
var passing = []string{
	"sysctl net.netfilter.nf_conntrack_count", "sysctl net.ipv4.tcp_ehash_entries", "mount /run/credentials/", "mount /run/user/",
}

// lookAtKernel adds links, routes, nft's rules and what asked says. The rules are read
// by this machine's nft: the guest may have none.
func (g *Guest) lookAtKernel(s Snapshot) error {
	for _, ask := range asked {
		r := g.TrySh(ask.command)
		s.addLines(ask.kind, r.Stdout)
	}
	if err := g.awaitAddresses(); err != nil {
		return err
	}
	for _, outer := range [][]string{
		{"link", "ip", "-br", "link"}, {"route", "ip", "-4", "route", "show", "table", "all"}, {"route6", "ip", "-6", "route", "show", "table", "all"},
		{"rule", "ip", "rule"}, {"nft", "nft", "list", "ruleset"},
	} {
		out, err := g.inNetwork(outer[1:]...)
		if err != nil {
			return err
		}
		s.addLines(outer[0], out)
	}
	for name := range s {
		if isIgnored(name, passing) || strings.HasPrefix(name, "sysctl net.ipv") && strings.Contains(name, ".conf.") && ofLink(name) {
			delete(s, name)
		}
	}
	return nil
}

// awaitAddresses waits until the guest's links have their IPv6 addresses: one that is still
// tried, which takes a second or two, has no route yet.
func (g *Guest) awaitAddresses() error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out, err := g.inNetwork("ip", "-6", "addr", "show", "tentative")
		if err != nil || out == "" || time.Now().After(deadline) {
			return err
		}
	}
}

// inNetwork runs a program of this machine in the guest's network.
func (g *Guest) inNetwork(argv ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(g.leader) + "/ns/net", "--"}, argv...)...).Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w", argv, err)
	}
	return string(out), nil
}

// ofLink reports whether a setting is that of one link.
func ofLink(sysctl string) bool {
	return !strings.Contains(sysctl, ".conf.all.") && !strings.Contains(sysctl, ".conf.default.")
}

// addLines adds a line each, named by its first word where these differ.
func (s Snapshot) addLines(kind, text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
		case slices.Contains([]string{"sysctl", "mount", "unit"}, kind):
			s[kind+" "+name] = rest
		case kind == "link": // a link's index and its peer's change with each boot
			name, _, _ = strings.Cut(name, "@")
			s["link "+name] = ""
		default:
			s[kind+" "+line] = ""
		}
	}
}

// passingProcesses are of systemd and start when something asks for them.
var passingProcesses = []string{"(udev-worker)", "(sd-pam)", "systemd-userwork", "(sd-", "/lib/systemd/systemd-hostnamed", "/lib/systemd/systemd-timedated"}

// lookAtProcesses adds the guest's processes and the cgroups that no unit has.
func (g *Guest) lookAtProcesses(s Snapshot) error {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", g.leader))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !isBelow(pid, namespace) {
			continue
		}
		command := machine.CommandLine(pid)
		if command != "" && !slices.ContainsFunc(passingProcesses, func(p string) bool { return strings.HasPrefix(command, p) }) {
			s["process "+command] += "."
		}
	}
	return g.lookAtCgroups(s)
}

// isBelow reports whether a process belongs to a namespace of processes.
func isBelow(pid int, namespace string) bool {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return err == nil && own == namespace
}

func (g *Guest) lookAtCgroups(s Snapshot) error {
	dirs, err := filepath.Glob(filepath.Join(machine.CgroupFS, "*", g.id))
	if err != nil {
		return err
	}
	for _, top := range dirs {
		err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || file == top {
				return nil
			}
			switch name := d.Name(); {
			case slices.Contains([]string{".service", ".scope", ".socket", ".mount", ".swap", ".device"}, filepath.Ext(name)):
				return fs.SkipDir // a unit's, which is looked at as such
			case name == "payload" || name == "guest.command" || name == "system.slice" || name == "user.slice" || strings.HasPrefix(name, "user-"):
			default:
				s["cgroup "+strings.TrimPrefix(file, machine.CgroupFS+"/")] = ""
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
