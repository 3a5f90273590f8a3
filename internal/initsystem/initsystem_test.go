package initsystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/testtree"
)

// shown is what systemd 252 prints for `systemctl show --all -p ... *.service`.
const shown = `MainPID=0
ExecStart={ path=/usr/local/bin/brink ; argv[]=/usr/local/bin/brink server --tls-san a ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
EnvironmentFiles=/etc/default/brink (ignore_errors=yes)
EnvironmentFiles=/etc/systemd/system/brink.service.env (ignore_errors=yes)
Environment=
Id=brink.service

MainPID=0
ExecStop={ path=/usr/local/bin/brink ; argv[]=/usr/local/bin/brink stop --pods --timeout 10s ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=
Id=brink-pods.service

MainPID=71
ExecStart={ path=/opt/brink ; argv[]=/opt/brink agent --data-dir /srv/two ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=71 ; code=(null) ; status=0/0 }
Environment=A=b
Id=two.service

MainPID=72
ExecStart={ path=/bin/sh ; argv[]=/bin/sh -c exec /opt/b server ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=72 ; code=(null) ; status=0/0 }
Environment=
Id=kiosk.service

MainPID=73
ExecStart={ path=/usr/bin/brink-runner ; argv[]=/usr/bin/brink-runner server ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=73 ; code=(null) ; status=0/0 }
Environment=
Id=runner.service

MainPID=74
ExecStart={ path=/usr/local/bin/brink ; argv[]=/usr/local/bin/brink uninstall --yes ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=74 ; code=(null) ; status=0/0 }
Environment=
Id=remover.service
`

// usesIn takes the directory of a service from --data-dir and BRINK_DATA_DIR.
func usesIn(dir string) func(args, env []string) bool {
	return func(args, env []string) bool {
		has := "/var/lib/brink"
		for _, v := range env {
			if value, ok := strings.CutPrefix(v, "BRINK_DATA_DIR="); ok {
				has = value
			}
		}
		if i := slices.Index(args, "--data-dir"); i >= 0 {
			has = args[i+1]
		}
		return has == dir
	}
}

// build returns a machine with files, on which systemd says what is shown. calls are the
// other commands that ran.
func build(t *testing.T, files map[string]string) (m machine, calls *[]string) {
	t.Helper()
	calls = new([]string)
	run := func(_ context.Context, name string, args ...string) (string, error) {
		if name == "systemctl" && args[0] == "show" {
			return shown, nil
		}
		*calls = append(*calls, name+" "+strings.Join(args, " "))
		return "", nil
	}
	return machine{root: testtree.Make(t, files), run: run}, calls
}

func found(services []Service) []string {
	var out []string
	for _, s := range services {
		out = append(out, fmt.Sprintf("%s %s %v", s.Init, s.Name, s.IsDaemon))
	}
	return out
}

func TestFindSystemd(t *testing.T) {
	t.Parallel()
	const removed = "0::/system.slice/remover.service\n"
	self := fmt.Sprintf("proc/%d/cgroup", os.Getpid())
	for _, c := range []struct {
		name, dir, envFile string
		pid                int
		want               []string
	}{
		{"between two restarts", "/var/lib/brink", "", 0, []string{"systemd brink.service true", "systemd brink-pods.service false"}},
		{"by the unit's variables", "/srv/three", "# a comment\nBRINK_DATA_DIR=\"/srv/three\"\n", 0, []string{"systemd brink.service true"}},
		{"another node's", "/srv/two", "", 0, []string{"systemd two.service true"}},
		{"the main process of one with another program", "/srv/four", "", 72, []string{"systemd kiosk.service true"}},
		{"somewhere below a service", "/srv/four", "", 7373, nil},
		{"nobody's", "/srv/five", "", 0, nil},
	} {
		m, _ := build(t, map[string]string{"run/systemd/system/": "", "etc/default/brink": c.envFile, self: removed})
		got, err := m.find(t.Context(), Query{PID: c.pid, Uses: usesIn(c.dir)})
		if err != nil || !slices.Equal(found(got), c.want) {
			t.Errorf("%s: found %q (%v), want %q", c.name, found(got), err, c.want)
		}
	}
}

func TestFindSystemdFails(t *testing.T) {
	t.Parallel()
	m, _ := build(t, map[string]string{"run/systemd/system/": ""})
	m.run = func(context.Context, string, ...string) (string, error) { return "", errors.New("no bus") }
	if _, err := m.find(t.Context(), Query{Uses: usesIn("/var/lib/brink")}); err == nil {
		t.Error("a service may be there, and nobody would know")
	}
}

