package host

import (
	"fmt"
	"testing"
)

func TestUnit(t *testing.T) {
	t.Parallel()
	const service, v1 = "0::/system.slice/brink.service\n", "3:memory:/x.service\n1:name=systemd:/system.slice/brink.service\n0::/\n"
	const killed = "brink.service has KillMode=%s, all pods end when it stops or restarts: put KillMode=process and Delegate=yes into its [Service] section and run systemctl daemon-reload"
	invoked := "PATH=/bin\x00INVOCATION_ID=0123\x00"
	for _, c := range []struct {
		name, cgroup, environ, show string
		want                        string // a warning
	}{
		{"not under systemd", "0::/\n", "PATH=/bin\x00", "", ""},
		{"a shell", "0::/user.slice/user-0.slice/session-3.scope\n", "PATH=/bin\x00", "", ""},
		{"a shell of a service", "0::/user.slice/user-0.slice/session-3.scope\n", invoked, "", ""},
		{"started by hand in a container", service, "PATH=/bin\x00", "", ""},
		{"default unit", service, invoked, "KillMode=control-group", fmt.Sprintf(killed, "control-group")},
		{"cgroup v1", v1, invoked, "KillMode=control-group", fmt.Sprintf(killed, "control-group")},
		{"the rest is killed", service, invoked, "KillMode=mixed", fmt.Sprintf(killed, "mixed")},
		{"below its group", "0::/system.slice/brink.service/init\n", invoked, "KillMode=control-group", fmt.Sprintf(killed, "control-group")},
		{"our unit", service, invoked, "KillMode=process", ""},
		{"no systemctl", service, invoked, "missing", ""},
		{"systemd does not answer", service, invoked, "!Failed to connect to bus", ""},
		{"a user's service", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/brink.service\n", invoked, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := build(t, files{"proc/4711/cgroup": c.cgroup, "proc/4711/environ": c.environ},
				map[string]string{"systemctl show -p KillMode brink.service": c.show})
			var want []wanted
			if c.want != "" {
				want = []wanted{{UnitCheck, Warn, c.want}}
			}
			requireChecks(t, []Check{m.checkUnit(4711)}, want)
		})
	}
}

// TestUnitOfNoBrink: where none runs, the unit that counts is an installed one, and not
// that of who asks.
func TestUnitOfNoBrink(t *testing.T) {
	t.Parallel()
	const line = "brink-agent.service has KillMode=control-group, all pods end when it stops or restarts: put KillMode=process and Delegate=yes into its [Service] section and run systemctl daemon-reload"
	for _, c := range []struct {
		name    string
		changes files
		want    []wanted
	}{
		{"none is installed", nil, nil},
		{"one is installed", files{"etc/systemd/system/brink-agent.service": "x"}, []wanted{{UnitCheck, Warn, line}}},
		{"one is installed and systemd does not run", files{"etc/systemd/system/brink-agent.service": "x", "run/systemd/system/x": ""}, nil},
	} {
		m := build(t, debian12.and(files{"proc/self/cgroup": "0::/system.slice/cloud-final.service\n", "proc/self/environ": "INVOCATION_ID=1\x00"}).and(c.changes),
			map[string]string{"systemctl show -p KillMode brink-agent.service": "KillMode=control-group"})
		t.Run(c.name, func(t *testing.T) { requireChecks(t, []Check{m.checkUnit(0)}, c.want) })
	}
}
