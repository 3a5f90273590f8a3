package host

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// UnitCheck is the name of the check of the systemd unit that brink runs in.
const UnitCheck = "systemd unit"

// checkUnit checks what systemd does to pods when it stops brink's service. Their shims
// are children of brink and in its control group, which systemd kills as a whole unless it
// is told otherwise. pid is that of a running brink, or 0: then the unit is an installed
// one. That of this process may be an installer's or cloud-init's.
func (m machine) checkUnit(pid int) Check {
	unit := ""
	if pid != 0 {
		unit = m.unitOf(pid)
	} else {
		unit = m.installedUnit()
	}
	if unit == "" {
		return ok(UnitCheck, "brink is not a service of systemd here")
	}
	// A missing systemctl, or one that cannot ask systemd, is no reason to warn.
	out, err := m.run("", "systemctl", "show", "-p", "KillMode", unit)
	mode, isMode := strings.CutPrefix(strings.TrimSpace(out), "KillMode=")
	switch {
	case err != nil || !isMode:
		return ok(UnitCheck, "%s, of which nothing can be told", unit)
	case slices.Contains([]string{"process", "none"}, mode):
		return ok(UnitCheck, "%s leaves pods running when it stops", unit)
	}
	return warn(UnitCheck, "put KillMode=process and Delegate=yes into its [Service] section and run systemctl daemon-reload",
		"%s has KillMode=%s, all pods end when it stops or restarts", unit, mode)
}

// installedUnit returns the name of brink's unit, empty if it has none or systemd does not
// run.
func (m machine) installedUnit() string {
	if !m.exists("run/systemd/system") {
		return ""
	}
	for _, unit := range []string{"brink.service", "brink-agent.service"} {
		for _, dir := range []string{"etc", "usr/lib", "lib"} {
			if m.exists(dir + "/systemd/system/" + unit) {
				return unit
			}
		}
	}
	return ""
}

// unitOf returns the system service that a process is part of. A process that one has
// only started, such as a shell of sshd, is in a scope.
func (m machine) unitOf(pid int) string {
	proc := fmt.Sprintf("proc/%d/", pid)
	if !slices.ContainsFunc(strings.Split(m.read(proc+"environ"), "\x00"), isInvocation) {
		return ""
	}
	for line := range strings.Lines(m.read(proc + "cgroup")) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		if controllers != "" && controllers != "name=systemd" || strings.Contains(group, "/user@") {
			continue
		}
		for ; len(group) > 1; group = path.Dir(group) {
			if name := path.Base(group); strings.HasSuffix(name, ".service") {
				return name
			}
		}
	}
	return ""
}

// isInvocation reports whether a variable is the one that systemd sets for every service.
func isInvocation(variable string) bool { return strings.HasPrefix(variable, "INVOCATION_ID=") }