const initScript = `#!/sbin/openrc-run
supervisor=supervise-daemon
command="/usr/local/bin/brink"
command_args="server '--tls-san=a b'"
`

func TestFindOpenRC(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"run/openrc/": "", "etc/init.d/brink": initScript, "etc/init.d/sshd": "command=/usr/sbin/sshd\n",
		"etc/init.d/brink-pods": "command=\"/usr/local/bin/brink\"\ncommand_args=\"stop --pods\"\n",
		"etc/init.d/two":        "command=/opt/brink\ncommand_args=\"agent\"\n", "etc/conf.d/two": "export BRINK_DATA_DIR='/srv/two'\n",
		"etc/init.d/kiosk": "command=/opt/kiosk\n",
		"proc/70/comm":     "supervise-daemo\n", "proc/71/status": "Name:\tb\nPPid:\t70\nUid:\t0\n", "proc/71/environ": "RC_SVCNAME=kiosk\x00A=b\x00",
		"proc/80/comm": "sh\n", "proc/81/status": "Name:\tb\nPPid:\t80\nUid:\t0\n", "proc/81/environ": "RC_SVCNAME=sshd\x00",
	}
	for _, c := range []struct {
		name, dir string
		pid       int
		want      []string
	}{
		{"the machine's node", "/var/lib/brink", 0, []string{"openrc brink true", "openrc brink-pods false"}},
		{"by its conf.d", "/srv/two", 0, []string{"openrc two true"}},
		{"what the supervisor has started", "/srv/four", 71, []string{"openrc kiosk true"}},
		{"a shell of a service", "/srv/four", 81, nil},
		{"no such process", "/srv/four", 99, nil},
	} {
		m, _ := build(t, files)
		got, err := m.find(t.Context(), Query{PID: c.pid, Uses: usesIn(c.dir)})
		if err != nil || !slices.Equal(found(got), c.want) {
			t.Errorf("%s: found %q (%v), want %q", c.name, found(got), err, c.want)
		}
	}
}

func TestNoServiceManager(t *testing.T) {
	t.Parallel()
	m, _ := build(t, map[string]string{"etc/init.d/brink": initScript})
	if got, err := m.find(t.Context(), Query{Uses: usesIn("/var/lib/brink")}); len(got) > 0 || err != nil {
		t.Errorf("found %q (%v)", found(got), err)
	}
}

func TestStopAndDisable(t *testing.T) {
	t.Parallel()
	m, calls := build(t, map[string]string{"etc/runlevels/default/brink": "", "etc/runlevels/boot/brink": "", "etc/runlevels/default/sshd": ""})
	for _, s := range []Service{{Systemd, "brink.service", true}, {OpenRC, "brink", true}, {OpenRC, "never-added", true}} {
		if err := errors.Join(m.stop(t.Context(), s), m.disable(t.Context(), s)); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"systemctl stop brink.service", "systemctl disable --quiet brink.service",
		"rc-service brink stop", "rc-update --quiet del brink boot", "rc-update --quiet del brink default",
		"rc-service never-added stop",
	}
	if !slices.Equal(*calls, want) {
		t.Errorf("ran %q, want %q", *calls, want)
	}
}

func TestErrorHasTheCommandsWords(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "systemctl")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho 'no such unit' >&2\nexit 5\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := runCommand(t.Context(), path, "stop", "x")
	if err == nil || !strings.Contains(err.Error(), "stop x") || !strings.Contains(err.Error(), "no such unit") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestIsStopped(t *testing.T) {
	t.Parallel()
	m, _ := build(t, map[string]string{"run/openrc/started/brink": "", "run/openrc/stopping/": ""})
	for name, want := range map[string]bool{"brink": false, "other": true} {
		if got := m.isStopped(t.Context(), Service{OpenRC, name, true}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for said, want := range map[string]bool{
		"ActiveState=inactive\nRestart=always\n":         true,
		"ActiveState=inactive\nRestart=always\nJob=12\n": false,
		"ActiveState=inactive\nRestart=on-failure\n":     false,
		"ActiveState=activating\nRestart=always\n":       false,
		"ActiveState=failed\nRestart=always\n":           false,
	} {
		m.run = func(context.Context, string, ...string) (string, error) { return said, nil }
		if got := m.isStopped(t.Context(), Service{Systemd, "brink.service", true}); got != want {
			t.Errorf("%q: %v", said, got)
		}
	}
}
